"""The numbers in masks: which there are, and how the cache keeps them."""

import numpy as np
import numpy.typing as npt

from ahm_env.images.pixels.fit import Image8
from ahm_env.images.pixels.opencv import cv2

BITS = (2, 32)  # of a mask, a bit a number: those that occur in it, and those of which resizing has left a pixel


def mask_values(mask: Image8) -> frozenset[int]:
    """Class numbers that occur in a mask (H, W)."""
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256])
    return frozenset(np.flatnonzero(counts).tolist())


def are_binary(values: frozenset[int]) -> bool:
    """Whether the numbers in a mask are those of a mask of two values: 0 and 1, or 0 and 255."""
    return values <= {0, 1} or values <= {0, 255}


def to_bits(values: frozenset[int], square: Image8) -> npt.NDArray[np.uint8]:
    """Pack the numbers that occur in a mask, and those of them that do after resizing to `square`: `BITS`."""
    left = values & mask_values(square)
    return np.packbits([np.isin(np.arange(256), list(some)) for some in (values, left)], 1)


def from_bits(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Unpack the numbers that occur in any of some masks, ascending; of each mask `(32,)` are given."""
    return np.flatnonzero(np.unpackbits(np.bitwise_or.reduce(bits, 0)))
