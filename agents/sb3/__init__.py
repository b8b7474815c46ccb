"""Stable-Baselines3's A2C and PPO behind the protocol of agents."""
