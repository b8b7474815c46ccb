"""Other forms of actions: scores, of which the highest are hidden, and as many choices between two as patches."""

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, MultiBinary, MultiDiscrete
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorActionWrapper, VectorEnv
from gymnasium.vector.utils import batch_space

from ahm_env.environment.env import PatchMaskEnv, PatchMaskVectorEnv
from ahm_env.environment.episodes import EnvIds, Episodes
from ahm_env.errors import ActionError, SettingsError
from ahm_env.masks import highest
from ahm_env.rendering import Pixels

Scores = npt.NDArray[np.floating[Any]]
Actions = npt.NDArray[np.int8]


class ScoreActions(gym.ActionWrapper[Pixels, Scores, Actions], RecordConstructorArgs):
    """Take a score for each patch, and hide the visible patches that score highest: exactly as many as may be chosen.

    Action: `Box(-10, 10, (N,), float32)`. Only the order of the scores counts; of equal ones the lower number of a
    patch goes first. With a mask ratio range, as many patches as score above 0 are asked for, within the range.

    Args:
        env: A PatchMaskEnv, in wrappers or not.

    Raises:
        SettingsError: Another environment.
    """

    def __init__(self, env: gym.Env[Pixels, Actions]) -> None:
        self._episodes = _episodes(env, PatchMaskEnv)
        RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        self.action_space: gym.Space[Any] = _score_space(self._episodes)

    def action(self, action: Scores) -> Actions:
        """Turn scores `(N,)` into zeros and ones `(N,)`.

        Raises:
            ActionError: Scores of another shape, or one that is not a number.
        """
        chosen: Actions = hide_highest(self._episodes, np.array([0]), np.asarray(action)[None])[0]
        return chosen


class VectorScoreActions(VectorActionWrapper):  # no type parameters: Gymnasium has them only since 1.4
    """`ScoreActions` for the native vector environment: scores `(num_envs, N)`.

    Args:
        env: A PatchMaskVectorEnv, in wrappers or not.

    Raises:
        SettingsError: Another environment.
    """

    def __init__(self, env: VectorEnv[Pixels, Actions, npt.NDArray[Any]]) -> None:
        self._episodes = _episodes(env, PatchMaskVectorEnv)
        super().__init__(env)
        self.single_action_space = _score_space(self._episodes)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.autoreset_mode = env.metadata["autoreset_mode"]  # TorchRL asks the outermost wrapper for it

    def actions(self, actions: Scores) -> Actions:
        """Turn scores `(num_envs, N)` into zeros and ones `(num_envs, N)`.

        Raises:
            ActionError: Scores of another shape, or one that is not a number.
        """
        return hide_highest(self._episodes, np.arange(self.num_envs), actions)


class MultiDiscreteActions(gym.ActionWrapper[Pixels, Actions, Actions], RecordConstructorArgs):
    """Take a mask as N choices between two, for libraries that do not know `MultiBinary`.

    Action: `MultiDiscrete([2] * N)`, 1 hides; its zeros and ones are passed on as they are.

    Args:
        env: An environment whose actions are `MultiBinary(N)`.

    Raises:
        SettingsError: Another environment.
    """

    def __init__(self, env: gym.Env[Pixels, Actions]) -> None:
        if not isinstance(env.action_space, MultiBinary):
            raise SettingsError(f"actions of {env} are {env.action_space}, not MultiBinary; leave the wrapper out")
        RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        self.action_space: gym.Space[Any] = MultiDiscrete(np.full(env.action_space.shape, 2))

    def action(self, action: Actions) -> Actions:
        """Return the zeros and ones `(N,)` as they are."""
        return action


def hide_highest(episodes: Episodes, env_ids: EnvIds, scores: npt.ArrayLike) -> Actions:
    """Choose the visible patches that score highest: as many as the next action of each episode may hold.

    Args:
        episodes: The episodes.
        env_ids: Numbers of those that are asked for.
        scores: `(len(env_ids), N)`, infinities included.

    Returns:
        `(len(env_ids), N)`, 1 hides.

    Raises:
        ActionError: Scores of another shape, or one that is not a number.
    """
    scores, hidden = np.asarray(scores, np.float64), episodes.hidden[env_ids]
    if scores.shape != hidden.shape:
        raise ActionError(
            f"scores must have the shape {hidden.shape}, one for each patch of an image, not {scores.shape}"
        )
    if np.isnan(scores).any():
        raise ActionError("a score is NaN: the policy has probably diverged; lower its learning rate or clip gradients")
    counts = episodes.choosable(env_ids)
    if episodes.low < episodes.high:  # the first action's number of ones decides how much is hidden
        positive = (scores > 0).sum(1).clip(episodes.low, episodes.high)
        counts = np.where(episodes.steps[env_ids] == 0, positive, counts)
    return highest(scores, counts, hidden).astype(np.int8)


def _episodes(env: Any, kind: type[PatchMaskEnv] | type[PatchMaskVectorEnv]) -> Episodes:
    if not isinstance(env.unwrapped, kind):
        raise SettingsError(
            f"scores cannot be actions of {env}, which is no {kind.__name__}; "
            f"use ScoreActions on what gym.make gives, VectorScoreActions on what gym.make_vec gives"
        )
    return env.unwrapped.episodes


def _score_space(episodes: Episodes) -> Box:
    # Wide, since many libraries clip to the bounds what a Gaussian policy draws: clipped scores would be ties.
    return Box(-10, 10, (episodes.hidden.shape[1],), np.float32)
