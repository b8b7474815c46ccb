"""Episodes of the masking problem, side by side: which image, what is hidden, what it cost.

Both environments are thin shells around this, so that they agree step by step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env.errors import SettingsError
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.masks import Bools, Floats, Ints, MaskRatio, fill_quota, mean_over, step_quota
from ahm_env.model.reconstruction import Reconstructor
from ahm_env.model.unet import can_normalise
from ahm_env.rendering import Pixels, as_rgb, panel, reconstruction_columns

EnvIds = Ints  # numbers of episodes
AHEAD = 4096  # images that a walk knows at a time


@dataclass
class EpochSampler:
    """An endless walk over `count` images: every image once an epoch, each epoch in another order.

    Its whole state is three numbers, so that a walk over many images is as cheap to save as a short one. Each episode
    has its own: of the order only the next few images are kept.
    """

    count: int
    seed: int
    epoch: int = 0
    position: int = -1

    def next(self) -> int:
        """Draw the next image: its position among the `count` images."""
        self.position += 1
        if self.position == self.count:
            self.epoch, self.position = self.epoch + 1, 0
        within = self.position % AHEAD
        if within == 0 or not hasattr(self, "_ahead"):
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
            self._ahead = order[self.position - within :][:AHEAD].copy()
        return int(self._ahead[within])


class Episodes:
    """`count` episodes over the same images and the same U-Net.

    Args:
        images: The images.
        indices: Which of them are shown.
        reconstructor: Reconstructs what is hidden; trained by the way where `co_train`.
        ratio: Share of the patches to hide.
        horizon: Steps an episode (T).
        agent_share: Share of the quota that the agent may choose; may be set at any time, for coming episodes.
        co_train: Whether the forward pass that scores the masks also trains the U-Net.
        count: Number of episodes.

    Raises:
        SettingsError: A number out of range, no image, or images that do not fit the U-Net.
    """

    def __init__(
        self,
        images: ImageSet,
        indices: Ints,
        reconstructor: Reconstructor,
        ratio: MaskRatio,
        horizon: int = 1,
        agent_share: float = 1.0,
        co_train: bool = False,
        count: int = 1,
    ) -> None:
        self.grid = grid = reconstructor.grid
        self.low, self.high = ratio.quotas(grid.patches)
        if count < 1:
            raise SettingsError(f"{count} environments were asked for; ask for 1 or more")
        if not (isinstance(horizon, int | np.integer) and 1 <= horizon <= self.low):
            raise SettingsError(
                f"horizon {horizon} must be a whole number of 1 or more, and at most the {self.low} hidden patches of "
                f"an image"
            )
        indices = np.asarray(indices, np.int64)
        if len(indices) == 0:
            raise SettingsError(f"{images.source}: there is no image in this split; choose another split")
        if indices.min() < 0 or indices.max() >= len(images):
            raise SettingsError(
                f"{images.source}: has images 0 to {len(images) - 1}, but indices "
                f"{indices.min()} to {indices.max()} were asked for"
            )
        if (images.channels, images.image_size) != (len(reconstructor.fill), grid.image_size):
            raise SettingsError(
                f"{images.source}: images of {images.channels} channels at {images.image_size} px do not fit a U-Net "
                f"for {len(reconstructor.fill)} channels on a grid of {grid.image_size} px; load them alike"
            )
        if co_train and not can_normalise(reconstructor.unet.norm, count, grid.image_size):
            raise SettingsError(
                f"one image of {grid.image_size} px leaves nothing to normalise by while co-training; use norm group, "
                f"images of 32 px or more, or several environments with gym.make_vec"
            )
        self.images, self.indices, self.reconstructor = images, indices, reconstructor
        self.horizon, self.agent_share, self.co_train = horizon, agent_share, co_train
        shape = (count, grid.patches)
        self.generators = [np.random.default_rng() for _ in range(count)]
        self.orders = [EpochSampler(len(indices), 0) for _ in range(count)]
        self.image = np.zeros(count, np.int64)
        self.steps = np.zeros(count, np.int64)
        self.quota = np.full(count, self.high)
        self.share = np.full(count, agent_share)
        self._restored_share: dict[int, float] = {}
        self.hidden, self.chosen = np.zeros(shape, bool), np.zeros(shape, bool)
        self.patch_loss = np.zeros(shape, np.float32)
        self._at_start: list[dict[str, Any]] = [{} for _ in range(count)]
        for env_id in range(count):
            self.seed(env_id, self.generators[env_id])

    @property
    def agent_share(self) -> float:
        """Share of the quota that the agent may choose, in episodes that begin from now on."""
        return self._agent_share

    @agent_share.setter
    def agent_share(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise SettingsError(f"agent_share {share} must lie between 0 and 1")
        self._agent_share = share

    def seed(self, env_id: int, generator: np.random.Generator) -> None:
        """Give an episode its own source of randomness; its walk over the images starts afresh."""
        self.generators[env_id] = generator
        self.orders[env_id] = EpochSampler(len(self.indices), int(generator.integers(2**62)))
        self._at_start[env_id] = self._sources(env_id)

    def _sources(self, env_id: int) -> dict[str, Any]:
        order = self.orders[env_id]
        return {
            "order": [order.seed, order.epoch, order.position],
            "generator": self.generators[env_id].bit_generator.state,
            "share": float(self.share[env_id]),
        }

    def begin(self, env_ids: EnvIds, images: Sequence[int | None] | None = None) -> None:
        """Show these episodes their next images, or the one that `images` (of all episodes) asks for; hide nothing."""
        for env_id in env_ids.tolist():
            self.share[env_id] = self._restored_share.pop(env_id, self.agent_share)
            self._at_start[env_id] = self._sources(env_id)
            image = None if images is None else images[env_id]
            self.image[env_id] = self.indices[self.orders[env_id].next()] if image is None else image
        self.steps[env_ids] = 0
        self.quota[env_ids] = self.high
        self.hidden[env_ids] = self.chosen[env_ids] = False
        self.patch_loss[env_ids] = 0

    def observations(self, env_ids: EnvIds) -> npt.NDArray[np.uint8]:
        """Images `(len(env_ids), C, S, S)`, what is hidden so far filled with the mean colour; a copy."""
        images = self.images.images(self.image[env_ids])
        started = self.hidden[env_ids].any(1)
        if started.any():
            pixels = self.grid.to_pixels(self.hidden[env_ids])
            fill = self.reconstructor.fill[None, :, None, None]
            images = np.where(pixels, fill, images)
        return images

    def choosable(self, env_ids: EnvIds | int) -> Ints:
        """How many ones the next action of these episodes may usefully hold."""
        steps = self.steps[env_ids]
        _, chosen = step_quota(self.quota[env_ids], steps, self.horizon, self.share[env_ids])
        decides_size = (steps == 0) & (self.low < self.high)  # the first action also says how much to hide
        return np.where(steps < self.horizon, np.where(decides_size, self.high, chosen), 0)

    def step(self, env_ids: EnvIds, wanted: Bools) -> tuple[Floats, Bools]:
        """Hide patches in these episodes; after the last step of an episode, reconstruct and reward it.

        Args:
            env_ids: Numbers of the episodes.
            wanted: `(len(env_ids), N)`, what the agent wants to hide.

        Returns:
            Rewards, and which of the episodes have ended, each `(len(env_ids),)`.
        """
        if self.low < self.high:  # the first action's number of ones decides how much is hidden
            first = self.steps[env_ids] == 0
            asked = wanted.sum(1).clip(self.low, self.high)
            self.quota[env_ids] = np.where(first, asked, self.quota[env_ids])
        total, choosable = step_quota(self.quota[env_ids], self.steps[env_ids], self.horizon, self.share[env_ids])
        noise = np.stack([self.generators[env_id].random((2, wanted.shape[1])) for env_id in env_ids])
        new, chosen = fill_quota(wanted, self.hidden[env_ids], total, choosable, noise)
        self.hidden[env_ids] |= new
        self.chosen[env_ids] |= chosen
        self.steps[env_ids] += 1
        terminated = self.steps[env_ids] == self.horizon
        self._reconstruct(env_ids[terminated])
        return mean_over(self.patch_loss[env_ids].astype(np.float64), self.hidden[env_ids]), terminated

    def _reconstruct(self, env_ids: EnvIds) -> None:
        if len(env_ids):
            images, masks = self.images.images(self.image[env_ids]), self.hidden[env_ids]
            score = self.reconstructor.learn if self.co_train else self.reconstructor.patch_losses
            self.patch_loss[env_ids] = score(images, masks)

    def panel(self, env_ids: EnvIds) -> Pixels:
        """Draw episodes as they stand, a row each: image, masked image, reconstruction and patch losses."""
        images, masks = self.images.images(self.image[env_ids]), self.hidden[env_ids]
        made = self.reconstructor.reconstruct(images, masks)
        columns = reconstruction_columns(images, masks, made, self.patch_loss[env_ids])
        return panel({"image": as_rgb(images), **columns})

    def state(self) -> list[dict[str, Any]]:
        """State, as JSON can hold it, from which `begin` starts the current episodes once more."""
        return list(self._at_start)

    def restore(self, state: list[dict[str, Any]]) -> None:
        """Go back to what `state` returned; `begin` has to follow."""
        self._at_start = list(state)
        for env_id, source in enumerate(state):
            self.orders[env_id] = EpochSampler(len(self.indices), *source["order"])
            self.generators[env_id].bit_generator.state = source["generator"]
            self._restored_share[env_id] = source["share"]
