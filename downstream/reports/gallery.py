"""The gallery of a report: frames of several runs as small arrays and sprites that fit into one page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from agents.pretraining.snapshots import LARGEST, smaller
from ahm_env import CheckpointError, ImageSet, RunError
from ahm_env.images.pixels.opencv import cv2
from ahm_env.rendering import as_rgb
from downstream.reports.load_runs import Run

MOMENTS = 24  # most that the slider stops at
QUALITY = 82  # of WebP; the page of seven agents stays far below 10 MB
TOP = 95  # percentile of the hidden patches' losses at which their colours end
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Gallery:
    """The gallery, ready for the page.

    Attributes:
        images: How many images are shown.
        moments: `images` of every stop of the slider.
        agents: Numbers of the agents that have frames here.
        data: All that the page's script draws from; JSON can hold it.
        left_out: How many runs have other images, or no frames.
    """

    images: int
    moments: tuple[int, ...]
    agents: tuple[int, ...]
    data: dict[str, Any]
    left_out: int


def make_gallery(groups: Sequence[Sequence[Run]], images: ImageSet) -> Gallery:
    """Pack the frames of those runs that show the same of these images as the first that does.

    Args:
        groups: The runs of each agent; at least one has frames.
        images: Where the frames' images come from.

    Raises:
        RunError: The images are not those that the run began with.
        CheckpointError: A frame does not fit its run.
    """
    pictured = [run for runs in groups for run in runs if run.frames]
    first = next((run for run in pictured if run.content_key == images.content_key), None)
    if first is None:
        raise RunError(
            f"{pictured[0].path}: the images of {pictured[0].settings.data} have changed since this run began; "
            f"bring them back, or leave this run out"
        )
    alike = {
        agent: fitting
        for agent, runs in enumerate(groups)
        if (fitting := [run for run in runs if run.frames and run.pictures == first.pictures])
    }
    shown = [run for runs in alike.values() for run in runs]
    for run in shown:
        _check(run, images)
    moments = _moments(shown)
    worst = _worst(shown)
    pixels = smaller(images.images(first.frames[0].shown))
    settings = first.settings
    data = {
        "side": settings.grid.side,
        "size": pixels.shape[2],
        "images": len(pixels),
        "originals": _sprite(pixels[None], lossless=True),
        "moments": moments,
        "worst": _number(worst),
        "maps": {
            name: _colours(code) for name, code in (("hot", cv2.COLORMAP_INFERNO), ("cool", cv2.COLORMAP_VIRIDIS))
        },
        "agents": [
            {"agent": agent, "runs": [_pack(run, moments, worst) for run in runs]} for agent, runs in alike.items()
        ],
    }
    left_out = sum(len(runs) for runs in groups) - len(shown)
    return Gallery(len(pixels), tuple(moments), tuple(alike), data, left_out)


def _check(run: Run, images: ImageSet) -> None:
    """Refuse frames whose arrays do not fit each other, the run or its images."""
    shown, patches, size = run.frames[0].shown, run.settings.grid.patches, min(run.settings.image_size, LARGEST)
    inside = len(shown) > 0 and shown.min() >= 0 and shown.max() < len(images)
    for frame in run.frames:
        maps = [frame.policy, frame.masks, frame.losses, *([] if frame.values is None else [frame.values])]
        fits = all(one.shape == (len(shown), patches) for one in maps) and frame.frequencies.shape == (patches,)
        pictures = frame.reconstructions.shape == (len(shown), images.channels, size, size)
        if not (inside and fits and pictures and np.array_equal(frame.shown, shown)):
            path = run.path / "frames" / f"{frame.images:012d}.safetensors"
            raise CheckpointError(f"{path}: does not fit its run; delete it, or leave this run out")


def _moments(runs: Sequence[Run]) -> list[int]:
    """Choose moments evenly from those of the run that has most."""
    longest = max(runs, key=lambda run: len(run.frames)).frames
    chosen = np.unique(np.linspace(0, len(longest) - 1, min(MOMENTS, len(longest))).round().astype(int))
    return [longest[index].images for index in chosen]


def _worst(runs: Sequence[Run]) -> float:
    """Choose the loss at which colours end: early losses, of an untrained U-Net, would leave the others dark."""
    late = [frame for run in runs for frame in run.frames[len(run.frames) // 2 :]]
    hidden = np.concatenate([frame.losses[frame.masks] for frame in late])
    hidden = hidden[np.isfinite(hidden)]
    return max(1e-6, float(np.percentile(hidden, TOP))) if hidden.size else 1.0


def _pack(run: Run, moments: Sequence[int], worst: float) -> dict[str, Any]:
    """Pack a run for the page; its frames are those nearest to the moments."""
    at = np.array([frame.images for frame in run.frames])
    nearest = [int(np.abs(at - moment).argmin()) for moment in moments]
    used = sorted(set(nearest))
    frames = [run.frames[index] for index in used]
    # only differences within an image decide what is hidden, so what all of its patches share is taken away
    policy = np.stack([frame.policy - frame.policy.mean(1, keepdims=True) for frame in frames])
    values = [frame.values for frame in frames if frame.values is not None]
    masks = np.stack([frame.masks for frame in frames]).astype(bool)
    losses = np.stack([frame.losses for frame in frames])
    hardness = {row["images"]: _number(row["hardness_sampled"]) for row in run.rows}
    return {
        "seed": run.settings.seed,
        "frame": [used.index(index) for index in nearest],
        "images": [frame.images for frame in frames],
        "hardness": [hardness.get(frame.images) for frame in frames],
        "policy": _quantised(policy),
        "values": _quantised(np.stack(values)) if len(values) == len(frames) else None,
        # one array for masks and losses: 0 is a patch that is shown, 1 to 255 the loss of a hidden one
        "losses": _text(np.where(masks, 1 + (254 * np.clip(np.nan_to_num(losses / worst), 0, 1)).round(), 0)),
        "often": _text((255 * np.stack([frame.frequencies for frame in frames])).round()),
        "least": [_number(float(frame.frequencies.min())) for frame in frames],
        "most": [_number(float(frame.frequencies.max())) for frame in frames],
        "sprite": _sprite(np.stack([frame.reconstructions for frame in frames])),
    }


def _quantised(maps: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Turn maps into bytes between two numbers that cut off the outermost 2 % of values; equal for flat maps."""
    finite = np.nan_to_num(maps.astype(np.float64), posinf=0, neginf=0)
    low, high = np.percentile(finite, (1, 99))
    if high - low < 1e-6 * max(1.0, abs(low), abs(high)):
        return {"low": _number(low), "high": _number(low), "bytes": _text(np.full(maps.shape, 128))}
    scaled = 255 * np.clip((finite - low) / (high - low), 0, 1)
    return {"low": _number(low), "high": _number(high), "bytes": _text(scaled.round())}


def _sprite(pictures: Bytes, lossless: bool = False) -> str:
    """Pictures `(rows, columns, C, s, s)` as one WebP image, as a data URL."""
    rows, columns, _, size, _ = pictures.shape
    flat = as_rgb(pictures.reshape(rows * columns, *pictures.shape[2:]))
    sheet = flat.reshape(rows, columns, size, size, 3).transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, 3)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(sheet)).save(file, "WEBP", quality=QUALITY, lossless=lossless)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _colours(code: int) -> list[str]:
    """Sample a colour map as 17 colours, dark to bright."""
    steps = np.linspace(0, 255, 17).round().astype(np.uint8)
    return [f"#{red:02x}{green:02x}{blue:02x}" for blue, green, red in cv2.applyColorMap(steps, code).reshape(-1, 3)]


def _text(numbers: npt.NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(numbers.astype(np.uint8)).tobytes()).decode()


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
