"""Pixels of any depth as the masking problem sees them, and back into files."""
