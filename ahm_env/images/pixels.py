"""Pixels as the masking problem sees them: uint8, square, grey or RGB."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.opencv import cv2
from ahm_env.images.source import Pixels

Image8 = npt.NDArray[np.uint8]

LOW, HIGH = 0.5, 99.5


def to_uint8(image: Pixels) -> Image8:
    """Scales an image of any depth to 0..255; uint8 stays as it is.

    Others go from their 0.5 to their 99.5 percentile, over all channels together so that colours keep their hue.
    Where these are equal (nearly all background), from minimum to maximum. Of the values that are not finite,
    NaN and -inf become 0, +inf 255.

    Args:
        image: (H, W) or (H, W, 3), any integer, float or boolean type.

    Returns:
        The same shape, uint8.

    Raises:
        ImageError: No value is finite.
    """
    if image.dtype == np.uint8:
        return image
    values = image.astype(np.float64)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ImageError("holds no finite value; export it again")
    low, high = np.percentile(finite, (LOW, HIGH))
    if low == high:
        low, high = finite.min(), finite.max()
    span = (high - low) or 1.0
    scaled = np.nan_to_num((values - low) / span, nan=0.0, posinf=1.0, neginf=0.0)
    eight_bit: Image8 = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    return eight_bit


def stretch(pixels: Image8, size: int, interpolation: int) -> Image8:
    """Resizes (H, W) or (H, W, C) to `size` x `size`, whatever the aspect ratio."""
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=interpolation), np.uint8)


def pad(pixels: Image8, size: int, interpolation: int) -> Image8:
    """Resizes the longer side to `size` and centres the image.

    An image is padded with the median of its border, which draws no edge that an agent would want to hide; a mask
    with 0.
    """
    height, width = pixels.shape[:2]
    scale = size / max(height, width)
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    inner = np.asarray(cv2.resize(pixels, (inner_width, inner_height), interpolation=interpolation), np.uint8)
    padded = np.zeros((size, size, *pixels.shape[2:]), np.uint8)
    if interpolation == cv2.INTER_AREA:
        border = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
        padded[:] = np.median(border, axis=0).astype(np.uint8)
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    padded[top : top + inner_height, left : left + inner_width] = inner
    return padded


FITS: dict[str, Callable[[Image8, int, int], Image8]] = {"stretch": stretch, "pad": pad}


def find_fit(fit: str) -> Callable[[Image8, int, int], Image8]:
    """The function that makes images square.

    Raises:
        SettingsError: There is none of that name.
    """
    if fit not in FITS:
        raise SettingsError(f"fit is {fit!r}; choose one of: {', '.join(FITS)}")
    return FITS[fit]


def fit_image(image: Pixels, size: int, fit: str) -> Image8:
    """Scales to uint8 and resizes with area interpolation.

    Args:
        image: (H, W) or (H, W, 3), any type.
        size: S, in pixels.
        fit: "stretch" or "pad".

    Returns:
        (C, S, S) uint8; C is 1 if the result has no colour, else 3.
    """
    square = find_fit(fit)(to_uint8(image), size, cv2.INTER_AREA)
    if square.ndim == 2:
        return square[None]
    if (square[..., :1] == square).all():
        return np.ascontiguousarray(square[None, ..., 0])
    return np.ascontiguousarray(square.transpose(2, 0, 1))


def fit_mask(mask: Image8, size: int, fit: str) -> Image8:
    """Resizes a mask of class numbers as `fit_image` does its image: (H, W) to (S, S), nearest pixel."""
    # INTER_NEAREST takes a pixel's corner and so shifts the mask against its image by half a pixel.
    return find_fit(fit)(mask, size, cv2.INTER_NEAREST_EXACT)


def with_channels(image: Image8, channels: int) -> Image8:
    """(C, S, S) uint8 to (channels, S, S), for 1 or 3 channels: luminance, or grey three times."""
    if image.shape[0] == channels:
        return image
    if channels == 1:
        return np.asarray(cv2.cvtColor(image.transpose(1, 2, 0), cv2.COLOR_RGB2GRAY), np.uint8)[None]
    return np.repeat(image, 3, axis=0)
