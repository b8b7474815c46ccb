"""A volume and its mask: whether they lie voxel on voxel."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError
from ahm_env.images.formats.labels import Line
from ahm_env.images.formats.limits import refuse_bomb
from ahm_env.images.formats.nifti.volume import VolumeHeader, is_compressed, read_header

TOLERANCE = 1e-3  # mm


@dataclass(frozen=True, slots=True)
class Volume:
    """What is known of a volume from its header and from what belongs to it.

    Attributes:
        path: Its file.
        stem: Name of the file without extension.
        axis: One of `AXES`, along which it is cut.
        slices: Number of slices.
        series: Number of volumes in the file, of which the first is read.
        mask: File of its label volume, or None.
        drawn: File names of masks by slice, or None.
        known: What the table says of it.
    """

    path: Path
    stem: str
    axis: str
    slices: int
    series: int
    mask: Path | None
    drawn: Mapping[int, str] | None
    known: Line


def read_headers(path: Path, mask: Path | None) -> tuple[VolumeHeader, VolumeHeader | None]:
    """Headers of a volume and of its label volume, if it has one, which fit each other.

    Raises:
        ImageError: One cannot be read, or they do not fit.
    """
    header = read_header(path)
    if is_compressed(path):
        refuse_bomb(str(path), prod(header.shape) * header.volumes * header.dtype.itemsize, path.stat().st_size)
    if mask is None:
        return header, None
    labels = read_header(mask)
    sizes = " and ".join("x".join(map(str, each.ras_shape)) for each in (labels, header))
    if labels.volumes > 1:
        raise ImageError(f"{mask}: holds {labels.volumes} volumes; save it as one, of class numbers 0..255")
    if labels.ras_shape != header.ras_shape:
        raise ImageError(f"{path}: mask and image are {sizes} voxels (right, front, top); re-export one of them")
    apart = np.abs(labels.ras_affine - header.ras_affine).max()
    if apart > TOLERANCE:
        places = f"mask and image are {sizes} voxels, but their affines differ by up to {apart:g}"
        raise ImageError(f"{path}: {places}; re-export one of them")
    return header, labels
