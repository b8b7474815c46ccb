"""What the values of a volume become: grey of 0..255, or class numbers."""

import numpy as np

from ahm_env.errors import ImageError
from ahm_env.images.formats.nifti.volume import BLOCK, VolumeHeader, undamaged
from ahm_env.images.formats.pictures.picture import as_class_numbers
from ahm_env.images.pixels.fit import HIGH, LOW, Image8
from ahm_env.images.pixels.window import Window
from ahm_env.images.source import Pixels

SAMPLED = 2**20


def shown(header: VolumeHeader, stored: Pixels, window: Window | None) -> Image8:
    """Scale a volume to uint8, all of its slices alike; colours stay as they are.

    Without a window, black and white are the 0.5 and 99.5 percentiles of the voxels that are brighter than the darkest:
    of a volume most is background, of one value. Where these are equal, they are minimum and maximum. Of large volumes
    a million voxels drawn at random (always the same) decide. NaN and -inf are black, +inf is white.

    Args:
        header: Of the file.
        stored: As `read_volume` gives it.
        window: Shows this range instead.

    Returns:
        (X, Y, Z) or (X, Y, Z, 3) in RAS order.

    Raises:
        ImageError: No value is finite.
    """
    if stored.ndim == 4:
        return header.to_ras(stored)
    with undamaged(header.path):
        flat = stored.reshape(-1, order="F")
        scaled = np.empty(flat.size, np.uint8)
        window = window or _fitted(header, flat)
        for start in range(0, flat.size, BLOCK):
            block = slice(start, start + BLOCK)
            scaled[block] = window.apply(_intensities(header, flat[block]))
        return header.to_ras(scaled.reshape(stored.shape, order="F"))


def class_numbers(header: VolumeHeader, stored: Pixels) -> Image8:
    """Convert a volume of labels, as `read_volume` gives it, to class numbers: (X, Y, Z) in RAS order.

    Raises:
        ImageError: It is in colour, or holds values that are not class numbers 0..255.
    """
    if stored.ndim == 4:
        raise ImageError(f"{header.path}: mask is in colour; save it as one channel of class numbers 0..255")
    with undamaged(header.path):
        return header.to_ras(as_class_numbers(_intensities(header, stored), str(header.path)))


def _fitted(header: VolumeHeader, flat: Pixels) -> Window:
    """Choose the range that `shown` shows without a window."""
    chosen = np.random.default_rng(0).integers(0, flat.size, SAMPLED) if flat.size > SAMPLED else slice(None)
    for values in (flat[chosen], flat):
        intensities = _intensities(header, values).astype(np.float64)
        finite = intensities[np.isfinite(intensities)]
        if finite.size and finite.min() < finite.max():
            low, high = np.percentile(finite[finite > finite.min()], (LOW, HIGH))
            if low == high:
                low, high = finite.min(), finite.max()
            return Window(low / 2 + high / 2, min(high - low, np.finfo(np.float64).max))
    if not finite.size:
        raise ImageError(f"{header.path}: holds no finite value; export it again")
    return Window(float(finite[0]) + 0.5, 1.0)


def _intensities(header: VolumeHeader, stored: Pixels) -> Pixels:
    slope, inter = header.scale
    return stored if header.scale == (1.0, 0.0) else stored * np.float64(slope) + inter
