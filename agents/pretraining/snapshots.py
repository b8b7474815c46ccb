"""Frames: how an agent's masks of the same few images look at one moment of a run; a row of them is its history."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.agent import Agent
from agents.pretraining.hardness import Measurement
from ahm_env import CheckpointError, ImageSet, Reconstructor
from ahm_env.files import load_tensors, save_tensors
from ahm_env.images.pixels.opencv import cv2
from ahm_env.masks import Bools, Ints
from ahm_env.rendering import as_rgb, limits, overlay, panel, reconstruction_columns

LARGEST = 128  # pixels; larger reconstructions are kept smaller
Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """One moment of a run.

    Attributes:
        images: Images shown so far.
        shown: `(P,)` which images of the source are pictured.
        policy: `(P, N)` policy maps.
        values: `(P, N)` value maps, None where the agent has none.
        masks: `(P, N)` bool, sampled with the same draws in every frame.
        reconstructions: `(P, C, s, s)` uint8, of the masked images; s is the image size, from a file at most 128.
        losses: `(P, N)` patch losses.
        frequencies: `(N,)` share of held-out masks that hide each patch.
        between_images: Share of patches in which masks of two images differ.
        within_images: Share of patches in which two masks of one image differ.
    """

    images: int
    shown: Ints
    policy: Map
    values: Map | None
    masks: Bools
    reconstructions: npt.NDArray[np.uint8]
    losses: Map
    frequencies: npt.NDArray[np.float64]
    between_images: float
    within_images: float


def take_frame(
    seen: int, agent: Agent, reconstructor: Reconstructor, images: ImageSet, shown: Ints, measurement: Measurement
) -> Frame:
    """Picture an agent as it is now.

    Args:
        seen: Images shown so far.
        agent: The agent; its own draws are not touched.
        reconstructor: The U-Net that fills in.
        images: The images.
        shown: Which of them are pictured.
        measurement: What was measured at this moment.
    """
    pixels = images.images(shown)
    masks = agent.predict(pixels, generator=torch.Generator().manual_seed(0)).astype(bool)
    policy, values = agent.maps(pixels)
    return Frame(
        seen,
        shown,
        policy,
        values,
        masks,
        reconstructor.reconstruct(pixels, masks),
        reconstructor.patch_losses(pixels, masks),
        measurement.frequencies,
        measurement.between_images,
        measurement.within_images,
    )


def draw_frame(frame: Frame, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Draw a frame as one panel, a row an image: `(height, width, 3)` uint8; images `(P, C, S, S)` are those drawn."""
    shown = as_rgb(images)
    maps = {"policy map": frame.policy} | ({} if frame.values is None else {"value map": frame.values})
    scales = {name: limits(patch_map) for name, patch_map in maps.items()}
    overlays = {name: overlay(shown, maps[name], scale=scale) for name, scale in scales.items()}
    columns = reconstruction_columns(images, frame.masks, frame.reconstructions, frame.losses)
    return panel({"image": shown, **overlays, **columns}, scales)


def smaller(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Images `(B, C, S, S)` at most 128 px a side."""
    if images.shape[2] <= LARGEST:
        return images
    planes = images.reshape(-1, *images.shape[2:])
    scaled = [cv2.resize(plane, (LARGEST, LARGEST), interpolation=cv2.INTER_AREA) for plane in planes]
    return np.stack(scaled).astype(np.uint8).reshape(*images.shape[:2], LARGEST, LARGEST)


def save_frame(path: Path, frame: Frame) -> None:
    """Write a frame whole; reconstructions at most 128 px a side."""
    values = vars(replace(frame, reconstructions=smaller(frame.reconstructions)))
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    about = {name: value for name, value in values.items() if isinstance(value, int | float)}
    save_tensors(path, {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, about)


def load_frame(path: Path) -> Frame:
    """Read what `save_frame` wrote.

    Raises:
        CheckpointError: Missing or damaged.
    """
    tensors, about = load_tensors(path)
    arrays: dict[str, Any] = {"values": None} | {name: tensor.numpy() for name, tensor in tensors.items()}
    try:
        return Frame(**about, **arrays)
    except TypeError:
        raise CheckpointError(f"{path}: not a frame of a run; delete it") from None
