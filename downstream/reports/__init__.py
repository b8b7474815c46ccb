"""Pages that show runs and experiments."""
