"""Slices of volumes as radiologists look at them, and the way back."""

from collections.abc import Sequence

import numpy as np

from ahm_env.images.pixels.fit import AXES, Image8
from ahm_env.images.source import Pixels

DARKEST = 4  # of 255: a slice with nothing brighter shows nothing


def axis_of(shape: Sequence[int], asked: str) -> str:
    """Axis along which a volume of (X, Y, Z) voxels is cut: a volume one voxel thick is shown from its flat side."""
    thin = [axis for axis, side in zip(AXES, shape, strict=True) if side == 1]
    return thin[0] if len(thin) == 1 else asked


def to_slice(volume: Pixels, axis: str, index: int) -> Pixels:
    """One slice of a volume, as radiologists look at it.

    Axial: from the feet, front up. Coronal: from the front, head up. Sagittal: from the patient's left, head up. So the
    patient's right is on the left of axial and coronal slices, and the front on the left of sagittal ones.

    Args:
        volume: (X, Y, Z) or (X, Y, Z, 3) in RAS order: right, front and top grow.
        axis: One of `AXES`.
        index: From 0, at the patient's left, back or feet.

    Returns:
        (H, W) or (H, W, 3), a view.
    """
    return np.moveaxis(volume, AXES.index(axis), 0)[index, ::-1, ::-1].swapaxes(0, 1)


def from_slices(slices: Sequence[Pixels] | Pixels, axis: str) -> Pixels:
    """Undo `to_slice`: stack all slices, (N, H, W) or (N, H, W, 3), into a volume in RAS order.

    `VolumeHeader.from_ras` turns it to the order of its file, to be saved with the affine of that file.
    """
    return np.moveaxis(np.stack([each.swapaxes(0, 1)[::-1, ::-1] for each in slices]), 0, AXES.index(axis))


def shows_nothing(image: Image8) -> bool:
    """Whether a slice is dark, or of one value, all over."""
    return bool(image.max() <= DARKEST or (image == image[:1, :1]).all())
