"""Pixels as the masking problem sees them: uint8, square, grey or RGB."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.pixels.window import Window
from ahm_env.images.source import Pixels

Image8 = npt.NDArray[np.uint8]

FITS = ("stretch", "pad")
AXES = ("sagittal", "coronal", "axial")
LOW, HIGH = 0.5, 99.5


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """How images become pixels of the masking problem.

    Attributes:
        image_size: S, in pixels.
        channels: 1 (grey), 3 (RGB), or None: 1 if every image is grey, else 3.
        fit: "stretch" to a square, or "pad" it, which keeps the aspect ratio.
        window: Of DICOM and NIfTI: what `Window.parse` reads, or None: the file's own.
        axis: Of NIfTI volumes: one of `AXES`, across which they are cut into slices.
        burned_in: Whether DICOM images are taken in that say that text is burned into them.

    Raises:
        SettingsError: One is out of range.
    """

    image_size: int = 64
    channels: int | None = None
    fit: str = "stretch"
    window: str | None = None
    axis: str = "axial"
    burned_in: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.image_size < 1:
            raise SettingsError(f"image_size is {self.image_size}; it must be at least 1 pixel")
        if self.channels not in (None, 1, 3):
            raise SettingsError(f"channels is {self.channels}; choose 1 (grey) or 3 (RGB), or leave it out")
        if self.fit not in FITS:
            raise SettingsError(f"fit is {self.fit!r}; choose one of: {', '.join(FITS)}")
        if self.axis not in AXES:
            raise SettingsError(f"--axis {self.axis} is unknown; choose one of: {', '.join(AXES)}")
        _ = self.intensities

    @property
    def intensities(self) -> Window | None:
        """The window, or None."""
        return None if self.window is None else Window.parse(self.window)


def fit_image(image: Pixels, settings: PixelSettings) -> Image8:
    """Scale an image to uint8 and resize it by area.

    Padding is the median of the image's border: it draws no edge that an agent would want to hide.

    Args:
        image: (H, W) or (H, W, 3), any integer, float or boolean type.
        settings: Size and fit.

    Returns:
        (C, S, S) uint8; C is 1 if the result has no colour, else 3.

    Raises:
        ImageError: No value is finite.
    """
    square = _fit(to_uint8(image), settings, _resize_by_area, _border_median)
    if square.ndim == 2:
        return square[None]
    if (square[..., :1] == square).all():
        return square[None, ..., 0].copy()
    return np.ascontiguousarray(square.transpose(2, 0, 1))


def fit_mask(mask: Image8, settings: PixelSettings) -> Image8:
    """Resize a mask as `fit_image` does its image, to the nearest pixel: (H, W) to (S, S); padding is 0."""
    return _fit(mask, settings, _resize_to_nearest, lambda _: np.uint8(0))


def to_uint8(image: Pixels) -> Image8:
    """Scale an image of any depth to 0..255; uint8 stays as it is.

    Others are scaled between their 0.5 and 99.5 percentiles, over all channels together so that colours keep
    their hue; where these are equal (nearly all background), between minimum and maximum. NaN and -inf become
    0, +inf 255.

    Args:
        image: Any shape, any integer, float or boolean type.

    Returns:
        The same shape, uint8.

    Raises:
        ImageError: No value is finite.
    """
    if image.dtype == np.uint8:
        return image
    values: npt.NDArray[np.floating] = image.astype(np.float32 if image.dtype.itemsize <= 2 else np.float64)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ImageError("holds no finite value; export it again")
    low, high = np.percentile(finite, (LOW, HIGH))
    if low == high:
        low, high = finite.min(), finite.max()
    # Halved, because the span of two finite numbers may be infinite.
    span = (high / 2 - low / 2) or 1.0
    with np.errstate(over="ignore"):  # what lies far outside becomes infinite, and is cut off
        scaled = np.nan_to_num((values / 2 - low / 2) / span, nan=0.0, posinf=1.0, neginf=0.0)
    return np.asarray((scaled.clip(0, 1) * 255).round(), np.uint8)


def with_channels(image: Image8, channels: int) -> Image8:
    """(C, S, S) uint8 to (channels, S, S), for 1 or 3 channels: luminance, or grey three times."""
    if image.shape[0] == channels:
        return image
    if channels == 1:
        return np.asarray(cv2.cvtColor(image.transpose(1, 2, 0), cv2.COLOR_RGB2GRAY), np.uint8)[None]
    return np.repeat(image, 3, axis=0)


def inner_box(height: int, width: int, settings: PixelSettings) -> tuple[int, int, int, int]:
    """Where an image of this size lies in its square, for the way back: top, left, height, width."""
    size = settings.image_size
    if settings.fit == "stretch":
        return 0, 0, size, size
    scale = size / max(height, width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    return (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width


Resize = Callable[[Image8, int, int], Image8]


def _fit(
    pixels: Image8, settings: PixelSettings, resize: Resize, background: Callable[[Image8], npt.ArrayLike]
) -> Image8:
    top, left, height, width = inner_box(pixels.shape[0], pixels.shape[1], settings)
    inner = resize(pixels, height, width)
    if inner.shape[:2] == (settings.image_size, settings.image_size):
        return inner
    square = np.empty((settings.image_size, settings.image_size, *pixels.shape[2:]), np.uint8)
    square[:] = background(inner)
    square[top : top + height, left : left + width] = inner
    return square


def _resize_by_area(pixels: Image8, height: int, width: int) -> Image8:
    # OpenCV averages over areas only where both sides shrink, hence first what shrinks, then what grows.
    shrunk = min(width, pixels.shape[1]), min(height, pixels.shape[0])
    smaller = cv2.resize(pixels, shrunk, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(smaller, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _resize_to_nearest(pixels: Image8, height: int, width: int) -> Image8:
    # INTER_NEAREST takes a pixel's corner and so shifts a mask against its image by half a pixel.
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)


def _border_median(pixels: Image8) -> npt.ArrayLike:
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return np.asarray(np.median(border, axis=0), np.uint8)
