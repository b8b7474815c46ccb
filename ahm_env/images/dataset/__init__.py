"""A set of images, decoded once and memory-mapped: its cache, splits and patients."""
