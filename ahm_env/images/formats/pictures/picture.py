"""From one image file to an array: nothing silently cut off, orientation as viewers show it."""

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ahm_env.errors import ImageError, about
from ahm_env.images.formats.files import readable
from ahm_env.images.formats.limits import MOST_PACKED
from ahm_env.images.formats.pictures.codestreams import decode_jpeg, exif_of
from ahm_env.images.formats.pictures.tiff import STARTS, read_tiff, refuse_inverted, turned
from ahm_env.images.pixels.opencv import MOST_PIXELS, cv2
from ahm_env.images.source import Pixels

AS_STORED = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
PNG_START, PNG_PALETTE = b"\x89PNG\r\n\x1a\n", b"\x03"
ANIMATION = (b"acTL", b"fcTL", b"fdAT")
GIF_OR_BMP = (b"GIF87a", b"GIF89a", b"BM")
ORIENTATION, WIDTHS = 0x0112, {1: 1, 3: 2, 4: 4}  # a tag of EXIF, and the bytes of a number by its type
TURNED = "images that their EXIF orientation turns; masks must be drawn on the turned images"
SEVERAL = "images of several pages, of which the first is read"
ROUNDING = 5e-3  # of labels that were scaled to integers, or stored as float32
# Of JPEG masks: how far from 0 and 255 a value may lie, at edges, where compression rings, and inside areas.
EDGE, AREA, FLAT = 96, 32, 12
SOFT_VALUES = 3  # between black and white
NAMED = 6
if Image.MAX_IMAGE_PIXELS:  # Pillow has a limit of its own, and warns from there on
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, MOST_PIXELS)


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """What was read of an image file.

    Attributes:
        pixels: (H, W), or (H, W, 3) in RGB order, turned as EXIF has it.
        turned: Whether EXIF turned it.
        several: Whether the file has more pages, or frames.
    """

    pixels: Pixels
    turned: bool = False
    several: bool = False

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is worth knowing of it, in words that count images."""
        return (TURNED,) * self.turned + (SEVERAL,) * self.several


def read_picture(path: Path) -> Picture:
    """Read an image in its own depth.

    Returns:
        (H, W), or (H, W, 3) in RGB order; alpha is dropped, EXIF orientation applied.

    Raises:
        ImageError: The file cannot be read, is damaged, or is no image.
    """
    return _decode(path, _read(path))


def read_mask(path: Path) -> npt.NDArray[np.uint8]:
    """Read a mask as class numbers.

    Where the file has a palette, the numbers are those of the palette, whatever its colours are. A JPEG cannot hold
    class numbers (compression blurs them): one of black and white is cut at half intensity into 0 and 255.

    Returns:
        (H, W) uint8.

    Raises:
        ImageError: The file is damaged, in colour, has several pages, or holds values that are not class numbers
            0..255; or it is a JPEG and holds more than black and white.
    """
    content = _read(path)
    picture = _decode(path, content, numbers=True)
    mask = picture.pixels
    if picture.several:
        raise ImageError(f"{path}: mask has several pages; save the one that belongs to the image as a file of its own")
    if mask.ndim == 3 and (mask[..., :1] == mask).all():
        mask = mask[..., 0]
    if mask.ndim == 3:
        raise ImageError(f"{path}: mask is in colour; save it as one channel of class numbers 0..255")
    if content.startswith(JPEG_START):
        return _black_and_white(np.ascontiguousarray(mask), path)
    if (mask == mask[:1, :1]).all() and _varies_in_alpha(content):
        raise ImageError(
            f"{path}: mask is of one value but for its transparency; save it as one channel, without alpha"
        )
    return as_class_numbers(mask, str(path))


def mask_problem(mask: Pixels, image: Pixels, what: str = "image", turned: bool = False) -> str:
    """Say what is wrong with a mask that does not fit its image or has soft edges; empty if nothing is wrong."""
    if mask.shape == image.shape[:2]:
        return _soft_edges(mask)
    (mask_height, mask_width), (height, width) = mask.shape, image.shape[:2]
    sizes = f"mask is {mask_width}x{mask_height} but {what} is {width}x{height}"
    if turned and mask.shape == (width, height):
        cause = "its EXIF orientation turns the image, not the mask"
        return f"{sizes}: {cause}; turn the mask alike, or take the orientation out of the image"
    return f"{sizes}; re-export one of them"


def as_class_numbers(mask: Pixels, name: str) -> npt.NDArray[np.uint8]:
    """Convert a mask of any type to uint8; if it holds only 0 and one number above 255, to 0 and 255.

    Real numbers that differ from integers by rounding only are rounded.

    Raises:
        ImageError: It holds a value that is not a class number 0..255.
    """
    if mask.dtype == np.uint8:
        return mask
    exact = mask
    if mask.dtype.kind == "f":
        near = np.rint(mask)
        with np.errstate(invalid="ignore"):  # infinity less infinity
            exact = near if (np.abs(mask - near) <= ROUNDING).all() else mask
    numbers = np.nan_to_num(exact, nan=-1).clip(0, 255).astype(np.uint8)
    if np.array_equal(numbers, exact):
        return numbers
    low, high = exact.min(), exact.max()
    if low == 0 and np.isfinite(high) and high > 255 and np.isin(exact, (low, high)).all():
        return numbers
    nearest = np.rint(np.nan_to_num(mask.astype(np.float64), nan=-1)).clip(0, 255)
    odd = np.unique(mask[~(np.abs(mask - nearest) <= ROUNDING)])
    raise ImageError(
        f"{name}: mask holds values that are not class numbers 0..255 ({_listed(odd)}); renumber its classes, or "
        "threshold it, and save it as integers"
    )


def _varies_in_alpha(content: bytes) -> bool:
    """Whether some of an image that has been decoded is transparent, and some less so."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "TIFF", "BMP")) as image:
            return image.has_transparency_data and len(set(image.convert("RGBA").getchannel("A").getextrema())) > 1
    except Exception:  # Pillow's readers raise whatever they like: it has no such form
        return False


def _listed(values: Pixels) -> str:
    return ", ".join(f"{value:.7g}" for value in values[:NAMED]) + ", …" * (len(values) > NAMED)


def _black_and_white(mask: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.uint8]:
    """Convert a mask from a JPEG to 0 and 255; refuse it if it held other values."""
    away = np.minimum(mask, 255 - mask)
    flat = cv2.dilate(mask, np.ones((3, 3), np.uint8)) - cv2.erode(mask, np.ones((3, 3), np.uint8)) <= FLAT
    one_shade = mask.max() < 128 and mask.max() > 0
    if one_shade or (away > EDGE).any() or (flat & (away > AREA)).any():
        values, counts = np.unique(mask[flat] if flat.any() else mask, return_counts=True)
        found = np.sort(values[np.argsort(-counts, kind="stable")[:NAMED]])
        cause = f"is a JPEG and holds more than black and white ({_listed(found)}{', …' * (len(values) > NAMED)})"
        raise ImageError(f"{path}: mask {cause}, which compression blurs; save masks as PNG, from the originals")
    return np.where(mask >= 128, 255, 0).astype(np.uint8)


def _soft_edges(mask: Pixels) -> str:
    """Say so if the values of a mask are shades between black and white along edges, not classes; else empty."""
    values = np.flatnonzero(cv2.calcHist([mask], [0], None, [256], [0, 256]))  # of whole masks, faster than np.unique
    between = values[1:-1]
    if len(between) < SOFT_VALUES or values[0] != 0 or values[-1] < 128:
        return ""
    # Inside a class all neighbours are alike; on a slope none are.
    kernel = np.ones((3, 3), np.uint8)
    sloping = (cv2.dilate(mask, kernel) != cv2.erode(mask, kernel))[(mask > 0) & (mask < values[-1])]
    if sloping.mean() < 0.95:
        return ""
    cause = f"mask has soft edges: {len(values)} shades of grey ({_listed(values)}), each of which would be a class"
    return f"{cause}; threshold it (mask >= {(int(values[-1]) + 1) // 2}), and resize masks to the nearest pixel"


def _read(path: Path) -> bytes:
    with readable(path):
        content = path.read_bytes()
    if not content:
        raise ImageError(f"{path}: the file is empty (0 bytes); copy it again")
    return content


def _decode(path: Path, content: bytes, numbers: bool = False) -> Picture:
    """Decode a file; `numbers` asks for the numbers of its palette, if it has one, not for the colours."""
    with about(path):
        return _decode_content(content, numbers)


def _decode_content(content: bytes, numbers: bool) -> Picture:
    if content.startswith(STARTS):
        tiff = read_tiff(content, numbers)
        return Picture(turned(tiff.pixels, tiff.orientation), 2 <= tiff.orientation <= 8, tiff.several)
    # Some versions of OpenCV silently fill what is missing with grey, others let libpng write to stderr.
    if _truncated(content):
        raise ImageError("truncated or damaged, its end is missing; copy or export it again")
    if content.startswith(JPEG_START) and (pixels := decode_jpeg(content)) is not None:
        return Picture(turned(pixels, orientation := _orientation(content)), 2 <= orientation <= 8)
    # Of an animation OpenCV gives another frame than the one that viewers without animation show.
    if moving := content.startswith(PNG_START) and ANIMATION[0] in content[: content.find(b"IDAT")]:
        content = _without_animation(content)
    palette = content.startswith(PNG_START) and content[25:26] == PNG_PALETTE
    if content.startswith(GIF_OR_BMP) or (numbers and palette):
        return _decode_with_pillow(content, numbers, moving)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), AS_STORED)
    except cv2.error as error:
        raise ImageError(f"too large or damaged ({error.err}); export it again") from error
    if image is None:
        raise ImageError("not an image, or a damaged one; open it in a viewer and export it again")
    if image.ndim == 3 and image.shape[2] != 3:
        raise ImageError(f"has {image.shape[2]} channels; export it in grey or in RGB")
    image = image if image.ndim == 2 else np.ascontiguousarray(image[..., ::-1])
    return Picture(turned(image, orientation := _orientation(content)), 2 <= orientation <= 8, moving)


def _decode_with_pillow(content: bytes, numbers: bool, moving: bool) -> Picture:
    """Decode what OpenCV does not: the numbers of palettes, GIF as it is, and the colours of some kinds of BMP."""
    try:
        with Image.open(io.BytesIO(content), formats=("GIF", "BMP", "PNG")) as image:
            if image.width * image.height > min(MOST_PIXELS, MOST_PACKED * len(content)):
                raise ImageError(f"too large or damaged ({image.width}x{image.height} pixels); export it again")
            several = moving or getattr(image, "n_frames", 1) > 1
            kept = image if image.mode in ("P", "L") and (numbers or image.mode == "L") else None
            pixels = np.array(kept or image.convert("L" if image.mode == "1" else "RGB"))
            if kept and image.mode == "P":
                refuse_inverted(pixels, np.reshape(image.getpalette() or (), (-1, 3)))
            return Picture(turned(pixels, orientation := _orientation(content)), 2 <= orientation <= 8, several)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever they like
        cause = f"too large, truncated or damaged ({type(error).__name__})"
        raise ImageError(f"{cause}; export it again as PNG") from None


def _orientation(content: bytes) -> int:
    """Read the orientation that a JPEG or a PNG states, 1..8; 1 if it states none."""
    exif = b""
    if content.startswith(PNG_START):
        exif = next((data for kind, data in _png_chunks(content) if kind == b"eXIf"), b"")
    elif content.startswith(JPEG_START):
        exif = exif_of(content)
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"
    at = int.from_bytes(exif[4:8], order)
    for entry in range(at + 2, at + 2 + 12 * int.from_bytes(exif[at : at + 2], order), 12):
        if int.from_bytes(exif[entry : entry + 2], order) == ORIENTATION:
            width = WIDTHS.get(int.from_bytes(exif[entry + 2 : entry + 4], order), 0)
            return int.from_bytes(exif[entry + 8 : entry + 8 + width], order)
    return 1


def _truncated(content: bytes) -> bool:
    if content.startswith(JPEG_START):
        return content.rfind(JPEG_END) <= content.rfind(JPEG_SCAN)
    if content.startswith(PNG_START):
        return not any(kind == b"IEND" for kind, _ in _png_chunks(content))
    return False


def _png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """List the intact chunks (type, data) of a PNG, up to the first damaged one."""
    chunks = []
    position = len(PNG_START)
    while position + 12 <= len(content):
        end = position + 8 + int.from_bytes(content[position : position + 4])
        if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4]):
            break
        chunks.append((content[position + 4 : position + 8], content[position + 8 : end]))
        position = end + 4
    return chunks


def _without_animation(content: bytes) -> bytes:
    parts = [PNG_START]
    for kind, data in _png_chunks(content):
        if kind not in ANIMATION:
            parts += [len(data).to_bytes(4), kind, data, zlib.crc32(kind + data).to_bytes(4)]
    return b"".join(parts)
