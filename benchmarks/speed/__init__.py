"""Seconds, images a second and memory, measured as ratios in one run."""
