"""Drawn images for trying everything offline."""
