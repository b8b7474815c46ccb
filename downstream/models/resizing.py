"""Between an image at its own size and the square that a model sees."""

import numpy as np
import numpy.typing as npt

from ahm_env.images.pixels.fit import fit_image, inner_box, with_channels
from ahm_env.images.pixels.opencv import cv2
from downstream.models.model import ModelSpec


def to_square(image: npt.NDArray[np.generic], spec: ModelSpec) -> npt.NDArray[np.uint8]:
    """Convert an image `(H, W)` or `(H, W, 3)` of any depth to what a model sees: `(C, S, S)` uint8.

    Raises:
        ImageError: No value is finite.
    """
    return with_channels(fit_image(image, spec.pixels), spec.channels)


def to_original(maps: npt.NDArray[np.float32], height: int, width: int, spec: ModelSpec) -> npt.NDArray[np.float32]:
    """Resize maps `(K, S, S)` of a square to the image that it was made of: `(K, H, W)`."""
    top, left, inner_height, inner_width = inner_box(height, width, spec.pixels)
    inner = maps[:, top : top + inner_height, left : left + inner_width]
    return np.stack([cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in inner])
