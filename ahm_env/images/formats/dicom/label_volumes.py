"""Label volumes (NIfTI) drawn on a series of DICOM images: what the voxels hold that the pixels of an image are."""

from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError
from ahm_env.images.formats.dicom.planes import Plane, voxels_on
from ahm_env.images.formats.nifti.intensities import class_numbers
from ahm_env.images.formats.nifti.recent import LRUCache
from ahm_env.images.formats.nifti.volume import read_header, read_volume
from ahm_env.images.pixels.fit import Image8

GRID = "save it on the grid of the whole series (where DICOM counts to the left and back, NIfTI counts right and front)"
# Images of a series come one after another.
_kept: LRUCache[Image8] = LRUCache(1)


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
    try:
        voxels = voxels_on(header.ras_affine, header.ras_shape, lies, shape)
    except ImageError as error:
        raise ImageError(f"{path}: {error}; {GRID}") from None
    status = path.stat()
    key = path, status.st_size, status.st_mtime_ns
    labels = _kept.get(key, lambda: class_numbers(header, read_volume(header)))
    return np.ascontiguousarray(labels[tuple(voxels)])
