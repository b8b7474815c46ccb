"""Stable-Baselines3's PPO."""

from typing import Any

from stable_baselines3 import PPO

from agents.sb3.agent import SB3Agent
from agents.sb3.settings import PPOSettings
from ahm_env import SettingsError


class PPOAgent(SB3Agent):
    """Stable-Baselines3's PPO (Schulman et al., 2017)."""

    name = "ppo"
    algorithm = PPO
    settings_class = PPOSettings
    settings: PPOSettings

    def _own_settings(self, images: int) -> dict[str, Any]:
        settings = self.settings
        minibatch = settings.n_steps * images // settings.minibatches
        if minibatch < 2:
            raise SettingsError("ppo needs 2 images or more a minibatch; raise --batch-size")
        clip = {"clip_range": settings.clip_range, "target_kl": settings.target_kl}
        return {"batch_size": minibatch, "n_epochs": settings.n_epochs, **clip}
