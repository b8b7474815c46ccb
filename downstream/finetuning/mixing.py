"""Mixed images: pixels of one unlabelled image replaced by another's, as in CutMix (Yun et al., ICCV 2019).

Where the mask is 1, the second image is shown. For segmentation with few labels: French et al., BMVC 2020. A picture
of what a student was shown lets a person see whether to trust its teacher.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ahm_env.rendering import as_rgb
from downstream.evaluation.pictures import Case, Picture, draw_overlay, lay_out

MIXES = ("none", "box", "patches")
BOX_AREA = (0.25, 0.5)  # of the image
BOX_SHAPE = 2.0  # a box is at most so many times as wide as high, or as high as wide
GRID = 8  # patches a side
PATCHES = 0.5  # of all patches
MIXED, MIXED_TILE = 8, 144  # mixed images of a row of the picture


@dataclass(frozen=True)
class MixedBatch:
    """What the student learns from unlabelled images in one step.

    Attributes:
        pixels: `(B, C, S, S)` float32 in 0..255, mixed and recoloured.
        labels: The teacher's: `(B, S, S)` class numbers, of classification `(B,)`.
        confident: Where it is sure of them, bool of the same shape.
        foreground: Share of the pixels that the teacher takes for a class other than the background.
    """

    pixels: Tensor
    labels: Tensor
    confident: Tensor
    foreground: float


def mixing_masks(kind: str, count: int, image_size: int, seed: tuple[int, ...]) -> Tensor:
    """Draw which pixels are replaced.

    Args:
        kind: `none`; `box`, one rectangle of 25 to 50 % of the image; `patches`, half of the patches of a grid.
        count: B.
        image_size: S.
        seed: Decides.

    Returns:
        `(B, 1, S, S)` bool; 1 = the pixel is the second image's.
    """
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, image_size, image_size), bool)
    if kind == "box":
        for mask in masks:
            height, width = _box(image_size, rng)
            top, left = rng.integers(0, image_size - height + 1), rng.integers(0, image_size - width + 1)
            mask[top : top + height, left : left + width] = True
    elif kind == "patches":
        places = np.arange(image_size) * GRID // image_size
        for mask in masks:
            chosen = np.zeros(GRID * GRID, bool)
            chosen[rng.permutation(GRID * GRID)[: round(PATCHES * GRID * GRID)]] = True
            mask[:] = chosen.reshape(GRID, GRID)[np.ix_(places, places)]
    return torch.from_numpy(masks)[:, None]


def _box(image_size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width of a box."""
    area = rng.uniform(*BOX_AREA) * image_size**2
    # no side may be longer than the image: the range of shapes narrows as the area grows
    longest = min(BOX_SHAPE, image_size**2 / area)
    shape = np.exp(rng.uniform(-np.log(longest), np.log(longest)))
    return round(np.sqrt(area * shape)), round(np.sqrt(area / shape))


def draw_mixing(rows: Mapping[str, MixedBatch], classes: Sequence[str]) -> Picture:
    """Draw what a student was shown of unlabelled images, and what its teacher said of them.

    Of segmentation the teacher's labels are contours, and what it is unsure of is dimmed; of classification the class
    is under the image, in brackets where the teacher is unsure.

    Args:
        rows: Heading to the mixed images of a step; their first eight are drawn.
        classes: Names of the classes.
    """
    drawn = list[tuple[str, list[tuple[Picture, str]]]]()
    for heading, batch in rows.items():
        sure, cells = f"{float(batch.confident.float().mean()):.0%} of the labels count", list[tuple[Picture, str]]()
        images = as_rgb(batch.pixels.clamp(0, 255).round().to(torch.uint8).cpu().numpy())
        labels, confident = batch.labels.cpu().numpy(), batch.confident.cpu().numpy()
        for column, image in enumerate(images[:MIXED]):
            if labels.ndim == 3:
                picture = np.where(confident[column][..., None], image, image // 3)
                found, caption = labels[column].astype(np.uint8), f"{(labels[column] > 0).mean():.0%} marked"
            else:
                picture, found = image, np.zeros(image.shape[:2], np.uint8)
                name = classes[labels[column]]
                caption = name if confident[column] else f"({name})"
            cells.append((draw_overlay(Case("", picture, None, found), MIXED_TILE, MIXED_TILE), caption))
        drawn.append((f"{heading}: {sure}", cells))
    return np.asarray(lay_out(drawn, MIXED_TILE))
