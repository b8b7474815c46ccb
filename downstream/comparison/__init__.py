"""Experiments: agents and ways of fine-tuning compared on equal terms, with intervals."""
