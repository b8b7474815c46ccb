"""TIFF, as its tags have it: planes, tiles, bits, palettes, alpha, white that is zero, and the orientation.

Source: TIFF 6.0 (Adobe, 1992); BigTIFF. What the tags say is checked before anything is allocated, and only such
compressions are decoded as cannot become larger than they say, or whose own header is checked first.
"""

import io
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ahm_env.errors import ImageError
from ahm_env.images.formats.limits import refuse_bomb
from ahm_env.images.formats.pictures.codestreams import decode_jpeg, frame_shape
from ahm_env.images.pixels.opencv import MOST_PIXELS
from ahm_env.images.source import Pixels

if TYPE_CHECKING:
    from tifffile import TiffPage

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PAGES = 16  # that are looked at: whether there are several, or a thumbnail comes first
BYTES = {1, 5, 8, 32773, 32946, 34925, 50000}  # none, LZW, Deflate twice, PackBits, LZMA, Zstandard
FAX, JPEG, JPEG_2000 = {2, 3, 4}, {7}, {33004, 33005, 34712}
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, BILEVEL_MASK, CMYK, YCBCR = range(7)
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, BILEVEL_MASK: 1, CMYK: 4, YCBCR: 3}
PHOTOMETRIC, ORIENTATION = 262, 274
PREMULTIPLIED, ALPHA = 1, 2
REDUCED_OR_MASK = 1 | 4
IMAGEJ = re.compile(r"ImageJ=.*^images=([0-9]+)", re.DOTALL | re.MULTILINE)  # in the description of a stack
REMEDY = "export it again as PNG, or as TIFF in grey or RGB, compressed by LZW or Deflate"

# Whatever is wrong is told by us, with the file.
logging.getLogger("tifffile").disabled = True


@dataclass(frozen=True, slots=True, eq=False)
class Tiff:
    """What was read of a file.

    Attributes:
        pixels: (H, W) or (H, W, 3) RGB as stored, before it is turned; numbers, where they were asked for, of the
            palette, or of grey as they are stored.
        orientation: 1..8, as EXIF has it.
        several: Whether there is more than one page, thumbnails apart, or a stack in one; the first is read.
    """

    pixels: Pixels
    orientation: int
    several: bool


def read_tiff(content: bytes, numbers: bool = False) -> Tiff:
    """Read the first page that is no thumbnail.

    Args:
        content: The content of the file.
        numbers: Give the numbers of a palette, not its colours, and those of grey, whatever is white.

    Raises:
        ImageError: It is damaged, too large, or of a kind that is not read, or of numbers 0 is shown as white and the
            only other one as black; the message does not name the file.
    """
    from tifffile import TiffFile, TiffPage

    try:
        with np.errstate(all="ignore"), TiffFile(io.BytesIO(content)) as file:
            found = [page for page in islice(file.pages, MOST_PAGES) if isinstance(page, TiffPage)]
            pages = [page for page in found if not page.subfiletype & REDUCED_OR_MASK]
            page = (pages or found)[0]
            _check(page, content)
            stored = page.asarray(squeeze=False, maxworkers=1)[:, 0]
            pixels = stored[0] if len(stored) == 1 else np.moveaxis(stored[..., 0], 0, -1)
            orientation = int(page.tags.valueof(ORIENTATION, 1))
            several = len(pages) > 1 or _is_stack(page, content)
            return Tiff(_meant(page, pixels, numbers), orientation, several)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too large for the memory that is left; export it smaller") from None
    except Exception as error:  # the readers of its many parts raise whatever they like
        raise ImageError(f"truncated, damaged or of an unusual kind ({type(error).__name__}); {REMEDY}") from None


def _check(page: "TiffPage", content: bytes) -> None:
    """Refuses, before anything is allocated, what cannot be read faithfully."""
    separate, depth, height, width, together = page.shaped
    photometric, bits = int(page.photometric), page.bitspersample
    if page.tags.get(PHOTOMETRIC) is None:
        raise ImageError(f"does not say what its colours are (it has no PhotometricInterpretation); {REMEDY}")
    if photometric not in COLOURS:
        raise ImageError(f"its colours are of a kind that is not read ({photometric}); {REMEDY}")
    if photometric == YCBCR and page.compression not in JPEG:
        raise ImageError(f"its colours are stored as YCbCr; {REMEDY}")
    if not isinstance(bits, int) or page.dtype is None or page.dtype.kind not in "buif" or depth != 1:
        raise ImageError(f"its samples are neither integers nor real numbers of one size, in one plane; {REMEDY}")
    extras = page.samplesperpixel - COLOURS[photometric]
    if extras < 0 or (extras and COLOURS[photometric] == 1 and _alpha(page) not in (PREMULTIPLIED, ALPHA)):
        cause = f"has {page.samplesperpixel} samples a pixel, and does not say what they are"
        raise ImageError(f"{cause}; export one of them in grey, or all in RGB")
    leaks = (page.tilelength, page.tilewidth) if page.is_tiled else (height, width)
    if min(height, width) < 1 or max(height * width, prod(leaks)) > MOST_PIXELS:
        raise ImageError(f"too large or damaged: {width}x{height} pixels, at most {MOST_PIXELS:,} are read; crop it")
    refuse_bomb("it", separate * together * max(height * width, prod(leaks)) * page.dtype.itemsize, len(content))
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if len(segments) != prod(page.chunked) or any(count < 1 or at + count > len(content) for at, count in segments):
        raise ImageError("truncated or damaged, some of its pixels are missing; copy or export it again")
    if page.compression in JPEG | JPEG_2000:
        for at, count in segments:
            frame = content[at : at + count]
            rows, columns, _ = frame_shape(frame)
            if rows > page.chunks[1 if separate > 1 else 0] or columns > page.chunks[2 if separate > 1 else 1]:
                raise ImageError(f"its parts are larger than they say, it is damaged; {REMEDY}")
            if page.compression in JPEG:
                decode_jpeg((page.jpegtables or b"")[:-2] + frame[2 if page.jpegtables else 0 :], colour=False)
    elif page.compression not in BYTES | FAX:
        name = getattr(page.compression, "name", page.compression)
        raise ImageError(f"compressed as {name}, which is not read; {REMEDY}")


def _is_stack(page: "TiffPage", content: bytes) -> bool:
    """Whether more images follow the one of a page, as ImageJ stores large stacks: only its description says so."""
    found = IMAGEJ.match(page.description)
    return found is not None and int(found[1]) > 1 and page.dataoffsets[0] + 2 * page.nbytes <= len(content)


def _alpha(page: "TiffPage") -> int:
    """Tell what the first sample beside grey or colours is."""
    return int(page.extrasamples[0]) if page.extrasamples else 0


def _meant(page: "TiffPage", pixels: Pixels, numbers: bool) -> Pixels:
    """Convert samples (H, W, S) to grey or RGB."""
    photometric, bits = int(page.photometric), page.bitspersample
    count = COLOURS[photometric]
    colours = pixels[..., :count]
    if photometric == PALETTE:
        colours = colours.astype(np.uint8) if bits == 1 else colours  # as truth values these would choose, not number
        if numbers:
            refuse_inverted(colours[..., 0], np.asarray(page.colormap).T)
        return colours[..., 0] if numbers else _palette_colours(page, colours[..., 0])
    if numbers and photometric == WHITE_IS_ZERO:
        refuse_two(colours[..., 0], "its PhotometricInterpretation")
    if pixels.dtype.kind in "bu" and bits < 8:
        colours, bits = (colours.astype(np.float32) * (255 / (2**bits - 1))).round().astype(np.uint8), 8
    if photometric == WHITE_IS_ZERO and not numbers:
        colours = 2**bits - 1 - colours if colours.dtype.kind == "u" else -1 - colours
    elif photometric == CMYK:
        colours = _from_cmyk(colours, 2**bits - 1)
    elif _alpha(page) == PREMULTIPLIED and pixels.shape[2] > count:
        colours = _divided(colours, pixels[..., count : count + 1], 2**bits - 1)
    return colours[..., 0] if count == 1 else np.ascontiguousarray(colours)


def refuse_inverted(numbers: Pixels, palette: Pixels) -> None:
    """Refuse a mask (H, W) of 0 and one more number of a palette (N, 3), in which 0 is white and the other black."""
    high = int(numbers.max())
    if high < len(palette) and palette[0].min() == palette.max() > 0 and not palette[high].any():
        refuse_two(numbers, "its palette")


def refuse_two(numbers: Pixels, what: str) -> None:
    """Refuse a mask (H, W) of 0, which something shows as white, and one more number, which is black.

    Whether what is marked is 0 or the other is anyone's guess.
    """
    low, high = numbers.min(), numbers.max()
    if low == 0 < high and np.isin(numbers, (low, high)).all():
        raise ImageError(f"{what} shows 0 as white and {high:g} as black; save it as grey, 0 where nothing is")


def _palette_colours(page: "TiffPage", numbers: Pixels) -> Pixels:
    table = np.asarray(page.colormap)
    # 16 bits by the standard; some write 8.
    shown = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
    return np.ascontiguousarray(shown.T[numbers])


def _from_cmyk(inks: Pixels, top: int) -> Pixels:
    light = top - inks.astype(np.float64)
    return np.asarray((light[..., :3] * light[..., 3:] / top).round().astype(inks.dtype))


def _divided(colours: Pixels, alpha: Pixels, top: int) -> Pixels:
    """Colours that were multiplied by their alpha, as they were before."""
    if colours.dtype.kind != "u":
        raise ImageError(f"its colours are multiplied by an alpha that is no whole number; {REMEDY}")
    whole = colours.astype(np.float64) * top / np.maximum(alpha, 1)
    return np.asarray(whole.round().clip(0, top).astype(colours.dtype))


# By the orientation that EXIF states, how what is stored is turned to be shown.
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


def turned(stored: Pixels, orientation: int) -> Pixels:
    """Turn what is stored, (H, W[, 3]), as it is to be shown; an unknown orientation turns nothing."""
    turn = TURNS.get(orientation)
    return np.ascontiguousarray(turn(stored)) if turn else stored
