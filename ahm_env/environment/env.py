"""The masking problem as Gymnasium environments: one image at a time, or many with one pass of the U-Net."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.spaces import Box, MultiBinary
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ahm_env.environment import checks
from ahm_env.environment.episodes import EnvIds, Episodes
from ahm_env.errors import SettingsError
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import load_images
from ahm_env.masks import Bools, Ints, MaskRatio, PatchGrid
from ahm_env.model.reconstruction import Reconstructor
from ahm_env.model.weights import DEFAULT_UNET, Standardisation
from ahm_env.rendering import Pixels

Info = dict[str, Any]


class _Masking:
    """What the environment and the vector environment have in common: the episodes behind them."""

    observation_space: Any
    action_space: Any
    spec: Any = checks.PlainSpec()
    _count = 1  # episodes side by side

    def __init__(
        self,
        data: str | Path | ImageSet = "phantom:256",
        unet: str | Path | Reconstructor = "default",
        image_size: int = 64,
        patch_size: int = 8,
        mask_ratio: str | float | tuple[float, float] | MaskRatio = 0.5,
        horizon: int = 1,
        agent_share: float = 1.0,
        co_train: bool = False,
        split: str = "train",
        indices: Sequence[int] | Ints | None = None,
        width: int = 16,
        norm: str = "batch",
        learning_rate: float = 1e-3,
        seed: int = 0,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        checks.check_keywords(_Masking.__init__, locals())
        ratio = MaskRatio.parse(mask_ratio)
        grid = unet.grid if isinstance(unet, Reconstructor) else PatchGrid(image_size, patch_size)
        if not isinstance(unet, Reconstructor) and unet != "new":
            path = DEFAULT_UNET if unet == "default" else Path(unet)
            unet = Reconstructor.load(path, grid, learning_rate=learning_rate, device=device)
        if not isinstance(data, ImageSet):
            channels = len(unet.fill) if isinstance(unet, Reconstructor) else None
            data = load_images(data, grid.image_size, channels, masks=False)
        train = data.split("train")
        shown = data.split(split) if indices is None else checks.read_indices(indices)
        if not isinstance(unet, Reconstructor):
            mean, std = data.standardisation(train if len(train) else shown)
            standardisation = Standardisation(tuple(mean.tolist()), tuple(std.tolist()))
            unet = Reconstructor.create(
                grid, standardisation, width, norm, seed, learning_rate=learning_rate, device=device
            )
        self.episodes = Episodes(data, shown, unet, ratio, horizon, agent_share, co_train, self._count)
        self._all = np.arange(self._count)
        self.render_mode = render_mode
        shape = (data.channels, grid.image_size, grid.image_size)
        self.observation_space, self.action_space = Box(0, 255, shape, np.uint8), MultiBinary(int(grid.patches))

    @property
    def reconstructor(self) -> Reconstructor:
        """The U-Net, with its optimiser."""
        return self.episodes.reconstructor

    @property
    def agent_share(self) -> float:
        """Share of the quota that the agent may choose; may be set while training, for episodes that begin after."""
        return self.episodes.agent_share

    @agent_share.setter
    def agent_share(self, share: float) -> None:
        self.episodes.agent_share = share

    @property
    def quotas(self) -> tuple[int, int]:
        """Smallest and largest number of patches that an episode hides; equal without a ratio range."""
        return self.episodes.low, self.episodes.high


class PatchMaskEnv(_Masking, gym.Env[Pixels, npt.NDArray[np.int8]]):
    """Choose the patches of an image that a U-Net finds hardest to reconstruct.

    Observation: `Box(0, 255, (C, S, S), uint8)`, the image; with `horizon > 1` hidden patches are filled.
    Action: `MultiBinary(N)`, 1 hides a patch; patches are numbered row by row.
    Reward: after the last step, the mean patch loss over the hidden patches; 0 before.
    Info: `mask`, `chosen` (bool) and `patch_loss` (float32), each rows x columns; `image_index`; and `choosable`,
    how many ones the next action may usefully hold (with a ratio range: at most).
    `reset(options={"image_index": 3})` shows that image.

    Args:
        data: A source of images, as `load_images` takes it, or an ImageSet.
        unet: `default` (the small pretrained one that comes with the package), `new` (untrained, of `width`, `norm`
            and `seed`), a file of weights, or a Reconstructor, whose grid and device are then used.
        image_size: Side of the images in pixels (S).
        patch_size: Side of a patch in pixels; divides `image_size`.
        mask_ratio: Share of the patches that is hidden, as `0.5` or, for the agent to decide, `"0.3:0.7"`.
        horizon: Steps an image (T).
        agent_share: Share of the quota that the agent may choose; the rest is random.
        co_train: Whether the U-Net learns from the masks, as it does in `AHM/PatchMaskCoTrain-v0`.
        split: Which images are shown: `train`, `val` or `test`.
        indices: Which images are shown, instead of a split.
        width: Width of a new U-Net.
        norm: Norm of a new U-Net.
        learning_rate: Step size of the U-Net where it learns.
        seed: Random seed for the weights of a new U-Net.
        device: Where the U-Net computes.
        render_mode: `rgb_array` or None.

    Raises:
        SettingsError, ImageError, CheckpointError: With the file, the cause and the remedy.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own form)
    _running = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Pixels, Info]:
        """Show the next image, or the one that `options["image_index"]` names, with nothing hidden."""
        images = checks.read_images(options, 1, len(self.episodes.images))
        super().reset(seed=seed)
        if seed is not None or self.episodes.generators[0] is not self.np_random:
            self.episodes.seed(0, self.np_random)
        self.episodes.begin(self._all, images)
        self._running = True
        return self.episodes.observations(self._all)[0], _info(self.episodes, 0)

    def step(self, action: npt.NDArray[np.int8]) -> tuple[Pixels, float, bool, bool, Info]:
        """Hide patches; exactly the quota of this step is hidden, whatever the number of ones."""
        if not self._running:
            raise gym.error.ResetNeeded("call reset() first: no episode has begun, or the last one has ended")
        if self.episodes.co_train:
            checks.refuse_a_unet_each(self.reconstructor)
        wanted = checks.read_actions(action, self.action_space.shape)
        (reward,), (terminated,) = self.episodes.step(self._all, wanted[None])
        self._running = not terminated
        observation, info = self.episodes.observations(self._all)[0], _info(self.episodes, 0)
        return observation, float(reward), bool(terminated), False, info

    def render(self) -> Pixels | None:
        """Panel `(H, W, 3)`: image, masked image, reconstruction, patch losses."""
        return None if self.render_mode is None else self.episodes.panel(self._all)

    def close(self) -> None:
        """Close the environment; another one may train its U-Net."""
        checks.release(self.reconstructor)


class PatchMaskVectorEnv(_Masking, VectorEnv[Pixels, npt.NDArray[np.int8], npt.NDArray[Any]]):
    """Many PatchMaskEnv with one U-Net and one batched pass through it; same spaces, rewards and infos.

    The keywords that are not described here are PatchMaskEnv's.

    Args:
        num_envs: Number of images side by side.
        autoreset_mode: `AutoresetMode` or its value: SAME_STEP (default; finished infos are in `final_info`),
            NEXT_STEP or DISABLED.
        max_episode_steps: Truncate episodes after so many steps.
    """

    metadata = PatchMaskEnv.metadata

    def __init__(
        self,
        num_envs: int = 1,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        max_episode_steps: int | None = None,
        data: str | Path | ImageSet = "phantom:256",
        unet: str | Path | Reconstructor = "default",
        image_size: int = 64,
        patch_size: int = 8,
        mask_ratio: str | float | tuple[float, float] | MaskRatio = 0.5,
        horizon: int = 1,
        agent_share: float = 1.0,
        co_train: bool = False,
        split: str = "train",
        indices: Sequence[int] | Ints | None = None,
        width: int = 16,
        norm: str = "batch",
        learning_rate: float = 1e-3,
        seed: int = 0,
        device: str = "cpu",
        render_mode: str | None = None,
    ) -> None:
        checks.check_keywords(PatchMaskVectorEnv.__init__, locals())
        self.num_envs = self._count = num_envs
        shown = data, unet, image_size, patch_size, mask_ratio, horizon, agent_share, co_train, split, indices
        super().__init__(*shown, width, norm, learning_rate, seed, device, render_mode)
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**PatchMaskEnv.metadata, "autoreset_mode": self.autoreset_mode}
        self.max_episode_steps = max_episode_steps
        self.single_observation_space, self.single_action_space = self.observation_space, self.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._finished = np.zeros(num_envs, bool)
        self._started = False

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Pixels, Info]:
        """Show new images; `seed` gives environment i the seed `seed + i`, or the i-th of a list.

        `options["reset_mask"]` limits it to some environments, but for the first reset, with which all begin;
        `options["image_index"]` names the image, or the image of each environment.
        """
        images = checks.read_images(options, self.num_envs, len(self.episodes.images), "reset_mask")
        reset = checks.read_reset_mask(options, self.num_envs) | (not self._started)
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
            seed = [int(seed) + env_id for env_id in range(self.num_envs)]
        seeds = [None] * self.num_envs if seed is None else list(seed)
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds were given for {self.num_envs} environments")
        for env_id in np.flatnonzero(reset).tolist():
            if seeds[env_id] is not None:
                self.episodes.seed(env_id, seeding.np_random(seeds[env_id])[0])
        self.episodes.begin(self._all[reset], images)
        self._finished[reset] = False
        self._started = True
        return self.episodes.observations(self._all), self._infos(reset)

    def step(self, actions: npt.NDArray[np.int8]) -> tuple[Pixels, npt.NDArray[np.float64], Bools, Bools, Info]:
        """Step all environments; finished ones start again as `autoreset_mode` says."""
        if not self._started:
            raise gym.error.ResetNeeded("call reset() before step()")
        wanted, again = checks.read_actions(actions, self.action_space.shape), self._finished.copy()
        if again.any() and self.autoreset_mode is AutoresetMode.DISABLED:
            raise gym.error.ResetNeeded("an environment has finished; call reset(options={'reset_mask': ...})")
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        if again.any():  # NEXT_STEP: the action of a finished environment is ignored
            self.episodes.begin(self._all[again])
        stepped = self._all[~again]
        if len(stepped):
            rewards[stepped], terminated[stepped] = self.episodes.step(stepped, wanted[stepped])
        truncated = ~again & (self.episodes.steps >= (self.max_episode_steps or np.inf))
        finished = terminated | truncated
        infos: Info = {}
        if finished.any() and self.autoreset_mode is AutoresetMode.SAME_STEP:
            last = self.episodes.observations(self._all)
            final = np.full(self.num_envs, None, object)
            for env_id in np.flatnonzero(finished):
                final[env_id] = last[env_id]
            infos = {"final_obs": final, "_final_obs": finished.copy()}
            infos |= {"final_info": self._infos(finished), "_final_info": finished.copy()}
            self.episodes.begin(self._all[finished])
            self._finished[:] = False
        else:
            self._finished = finished
        infos |= self._infos(np.ones(self.num_envs, bool))
        return self.episodes.observations(self._all), rewards, terminated, truncated, infos

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute, which all environments share, once for each of them."""
        return (getattr(self, name),) * self.num_envs

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute such as `agent_share`, for all environments at once."""
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if not each or each != each[:1] * self.num_envs:
            raise SettingsError(f"{name} {values} must be one value, or one for all {self.num_envs} environments alike")
        setattr(self, name, each[0])

    def render(self) -> tuple[Pixels, ...] | None:
        """Draw one panel for each environment; return None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(self.episodes.panel(env_ids) for env_ids in self._all[:, None])

    def _infos(self, which: Bools) -> Info:
        """Infos in Gymnasium's vector form: rows of environments that have none are zero, `_key` says which have."""
        infos: Info = {}
        for key, rows in _info(self.episodes, self._all).items():
            rows[~which] = 0
            infos |= {key: rows, f"_{key}": which.copy()}
        return infos


def _info(episodes: Episodes, env_ids: int | EnvIds) -> Info:
    """Copy what is known of one episode, or of several."""
    side = episodes.grid.side
    grids = {"mask": episodes.hidden, "chosen": episodes.chosen, "patch_loss": episodes.patch_loss}
    infos: Info = {key: rows[env_ids].reshape(*np.shape(env_ids), side, side).copy() for key, rows in grids.items()}
    numbers = {"image_index": episodes.image[env_ids], "choosable": episodes.choosable(env_ids)}
    return infos | {key: np.copy(number) if np.ndim(env_ids) else int(number) for key, number in numbers.items()}
