"""Folders of PNG, JPEG, TIFF, BMP and GIF files."""
