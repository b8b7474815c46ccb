"""Mixed images: pixels of one unlabelled image replaced by another's, as in CutMix (Yun et al., ICCV 2019).

Where the mask is 1, the second image is shown. For segmentation with few labels: French et al., BMVC 2020.
"""

import numpy as np
import torch
from torch import Tensor

MIXES = ("none", "box", "patches")
BOX_AREA = (0.25, 0.5)  # of the image
BOX_SHAPE = 2.0  # a box is at most so many times as wide as high, or as high as wide
GRID = 8  # patches a side
PATCHES = 0.5  # of all patches


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
