"""A masking problem without images, U-Net or files, whose patch losses a test makes up; and a tiny real one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.spaces import Box, MultiBinary
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ahm_env import ImageSet, PatchGrid, Reconstructor, Standardisation, load_images
from ahm_env.masks import fill_quota, step_quota

Losses = Callable[[npt.NDArray[np.int64], npt.NDArray[np.bool_]], npt.NDArray[Any]]


class ToyEnv(VectorEnv[Any, Any, Any]):
    """Shows made-up images; a function says what each patch costs under a mask.

    Args:
        images: `(K, C, S, S)` uint8, the kinds of images; drawn anew for each episode.
        losses: Kinds `(B,)` and masks `(B, N)` to patch losses `(B, N)`.
        quota: Number of hidden patches, or the smallest and the largest.
        side: Patches a side.
    """

    def __init__(
        self,
        images: npt.NDArray[np.uint8],
        losses: Losses,
        quota: int | tuple[int, int] = 4,
        side: int = 4,
        num_envs: int = 8,
        horizon: int = 1,
        agent_share: float = 1.0,
        seed: int = 0,
        truncate_after: int | None = None,
    ) -> None:
        self.images, self.losses = images, losses
        self.quotas = (quota, quota) if isinstance(quota, int) else quota
        self.num_envs, self.side, self.horizon, self.agent_share = num_envs, side, horizon, agent_share
        self.truncate_after = truncate_after
        self.rng = np.random.default_rng(seed)
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = Box(0, 255, images.shape[1:], np.uint8)
        self.single_action_space = MultiBinary(side**2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.on_step: Callable[[npt.NDArray[np.int8]], None] = lambda _: None
        self.actions: list[npt.NDArray[np.bool_]] = []
        self.shown: list[npt.NDArray[np.uint8]] = []
        self.masks: list[npt.NDArray[np.bool_]] = []  # of finished episodes
        self.chosen_masks: list[npt.NDArray[np.bool_]] = []
        self.kinds: list[npt.NDArray[np.int64]] = []
        self.rewards: list[npt.NDArray[np.float64]] = []

    def _begin(self) -> None:
        shape = (self.num_envs, self.side**2)
        self.kind = self.rng.integers(len(self.images), size=self.num_envs)
        self.steps = np.zeros(self.num_envs, np.int64)
        self.total = np.full(self.num_envs, self.quotas[1])
        self.hidden, self.chosen = np.zeros(shape, bool), np.zeros(shape, bool)
        self.patch_loss = np.zeros(shape, np.float32)

    def _observations(self) -> npt.NDArray[np.uint8]:
        patch = self.images.shape[-1] // self.side
        pixels = self.hidden.reshape(-1, 1, self.side, self.side).repeat(patch, 2).repeat(patch, 3)
        return np.where(pixels, np.uint8(127), self.images[self.kind])

    def _infos(self) -> dict[str, Any]:
        grids = {"mask": self.hidden, "chosen": self.chosen, "patch_loss": self.patch_loss}
        infos: dict[str, Any] = {name: rows.reshape(-1, self.side, self.side).copy() for name, rows in grids.items()}
        choosable = step_quota(self.total, self.steps, self.horizon, self.agent_share)[1]
        if self.quotas[0] < self.quotas[1]:
            choosable = np.where(self.steps == 0, self.quotas[1], choosable)
        return infos | {"choosable": choosable, "image_index": self.kind.copy()}

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self._begin()
        return self._observations(), self._infos()

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.on_step(actions)
        assert actions.shape == (self.num_envs, self.side**2)
        wanted = actions.astype(bool)
        self.actions.append(wanted)
        self.shown.append(self._observations())
        if (self.steps == 0).all():
            self.total = wanted.sum(1).clip(*self.quotas)
        total, choosable = step_quota(self.total, self.steps, self.horizon, self.agent_share)
        new, chosen = fill_quota(wanted, self.hidden, total, choosable, self.rng.random((len(wanted), 2, self.side**2)))
        self.hidden |= new
        self.chosen |= chosen
        self.steps += 1
        terminated = self.steps == self.horizon
        truncated = ~terminated & (self.steps == self.truncate_after)
        rewards = np.zeros(self.num_envs)
        infos: dict[str, Any] = {}
        if terminated.all():
            self.patch_loss = np.asarray(self.losses(self.kind, self.hidden), np.float32)
            rewards = np.where(self.hidden, self.patch_loss, 0).sum(1) / self.hidden.sum(1)
            self.masks.append(self.hidden.copy())
            self.chosen_masks.append(self.chosen.copy())
            self.kinds.append(self.kind.copy())
            self.rewards.append(rewards)
        if (terminated | truncated).all():
            infos = {"final_info": self._infos(), "final_obs": self._observations()}
            self._begin()
        return self._observations(), rewards, terminated, truncated, infos | self._infos()


@pytest.fixture(scope="session")
def toy_env() -> type[ToyEnv]:
    """The class of made-up environments."""
    return ToyEnv


@pytest.fixture(scope="session")
def textures() -> npt.NDArray[np.uint8]:
    """Two images `(2, 1, 32, 32)` of random texture, in which no two patches are alike."""
    return np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Forty drawn images, 32 px, 3 channels; only ever read."""
    return load_images("phantom:40:0", 32, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def reconstructor(phantoms: ImageSet) -> Reconstructor:
    """A tiny U-Net over 4 x 4 patches of the phantoms."""
    mean, std = phantoms.standardisation(np.arange(len(phantoms)))
    standardisation = Standardisation(tuple(mean.tolist()), tuple(std.tolist()))
    return Reconstructor.create(PatchGrid(32, 8), standardisation, width=4, learning_rate=1e-3)
