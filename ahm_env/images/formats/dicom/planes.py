"""Where DICOM images lie in the patient, and on which voxels their pixels lie.

DICOM counts millimetres to the patient's left, back and top, here as in NIfTI they go to the right, front and top.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.masks import Ints

TOLERANCE = 0.1  # of a voxel: programs round the numbers of headers
THICKNESS = 5  # pixels
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
    with np.errstate(all="ignore"):
        right, down = directions[:3] * steps[1], directions[3:] * steps[0]
        if not 0 < np.linalg.norm(np.cross(right, down)) < np.inf:
            return None
    return np.asarray(TO_RAS[:, None] * np.stack([right, down, place], axis=1), np.float64)


def voxels_on(affine: npt.NDArray[np.float64], size: tuple[int, ...], lies: Plane, shape: tuple[int, int]) -> Ints:
    """Find the voxels of a volume on which the pixels of an image lie, each on one.

    Args:
        affine: (4, 4), of voxels to millimetres to the right, front and top; it can be inverted.
        size: Of the volume along its three axes.
        lies: The image's plane.
        shape: Its rows and columns.

    Returns:
        (3, rows, columns), places along the volume's axes.

    Raises:
        ImageError: The pixels lie beside the voxels, or outside the volume; the message names no file.
    """
    inverse = np.linalg.inv(affine)
    right, down, first = (inverse[:3, :3] @ lies + np.array([[0, 0, 1]]) * inverse[:3, 3:]).T
    rows, columns = shape
    start, across, along = (one.round().astype(np.int64) for one in (first, right, down))
    corners = np.array([first, first + (columns - 1) * right, first + (rows - 1) * down])
    grid = np.array([start, start + (columns - 1) * across, start + (rows - 1) * along])
    apart = np.abs(corners - grid).max()
    if np.abs([across, along]).sum() != 2 or np.abs(across @ along):
        raise ImageError("its voxels are not of the image's size and direction")
    if apart > TOLERANCE:
        raise ImageError(f"its voxels lie up to {apart:.2f} of a voxel beside the image's pixels")
    if (grid < 0).any() or (grid >= size).any():
        raise ImageError("does not reach to this image")
    voxels = start + np.arange(columns)[None, :, None] * across + np.arange(rows)[:, None, None] * along
    return np.moveaxis(voxels, -1, 0)


def level(lies: Plane, others: Iterable[Plane | None]) -> list[int]:
    """List the places, from 0, of the images of which the first pixel lies in the plane of this one."""
    firsts = np.stack([np.full(3, np.nan) if other is None else other[:, 2] for other in others], axis=1)
    inverse = np.linalg.inv(slab(lies))
    return np.flatnonzero(np.abs(inverse[2, :3] @ firsts + inverse[2, 3]) <= TOLERANCE).tolist()


def slab(lies: Plane) -> npt.NDArray[np.float64]:
    """Make the affine, (4, 4), of the volume of one slice that an image is, its axes those of columns and rows.

    Its voxels are five pixels thick, whatever the image says: slices half a pixel apart, the tolerance, hardly differ.
    """
    right, down, first = lies.T
    across = np.cross(right, down)
    thickness = THICKNESS * across / np.sqrt(np.linalg.norm(across))
    return np.vstack([np.stack([right, down, thickness, first], axis=1), [0, 0, 0, 1]])
