"""Pretraining: an agent and a U-Net learn side by side; settings, loop, measurements, run directory."""
