"""Label volumes (NIfTI) drawn on a series of DICOM images: which voxels the pixels of an image are.

DICOM counts millimetres to the patient's left, back and top, NIfTI to the right, front and top.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.images.formats.nifti.intensities import class_numbers
from ahm_env.images.formats.nifti.recent import LRUCache
from ahm_env.images.formats.nifti.volume import read_header, read_volume
from ahm_env.images.pixels.fit import Image8

TOLERANCE = 0.1  # of a voxel: programs round the numbers of headers
GRID = "save it on the grid of the whole series (where DICOM counts to the left and back, NIfTI counts right and front)"
# Images of a series come one after another.
_kept: LRUCache[Image8] = LRUCache(1)
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
    try:
        place, directions, steps = (
            np.array(one if one is not None else (), np.float64).ravel() for one in (position, orientation, spacing)
        )
    except (TypeError, ValueError):
        return None
    if (place.size, directions.size, steps.size) != (3, 6, 2) or not np.isfinite([*place, *directions, *steps]).all():
        return None
    columns = [directions[:3] * steps[1], directions[3:] * steps[0], place]
    return np.asarray(TO_RAS[:, None] * np.stack(columns, axis=1), np.float64)


def cut(path: Path, lies: Plane | None, shape: tuple[int, int]) -> Image8:
    """Cut out the part of a label volume that lies on an image, pixel on voxel.

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
    header = read_header(path)
    if header.volumes > 1:
        raise ImageError(f"{path}: holds {header.volumes} volumes; save it as one, of class numbers 0..255")
    if np.linalg.matrix_rank(header.ras_affine) < len(header.ras_affine):
        raise ImageError(f"{path}: its affine does not say where it lies; save it on the grid of the series")
    inverse = np.linalg.inv(header.ras_affine)
    right, down, first = (inverse[:3, :3] @ lies + np.array([[0, 0, 1]]) * inverse[:3, 3:]).T
    rows, columns = shape
    start, across, along = (one.round().astype(np.int64) for one in (first, right, down))
    corners = np.array([first, first + (columns - 1) * right, first + (rows - 1) * down])
    grid = np.array([start, start + (columns - 1) * across, start + (rows - 1) * along])
    apart = np.abs(corners - grid).max()
    if np.abs([across, along]).sum() != 2 or np.abs(across @ along):
        raise ImageError(f"{path}: its voxels are not of the image's size and direction; {GRID}")
    if apart > TOLERANCE:
        raise ImageError(f"{path}: its voxels lie up to {apart:.2f} of a voxel beside the image's pixels; {GRID}")
    if (grid < 0).any() or (grid >= header.ras_shape).any():
        raise ImageError(f"{path}: does not reach to this image; {GRID}")
    status = path.stat()
    key = path, status.st_size, status.st_mtime_ns
    labels = _kept.get(key, lambda: class_numbers(header, read_volume(header)))
    voxels = start + np.arange(columns)[None, :, None] * across + np.arange(rows)[:, None, None] * along
    return np.ascontiguousarray(labels[tuple(np.moveaxis(voxels, -1, 0))])
