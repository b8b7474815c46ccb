"""One frame of a DICOM file, decoded. This module needs pydicom: import it where it is used."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from ahm_env.errors import ImageError
from ahm_env.images.formats.dicom.dicom_file import PIXELS, dataset_stream, understood
from ahm_env.images.formats.dicom.header import Header, read_header
from ahm_env.images.formats.dicom.values import GREY, INVERTED, PALETTE, full_range
from ahm_env.images.formats.pictures.codestreams import (
    PADDING,
    decode_jpeg,
    frame_shape,
    sample_bits,
    without_tail,
)
from ahm_env.images.pixels.fit import Image8
from ahm_env.images.pixels.window import Window
from ahm_env.images.source import Pixels

# pydicom would try whatever is installed until something succeeds. Of damaged data pylibjpeg's RLE decoder panics, past
# `except Exception` and into the terminal, and its JPEG-LS decoder invents what is missing.
PLUGINS = {
    RLELossless: ("pydicom",),
    JPEGBaseline8Bit: ("pillow",),
    JPEGLSLossless: ("pyjpegls", "pylibjpeg"),
    JPEGLSNearLossless: ("pyjpegls", "pylibjpeg"),
    JPEG2000Lossless: ("pylibjpeg", "pillow"),
    JPEG2000: ("pylibjpeg", "pillow"),
}
OTHERWISE = ("pylibjpeg",)
JPEG_LS = {JPEGLSLossless, JPEGLSNearLossless}
# Of which pydicom leaves unused bits as they are. Lossy values may lie a little above what the used ones hold.
EXACT = {JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless, HTJ2KLosslessRPCL}
JPEG_LS_FRAME, JPEG_LS_SCAN = b"\xff\xf7", b"\xff\xda"


def read_frame(path: Path, index: int = 0, window: Window | None = None) -> Pixels:
    """Decode one frame.

    Args:
        path: A DICOM file with pixels.
        index: Which, from 0.
        window: Shown range of a grey image, instead of the one that the file gives.

    Returns:
        (H, W): uint8 where there is a window, else values in the modality's units, to be scaled by their own range;
        always bright where the object is bright (MONOCHROME1 is inverted). Colour: (H, W, 3) uint8, RGB.

    Raises:
        ImageError: It cannot be decoded; the message does not name the file.
        OSError: The file cannot be opened, or the disk fails.
    """
    header = read_header(path)
    if not header.frames:
        raise ImageError("it holds no image; take it out")
    with stored_frames(path, header) as decode:
        stored, kind = decode(index)
        bits = header.options["bits_stored"] or 8 * stored.dtype.itemsize
        display = header.displays[min(index, len(header.displays) - 1)]
        if kind == "RGB":
            return np.ascontiguousarray(full_range(stored, bits))
        if kind == PALETTE:
            return display.palette_colours(stored)
        if kind in (GREY, INVERTED):
            return display.grey(stored, bits, kind == INVERTED, window)
        raise ImageError("its colours are of a kind that is not supported; export it again in RGB")


@contextmanager
def stored_frames(path: Path, header: Header) -> Iterator[Callable[[int], tuple[Pixels, str]]]:
    """Open a file, and give what decodes a frame, by its number from 0: stored values, and how they are shown.

    Args:
        path: The file.
        header: What was read of it.

    Raises:
        ImageError: A frame cannot be decoded; the message does not name the file.
        OSError: The file cannot be opened, or the disk fails.
    """
    with path.open("rb") as file, understood(PIXELS), np.errstate(all="ignore"):
        yield partial(_decode, dataset_stream(file), header)


def _decode(stream: BinaryIO, header: Header, index: int) -> tuple[Pixels, str]:
    """Decode the stored values of a frame; return them with their photometric interpretation."""
    stream.seek(header.offset)
    array, kind = _stored(stream, header, index)
    return array.astype(array.dtype.newbyteorder("="), copy=False), kind


def _stored(stream: BinaryIO, header: Header, index: int) -> tuple[Pixels, str]:
    syntax, low = header.options["transfer_syntax_uid"], header.low_bits
    decoder = _decoder(syntax)
    if not syntax.is_encapsulated:
        if header.options["bits_allocated"] == 1 and syntax.is_little_endian:
            array = _bits(stream, header.options, index)
            return array, _kind(array, header.options)
        array, found = decoder.as_array(stream, index=index, **_with_low(header.options, low))
        return array >> low if low else array, _kind(array, found)
    options = header.options | {"number_of_frames": 1}
    count = header.options["number_of_frames"]
    frame = get_frame(stream, index, number_of_frames=count, extended_offsets=header.offsets)
    if syntax != RLELossless:
        frame = without_tail(frame)
        expected = tuple(options[name] for name in ("rows", "columns", "samples_per_pixel"))
        rows, columns, samples = frame_shape(frame)
        if (rows, columns, samples) != expected:
            sizes = f"{columns}x{rows}x{samples} pixels are compressed but the header says {expected[1]}x{expected[0]}"
            raise ImageError(f"{sizes}x{expected[2]}; the file is damaged: export it again")
        if options["bits_stored"] and sample_bits(frame) <= options["bits_stored"]:
            low = 0  # only what is used was compressed
    if syntax == JPEGBaseline8Bit:
        decode_jpeg(frame, colour=False)  # to see damage, which the decoders below are silent of
    options = _with_low(options, low)
    alone = encapsulate([frame], has_bot=False)
    first, *others = _plugins(decoder, syntax)
    try:
        array, found = decoder.as_array(alone, index=0, decoding_plugin=first, **options)
    except Exception:
        if JPEG_LS.isdisjoint({syntax}) or not others:
            raise
        array, found = decoder.as_array(alone, index=0, decoding_plugin=others[0], **options)
        if not _is_jpeg_ls_of(frame, array):
            raise
    if syntax in EXACT and (unused := 8 * array.dtype.itemsize - options["bits_stored"]) > 0:
        array = array << unused >> unused  # signed values get their sign, overlays go
    return array >> low if low else array, _kind(array, found)


def _with_low(options: dict[str, Any], low: int) -> dict[str, Any]:
    """Have the lowest bits, of which pydicom does not know, taken for used ones; they are cut off later."""
    return options | {"bits_stored": options["bits_stored"] + low} if low else options


def _bits(stream: BinaryIO, options: dict[str, Any], index: int) -> Image8:
    """Unpack a frame of single bits, (H, W), of which pydicom cannot read all that do not begin with a byte."""
    rows, columns, samples = (options[name] for name in ("rows", "columns", "samples_per_pixel"))
    if samples != 1:
        raise ImageError("single bits are of one sample each; export it again")
    first, offset = divmod(index * rows * columns, 8)
    stream.seek(first, os.SEEK_CUR)
    packed = np.frombuffer(stream.read(-(-(offset + rows * columns) // 8)), np.uint8)
    return np.unpackbits(packed, bitorder="little")[offset:][: rows * columns].reshape(rows, columns)


def _is_jpeg_ls_of(frame: bytes, array: Pixels) -> bool:
    """Whether a frame is what these pixels are when they are compressed: a lenient decoder invents what is damaged."""
    import jpeg_ls

    start, scan = frame.find(JPEG_LS_FRAME), frame.find(JPEG_LS_SCAN)
    if array.ndim != 2 or array.dtype.itemsize > 2 or not 0 < start < scan:
        return False
    bits, near = frame[start + 4], frame[scan + 7]
    stored = array.view(f"u{array.dtype.itemsize}") & (2**bits - 1)
    again = bytes(jpeg_ls.encode_buffer(stored.tobytes(), *array.shape, 1, bits, near, 0))
    values = again[again.find(JPEG_LS_SCAN) : -2]
    return frame.startswith(values, scan) and not frame[scan + len(values) : -2].strip(PADDING)


def _kind(array: Pixels, found: dict[str, Any]) -> str:
    kind = str(found["photometric_interpretation"])
    if (array.ndim == 2) != (kind in (GREY, INVERTED, PALETTE)):
        raise ImageError("Samples per Pixel and Photometric Interpretation contradict each other; export it again")
    return kind


def _decoder(syntax: UID) -> Decoder:
    try:
        return get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(f"compressed as {syntax.name}, which cannot be read; export it without compression") from None


def _plugins(decoder: Decoder, syntax: UID) -> list[str]:
    """List the decoders that are installed, the best first."""
    if names := [name for name in PLUGINS.get(syntax, OTHERWISE) if name in decoder.available_plugins]:
        return names
    remedy = "pip install 'ahm-env[medical]'"
    raise ImageError(f"compressed as {syntax.name}, for which no decoder is installed; {remedy}")
