"""Sets as people download them: which of their files are images, and which their masks."""
