"""The slices of NIfTI files as others read them: along an axis, as radiologists look at them."""

from pathlib import Path

import numpy as np

from ahm_env.images.pixels.fit import AXES
from tests.ahm_env.images.references import itk
from tests.ahm_env.images.references.display import Values, of_volume


def nibabel(path: Path, axis: str) -> list[Values]:
    """Let nibabel rescale the first volume and turn it."""
    import nibabel

    image = nibabel.load(path)
    values = np.asanyarray(image.dataobj)
    values = values.reshape(*(*values.shape, 1, 1)[:3], -1, order="F")[..., 0]
    turned = nibabel.apply_orientation(values, nibabel.io_orientation(image.affine))
    return slices(np.stack([turned[name] for name in "RGB"], axis=-1) if turned.dtype.names else turned, axis)


def simpleitk(path: Path, axis: str) -> list[Values]:
    """Let SimpleITK rescale the first volume and turn it."""
    image = itk.read(path)
    while image.GetDimension() > 3:
        image = image[..., 0]
    values = np.swapaxes(itk.array(itk.turned_to_ras(image)), 0, 2)
    return slices(values if values.ndim == 3 else values[..., :3], axis)


def slices(values: Values, axis: str) -> list[Values]:
    """Cut (X, Y, Z[, 3]) in RAS order; a flat volume across its flat side, whatever the axis."""
    thin = [place for place in range(3) if values.shape[place] == 1]
    across = thin[0] if len(thin) == 1 else AXES.index(axis)
    shown = values if values.ndim == 4 else of_volume(values)
    # Above is the head, or the front; on the left is the patient's right, or the front.
    return [np.fliplr(np.rot90(each)) for each in np.moveaxis(shown, across, 0)]


READERS = {"nibabel": nibabel, "SimpleITK": simpleitk}
