"""Measurements and experiments. `python -m benchmarks` prints ratios, each taken within one run, as a table."""
