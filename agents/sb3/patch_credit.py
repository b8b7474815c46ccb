"""Credit for each patch, in Stable-Baselines3: advantages and log-probabilities of every bit of a mask.

SB3's losses are means over the numbers that they are given, whether there is one a mask or one a bit: the ratio of PPO,
and its clip, are then those of a bit.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.buffers import RolloutBuffer

from agents.agent import Infos
from agents.sb3.settings import WHOLE, SB3Settings
from ahm_env.errors import SettingsError
from ahm_env.masks import mean_over


class PatchRolloutBuffer(RolloutBuffer):
    """A rollout whose advantages and log-probabilities are `(steps, B, N)`.

    A bit's advantage is that of the image, which all bits share, and that of the patch which it hid, if it did.

    Args:
        infos: Returns what the environment said in the last step.
        settings: Weights of the two.
    """

    def __init__(self, *args: Any, infos: Callable[[], Infos], settings: SB3Settings, **kwargs: Any) -> None:
        self._infos, self._settings, self._chosen_before = infos, settings, np.zeros(1, bool)
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Begin a rollout."""
        super().reset()
        self.log_probs = np.zeros(self.actions.shape, np.float32)
        self._own = np.zeros_like(self.log_probs)
        self._began = 0  # where in the rollout the episodes did

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Take in a step; at the end of an episode its steps are credited with what each of them chose."""
        infos, step = self._infos(), self.pos
        super().add(*args, **kwargs)
        ended = "final_info" in infos
        last = infos["final_info"] if ended else infos
        chosen = last["chosen"].reshape(self.n_envs, -1)
        self._own[step] = chosen & ~self._chosen_before
        self._chosen_before = chosen & (not ended)
        if ended:
            self._own[self._began : self.pos] *= own_advantage(last)
            self._began = self.pos

    def compute_returns_and_advantage(self, *args: Any, **kwargs: Any) -> None:
        """End a rollout.

        Raises:
            SettingsError: Episodes go on after it: what their masks cost is not known yet.
        """
        super().compute_returns_and_advantage(*args, **kwargs)
        if self._began < self.buffer_size:
            raise SettingsError(WHOLE.format(self.buffer_size))
        shared, settings = self.advantages, self._settings
        if settings.normalize_advantage and settings.image_weight:
            shared = (shared - shared.mean()) / (shared.std(ddof=1) + 1e-8)
        mixed = settings.own_weight * self._own + settings.image_weight * shared[..., None]
        self.advantages = mixed * self.action_dim  # SB3 takes the mean over bits, whose log-probabilities add up


def own_advantage(final: Infos) -> npt.NDArray[np.floating[Any]]:
    """By how much each patch's loss exceeds the mean of those that were hidden, in their std: `(B, N)`.

    That the mean contains the patch itself is a factor only: it exceeds the mean of the k - 1 others by k / (k - 1)
    times as much.
    """
    losses, hidden = (final[key].reshape(len(final["mask"]), -1) for key in ("patch_loss", "mask"))
    reward = mean_over(losses, hidden)[:, None]
    spread = np.sqrt(mean_over((losses - reward) ** 2, hidden))[:, None]
    return np.asarray((losses - reward) / np.maximum(spread, 0.25 * reward).clip(1e-8))
