"""The first page of PNG, JPEG, TIFF, BMP and GIF files, as others read it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from tests.ahm_env.images.references import itk
from tests.ahm_env.images.references.display import Values, of_range

GREY, RGB = 1, 2  # of TIFF


def pillow(path: Path) -> list[Values]:
    """Pillow turns as EXIF has it; it keeps 16 bits of grey only."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "I;16", "I;16B", "I", "F"):
        image = image.convert("RGB")
    return [shown(np.asarray(image))]


def simpleitk(path: Path) -> list[Values]:
    """SimpleITK turns nothing; of JPEG it does not smooth the colours."""
    if not path.name.lower().endswith((".png", ".tif", ".tiff")):
        raise NotImplementedError
    image = itk.read(path)
    values = itk.array(image[..., 0] if image.GetDimension() == 3 else image)
    colours = image.GetNumberOfComponentsPerPixel()
    return [shown(values if colours == 1 else values[..., 0] if colours == 2 else values[..., :3])]


def tifffile(path: Path) -> list[Values]:
    """Read what TIFF stores as it is to be shown: with tifffile, so that only what we make of it is compared."""
    from tifffile import TiffFile

    if not path.name.lower().endswith((".tif", ".tiff")):
        raise NotImplementedError
    with TiffFile(path) as file:
        page = file.pages.first
        if page.photometric not in (GREY, RGB) or page.bitspersample < 8 or page.tags.valueof(274, 1) != 1:
            raise NotImplementedError
        values = page.asarray(squeeze=False)[:, 0]
    values = values[0] if len(values) == 1 else np.moveaxis(values[..., 0], 0, -1)
    return [shown(values[..., :3] if page.photometric == RGB else values[..., 0])]


def shown(values: Values) -> Values:
    """Scale what has more than 8 bits."""
    return values.astype(np.float64) if values.dtype == np.uint8 else of_range(values)


READERS = {"Pillow": pillow, "SimpleITK": simpleitk, "tifffile": tifffile}


def numbers(path: Path) -> list[Values]:
    """The class numbers of a mask as Pillow reads it; of one in colour, or of several pages, none."""
    with Image.open(path) as image:
        values = np.asarray(image.convert("L") if image.mode in ("1", "LA") else image)
        if getattr(image, "n_frames", 1) > 1:
            raise NotImplementedError
        if image.format == "JPEG":
            values = np.where(values >= 128, 255, 0)
        if image.mode == "PA":
            values = values[..., 0]
    if values.ndim == 3 and not (values[..., :1] == values[..., :3]).all():
        raise ValueError("colours are no numbers")
    return [values if values.ndim == 2 else values[..., 0]]


MASK_READERS = {"Pillow": numbers}
