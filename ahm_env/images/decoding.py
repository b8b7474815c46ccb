"""From the bytes of one image file to an array: nothing silently cut off, orientation as viewers show it."""

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.images.opencv import cv2
from ahm_env.images.source import Pixels

JPEG, PNG = (".jpg", ".jpeg"), (".png",)
EXTENSIONS = (*PNG, *JPEG, ".tif", ".tiff", ".bmp")
KEEP_DEPTH = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH


def read_image(path: Path) -> Pixels:
    """Reads an image in its own depth.

    Returns:
        (H, W), or (H, W, 3) in RGB order; alpha is dropped, EXIF orientation applied.

    Raises:
        ImageError: The file cannot be read, is damaged, or is no image.
    """
    image = _decode(path, _read(path))
    return image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Reads a mask as class numbers.

    A JPEG cannot hold class numbers (compression blurs them), so a JPEG mask is cut at half intensity into 0 and
    255.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: The file is damaged, in colour, or holds values that are no class numbers 0..255.
    """
    content = _read(path)
    mask = _decode(path, _palette_indices(content))
    if mask.ndim == 3:
        if not is_grey(mask):
            raise ImageError(f"{path}: mask is in colour; save it as one channel of class numbers 0..255")
        mask = mask[..., 0]
    if content.startswith(b"\xff\xd8"):
        return np.where(mask >= 128, 255, 0).astype(np.uint8)
    return as_class_numbers(mask, str(path))


def as_class_numbers(mask: Pixels, name: str) -> npt.NDArray[np.uint8]:
    """Checks that every value of a mask is a class number 0..255, and gives it as uint8.

    Raises:
        ImageError: It is not.
    """
    if mask.dtype == np.uint8:
        return mask
    numbers = np.nan_to_num(mask, nan=-1.0).clip(0, 255).astype(np.uint8)
    if not np.array_equal(numbers, mask):
        raise ImageError(f"{name}: mask holds values that are not class numbers 0..255; renumber its classes")
    return numbers


def is_grey(image: Pixels) -> bool:
    """Whether an image of shape (H, W) or (H, W, 3) has no colour."""
    return image.ndim == 2 or bool((image[..., :1] == image).all())


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not content:
        raise ImageError(f"{path}: file is empty (0 bytes); copy it again")
    return content


def _decode(path: Path, content: bytes) -> Pixels:
    _refuse_truncated(path, content)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), KEEP_DEPTH)
    except cv2.error as error:
        raise ImageError(f"{path}: too large or damaged for OpenCV ({error.err}); export it again") from error
    if image is None:
        raise ImageError(f"{path}: not an image, or a damaged one; open it in a viewer, then export it again")
    if image.ndim == 3 and image.shape[2] != 3:
        raise ImageError(f"{path}: has {image.shape[2]} channels; export it in grey or in RGB")
    return image


def _refuse_truncated(path: Path, content: bytes) -> None:
    """Some versions of OpenCV fill what is missing with grey, without a word."""
    truncated = False
    if content.startswith(b"\xff\xd8"):
        truncated = content.rfind(b"\xff\xd9") <= content.rfind(b"\xff\xda")
    elif content.startswith(b"\x89PNG\r\n\x1a\n"):
        truncated = not _whole_png(content)
    if truncated:
        raise ImageError(f"{path}: truncated or damaged (its end is missing); copy or export it again")


def _whole_png(content: bytes) -> bool:
    position = 8
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4])
        kind = content[position + 4 : position + 8]
        end = position + 8 + length
        if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4]):
            return False
        if kind == b"IEND":
            return True
        position = end + 4
    return False


def _palette_indices(content: bytes) -> bytes:
    return content
