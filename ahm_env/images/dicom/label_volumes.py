"""Label volumes (NIfTI) drawn on a series of DICOM images: which voxels the pixels of an image are.

DICOM counts millimetres to the patient's left, back and top, NIfTI to the right, front and top.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.images.nifti.volume import Affine, class_numbers, read_header, read_volume
from ahm_env.images.pixels import Image8

TOLERANCE = 0.1  # of a voxel: programs round the numbers of headers
TO_RAS = np.array([-1.0, -1.0, 1.0])

# (3, 3), a column each: a step to the next column of pixels, one to the next row, and where the first pixel is; in
# millimetres to the right, front and top.
Plane = npt.NDArray[np.float64]


def plane(position: Any, orientation: Any, spacing: Any) -> Plane | None:
    """Where an image lies, by the elements of its header (PS3.3 C.7.6.2.1.1); None where they do not say.

    Args:
        position: ImagePositionPatient.
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing: between rows, between columns.
    """
    numbers = [np.array(one if one is not None else (), np.float64).ravel() for one in (position, orientation, spacing)]
    place, directions, steps = numbers
    if [one.size for one in numbers] != [3, 6, 2] or not all(np.isfinite(one).all() for one in numbers):
        return None
    columns = [directions[:3] * steps[1], directions[3:] * steps[0], place]
    return np.asarray(TO_RAS[:, None] * np.stack(columns, axis=1), np.float64)


def cut(path: Path, lies: Plane | None, shape: tuple[int, int]) -> Image8:
    """The part of a label volume that lies on an image, pixel on voxel.

    Args:
        path: The volume.
        lies: The image's plane.
        shape: Its rows and columns.

    Returns:
        `shape`, class numbers.

    Raises:
        ImageError: The volume cannot be read, or its voxels do not lie on the pixels.
        SettingsError: nibabel is not installed.
    """
    if lies is None:
        raise ImageError(f"{path}: its image does not say where it lies in the patient; draw a mask as PNG instead")
    status = path.stat()
    affine, labels = _read(path, status.st_size, status.st_mtime_ns)
    inverse = np.linalg.inv(affine)
    right, down, first = (inverse[:3, :3] @ lies + np.array([[0, 0, 1]]) * inverse[:3, 3:]).T
    rows, columns = shape
    corners = np.array([first, first + (columns - 1) * right, first + (rows - 1) * down])
    grid = corners.round().astype(np.int64)
    steps = [step.round().astype(np.int64) for step in (right, down)]
    if np.abs(corners - grid).max() > TOLERANCE or any(np.abs(step).sum() != 1 for step in steps):
        raise ImageError(f"{path}: its voxels do not lie on the image's pixels; save it on the grid of the series")
    if (grid < 0).any() or (grid >= labels.shape).any():
        raise ImageError(f"{path}: does not reach to this image; save it on the grid of the whole series")
    across, along = np.arange(columns)[None, :, None], np.arange(rows)[:, None, None]
    voxels = grid[0] + across * steps[0] + along * steps[1]
    return np.ascontiguousarray(labels[tuple(np.moveaxis(voxels, -1, 0))])


@lru_cache(1)  # images of a series come one after another
def _read(path: Path, size: int, time: int) -> tuple[Affine, Image8]:
    header = read_header(path)
    return header.ras_affine, class_numbers(header, read_volume(header))
