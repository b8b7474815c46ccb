"""Stable-Baselines3's A2C."""

from typing import Any, ClassVar

import torch
from stable_baselines3 import A2C

from agents.sb3.agent import SB3Agent
from agents.sb3.settings import A2CSettings
from ahm_env import SettingsError


class A2CAgent(SB3Agent):
    """Stable-Baselines3's A2C (Mnih et al., ICML 2016, without the asynchrony)."""

    name = "a2c"
    algorithm = A2C
    optimiser: ClassVar = {
        "optimizer_class": torch.optim.RMSprop,
        "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0},
    }
    settings_class = A2CSettings
    settings: A2CSettings

    def _own_settings(self, images: int) -> dict[str, Any]:
        settings = self.settings
        if settings.normalize_advantage and settings.image_weight and settings.n_steps * images < 2:
            raise SettingsError("a2c needs 2 images or more an update to normalise advantages; raise --batch-size")
        return {}
