"""Segment Anything as an annotator."""
