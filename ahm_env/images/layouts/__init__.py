"""How sets lie on disk that people download: which files are images, and whose are the masks."""
