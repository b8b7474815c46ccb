"""Loops of pretraining on phantom images, whose speed is compared: 64 px, ratio 0.5, batches of 12."""

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents import A3C
from ahm_env import ImageSet, PatchGrid, PatchMaskVectorEnv, Reconstructor, Standardisation, load_images
from ahm_env.masks import Bools, random_masks

SIZE, PATCH, BATCH, WIDTH = 64, 8, 12, 16
STEPS = 6  # batches between two looks at the clock


@cache
def images() -> ImageSet:
    """Return the images."""
    return load_images("phantom:500", SIZE)


def train_images() -> npt.NDArray[np.uint8]:
    """Pixels `(B, C, S, S)` of the train split."""
    return images().images(images().split("train"))


def make_reconstructor(width: int = WIDTH, precision: str = "fp32", patch_size: int = PATCH) -> Reconstructor:
    """Make an untrained Reconstructor."""
    grid = PatchGrid(SIZE, patch_size)
    mean, std = images().standardisation(images().split("train"))
    standardisation = Standardisation(tuple(mean.tolist()), tuple(std.tolist()))
    return Reconstructor.create(grid, standardisation, width, precision=precision)


def make_env(co_train: bool, width: int = WIDTH, patch_size: int = PATCH) -> PatchMaskVectorEnv:
    """Make an environment that has begun."""
    reconstructor = make_reconstructor(width, patch_size=patch_size)
    env = PatchMaskVectorEnv(BATCH, data=images(), unet=reconstructor, co_train=co_train)
    env.reset(seed=0)
    return env


def draw_masks(grid: PatchGrid, generator: np.random.Generator) -> Bools:
    """Draw random masks `(B, N)` for a batch."""
    return random_masks(BATCH, grid.patches, grid.patches // 2, generator)


def times(step: Callable[[], object]) -> Callable[[], None]:
    """Return a function that does a step `STEPS` times."""

    def repeat() -> None:
        for _ in range(STEPS):
            step()

    return repeat


def joint_training(env: PatchMaskVectorEnv) -> Callable[[], None]:
    """Return a function that trains a3c and the environment's U-Net together."""
    agent = A3C(env)
    return lambda: agent.learn(env, BATCH * STEPS)


def random_steps(env: PatchMaskVectorEnv) -> Callable[[], None]:
    """Return a function that steps through an environment with random masks."""
    generator = np.random.default_rng(0)
    return times(lambda: env.step(draw_masks(env.reconstructor.grid, generator).astype(np.int8)))


def learning(reconstructor: Reconstructor) -> Callable[[], None]:
    """Return a function that trains a Reconstructor with random masks."""
    pixels, generator = train_images(), np.random.default_rng(0)

    def step() -> None:
        shown = pixels[generator.integers(len(pixels), size=BATCH)]
        reconstructor.learn(shown, draw_masks(reconstructor.grid, generator))

    return times(step)


def bare_training(width: int = WIDTH) -> Callable[[], None]:
    """Return a plain training loop with random masks, written without the environment."""
    reconstructor, pixels = make_reconstructor(width), train_images()
    unet, optimiser = reconstructor.unet.train(), torch.optim.Adam(reconstructor.unet.parameters(), 5e-4, fused=True)
    generator = np.random.default_rng(0)

    def step() -> None:
        shown = torch.from_numpy(pixels[generator.integers(len(pixels), size=BATCH)]).float()
        targets = (shown - reconstructor.mean) / reconstructor.std
        targets = targets.contiguous(memory_format=torch.channels_last)
        masks = torch.from_numpy(draw_masks(reconstructor.grid, generator)).float()
        hidden: Tensor = reconstructor.grid.to_pixels(masks)
        output = unet(targets * (1 - hidden))
        loss = ((output - targets).square() * hidden).sum() / hidden.sum() / 3
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return times(step)
