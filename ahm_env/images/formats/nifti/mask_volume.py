"""Masks of the slices of a volume, written as a volume that lies where that one lies."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ahm_env.errors import ImageError
from ahm_env.files import atomic
from ahm_env.images.formats.nifti.slices import axis_of, from_slices, to_slice
from ahm_env.images.formats.nifti.volume import LONGEST, nibabel, parse_header, read_header
from ahm_env.images.pixels.fit import AXES, Image8

LEVEL = 6  # of compression
# Of a header, the numbers that say where its volume lies; no text, which may tell who the patient is.
PLACE = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def save_mask(path: Path, of: Path, slices: Sequence[Image8 | None], asked: str, background: int) -> None:
    """Write masks of slices as a volume that lies where that of the images lies, voxel on voxel.

    Args:
        path: File to write, `.nii.gz`.
        of: File of the images.
        slices: `(H, W)` class numbers of each slice; None is background.
        asked: Axis along which volumes are cut.
        background: What stands for it.

    Raises:
        ImageError: The images have changed since they were predicted.
    """
    header = read_header(of)
    axis = axis_of(header.ras_shape, asked)
    blank = to_slice(np.full(header.ras_shape, background, np.uint8), axis, 0)
    found = [blank if one is None else one for one in slices]
    if len(found) != header.ras_shape[AXES.index(axis)] or any(one.shape != blank.shape for one in found):
        raise ImageError(f"{of}: has changed since its slices were predicted; choose another --out")
    target = _placed_like(of, header.shape)
    content = nibabel("nifti1").Nifti1Image if target.sizeof_hdr < LONGEST else nibabel("nifti2").Nifti2Image
    volume = content(header.from_ras(from_slices(found, axis)), None, target).to_bytes()
    with atomic(path) as temporary, temporary.open("wb") as file, gzip.GzipFile("", "wb", LEVEL, file, 0) as stream:
        stream.write(volume)


def _placed_like(path: Path, shape: tuple[int, ...]) -> Any:
    """Make a header for class numbers that lie where the volume of a file lies; nothing else of the file is kept."""
    with nibabel("openers").ImageOpener(str(path)) as file:
        source = parse_header(file.read(LONGEST), path)
    target = type(source)()
    target.set_data_dtype(np.uint8)
    target.set_data_shape(shape)
    for name in PLACE:
        target[name] = source[name]
    return target
