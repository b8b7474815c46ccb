"""Measured ratios, each within one run of this machine. `python -m benchmarks` prints them as a table."""
