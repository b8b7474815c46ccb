"""From one image file to an array: nothing silently cut off, orientation as viewers show it."""

import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.images.files import readable
from ahm_env.images.opencv import cv2
from ahm_env.images.source import Pixels

KEEP_DEPTH = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
PNG_START, PNG_PALETTE = b"\x89PNG\r\n\x1a\n", 3


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

    Of a PNG with a palette of colours, the numbers are those of the palette. A JPEG cannot hold class numbers
    (compression blurs them), so it is cut at half intensity into 0 and 255.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: The file is damaged, in colour, or holds values that are not class numbers 0..255.
    """
    content = _read(path)
    mask = _decode(path, content)
    if mask.ndim == 3 and (mask[..., :1] == mask).all():
        mask = mask[..., 0]
    if mask.ndim == 3 and content.startswith(PNG_START) and content[25] == PNG_PALETTE:
        mask = _decode(path, _palette_as_grey(content)) // (255 // (2 ** content[24] - 1))
    if mask.ndim == 3:
        raise ImageError(f"{path}: mask is in colour; save it as one channel of class numbers 0..255")
    if content.startswith(JPEG_START):
        return np.where(mask >= 128, 255, 0).astype(np.uint8)
    return as_class_numbers(mask, str(path))


def mismatch(mask: Pixels, image: Pixels, what: str = "image") -> str:
    """What to say of a mask that has not the size of its image; empty where it has."""
    if mask.shape == image.shape[:2]:
        return ""
    (mask_height, mask_width), (height, width) = mask.shape, image.shape[:2]
    return f"mask is {mask_width}x{mask_height} but {what} is {width}x{height}; re-export one of them"


def as_class_numbers(mask: Pixels, name: str) -> npt.NDArray[np.uint8]:
    """Gives a mask of any type as uint8; where it holds only 0 and one number above 255, as 0 and 255.

    Raises:
        ImageError: It holds a value that is not a class number 0..255.
    """
    if mask.dtype == np.uint8:
        return mask
    numbers = np.nan_to_num(mask, nan=-1).clip(0, 255).astype(np.uint8)
    if np.array_equal(numbers, mask):
        return numbers
    low, high = mask.min(), mask.max()
    if low == 0 and np.isfinite(high) and np.isin(mask, (low, high)).all():
        return numbers
    raise ImageError(f"{name}: mask holds values that are not class numbers 0..255; renumber its classes")


def _read(path: Path) -> bytes:
    with readable(path):
        content = path.read_bytes()
    if not content:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again")
    return content


def _decode(path: Path, content: bytes) -> Pixels:
    # Some versions of OpenCV silently fill what is missing with grey, others let libpng write to stderr.
    if _truncated(content):
        raise ImageError(f"{path}: truncated or damaged, its end is missing; copy or export it again")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), KEEP_DEPTH)
    except cv2.error as error:
        raise ImageError(f"{path}: too large or damaged ({error.err}); export it again") from error
    if image is None:
        raise ImageError(f"{path}: not an image, or a damaged one; open it in a viewer and export it again")
    if image.ndim == 3 and image.shape[2] != 3:
        raise ImageError(f"{path}: has {image.shape[2]} channels; export it in grey or in RGB")
    return image


def _truncated(content: bytes) -> bool:
    if content.startswith(JPEG_START):
        return content.rfind(JPEG_END) <= content.rfind(JPEG_SCAN)
    if content.startswith(PNG_START):
        return not any(kind == b"IEND" for kind, _ in _png_chunks(content))
    return False


def _png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """The intact chunks (type, data) of a PNG, up to the first damaged one."""
    chunks = []
    position = len(PNG_START)
    while position + 12 <= len(content):
        end = position + 8 + int.from_bytes(content[position : position + 4])
        if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4]):
            break
        chunks.append((content[position + 4 : position + 8], content[position + 8 : end]))
        position = end + 4
    return chunks


def _palette_as_grey(content: bytes) -> bytes:
    """The same PNG without its palette, so that OpenCV gives the numbers and not their colours."""
    parts = [PNG_START]
    for kind, data in _png_chunks(content):
        if kind == b"IHDR":
            data = data[:9] + b"\0" + data[10:]
        if kind not in (b"PLTE", b"tRNS"):
            parts += [len(data).to_bytes(4), kind, data, zlib.crc32(kind + data).to_bytes(4)]
    return b"".join(parts)
