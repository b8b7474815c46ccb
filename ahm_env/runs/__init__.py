"""Output directories of runs: settings, metrics, checkpoints, and how a run is begun or resumed."""
