"""Our vector environment as Stable-Baselines3 wants one."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvStepReturn

from agents.agent import Env, Infos, begin
from ahm_env import SettingsError

Returns = npt.NDArray[np.float64]


class SB3VecEnv(VecEnv):
    """Our vector environment as Stable-Baselines3 wants one.

    Args:
        env: A vector environment with `autoreset_mode` SAME_STEP.
        pay: Turns what finished episodes earned into what the agent is paid for them; by default the same.
    """

    def __init__(self, env: Env, pay: Callable[[Returns], Returns] | None = None) -> None:
        self.env, self.pay = env, pay
        self.infos: Infos = {}
        self._actions: npt.NDArray[Any] = np.zeros(0)
        self._returns, self._lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, int)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> npt.NDArray[np.uint8]:
        """Show new images; seeds and options that were set before hold for this reset.

        Raises:
            SettingsError: The environment does not start again in the same step, or refuses the options.
        """
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        observations, infos = begin(self.env, seeds, _of_all(self._options))
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        self.reset_infos = [_one(infos, env_id) for env_id in range(self.num_envs)]
        return np.asarray(observations, np.uint8)

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Remember the actions."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Take the step; finished episodes have begun again, what they ended with is in their infos."""
        observations, rewards, terminated, truncated, self.infos = self.env.step(self._actions)
        done = terminated | truncated
        self._returns += rewards
        self._lengths += 1
        final = self.infos.get("final_info", {})
        infos = [_one(final if done[env_id] else self.infos, env_id) for env_id in range(self.num_envs)]
        for env_id in np.flatnonzero(done).tolist():
            infos[env_id] |= {
                "terminal_observation": self.infos["final_obs"][env_id],
                "TimeLimit.truncated": bool(truncated[env_id] and not terminated[env_id]),
                "episode": {"r": float(self._returns[env_id]), "l": int(self._lengths[env_id]), "t": 0.0},
            }
        if self.pay is not None:  # for the whole episode, at its end
            rewards = np.zeros_like(rewards)
            if terminated.any():
                rewards[terminated] = self.pay(self._returns[terminated])
        self._returns[done], self._lengths[done] = 0, 0
        return observations, rewards.astype(np.float32), done, infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return the attribute, which all environments share, once for each environment."""
        value = getattr(self.env.unwrapped, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute, of all environments at once.

        Raises:
            SettingsError: Only some of them are named: they share their attributes.
        """
        if len(set(self._get_indices(indices))) < self.num_envs:
            raise SettingsError(f"{attr_name} is shared by all {self.num_envs} environments; set it without indices")
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method, of all environments at once."""
        value = getattr(self.env.unwrapped, method_name)(*method_args, **method_kwargs)
        return [value for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """No environment of a native vector environment is wrapped on its own; but episodes are monitored."""
        return [wrapper_class.__name__ == "Monitor" for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[npt.NDArray[np.uint8] | None]:
        """Pictures of all environments."""
        frames: Any = self.env.render()
        return [None] * self.num_envs if frames is None else list(frames)


def _of_all(options: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Turn the options of each environment into those of a vector of them: what differs becomes a list."""
    if all(one == options[0] for one in options):
        return options[0] or None
    return {name: [one.get(name) for one in options] for name in {name for one in options for name in one}}


def _one(infos: Infos, env_id: int) -> dict[str, Any]:
    """Extract what the infos of a vector environment say of one of its environments."""
    return {
        key: value[env_id] for key, value in infos.items() if not key.startswith("_") and not key.startswith("final_")
    }
