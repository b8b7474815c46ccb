"""Images for the masking problem: sources of all formats, decoded once, memory-mapped, checked and imported."""
