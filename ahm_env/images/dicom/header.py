"""One DICOM file: its header, read within limits, and where its pixels begin.

pydicom does the parsing. What it raises or warns of may quote a patient's name, so none of its words get out. This
module needs pydicom: import it where it is used.
"""

import io
import logging
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dicom.identity import NAMES, NUMBERS, identity
from ahm_env.images.dicom.label_volumes import Plane, plane
from ahm_env.images.dicom.values import PALETTES, Display, frame_groups, functional_group, read_displays
from ahm_env.images.files import HARMLESS_BYTES, MOST_SWELLING

HEADER = "its header cannot be read"
MOST_PIXELS = 100_000_000
MOST_FRAMES = 100_000
MOST_INFLATED = 2**27
FILES_KEPT = 8
SMALLEST_FRAGMENT = 8  # bytes: the tag and the length of one that is empty
IMAGE, PRIVATE = "Image Storage", "a private kind"
# Their pixels are labels or doses.
NO_IMAGES = ("Segmentation Storage", "Label Map Segmentation Storage", "RT Dose Storage")
PIXEL_ELEMENTS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
LONG_LENGTHS = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")
OPTIONS = {
    "samples_per_pixel": "SamplesPerPixel",
    "photometric_interpretation": "PhotometricInterpretation",
    "planar_configuration": "PlanarConfiguration",
    "rows": "Rows",
    "columns": "Columns",
    "bits_allocated": "BitsAllocated",
    "bits_stored": "BitsStored",
    "pixel_representation": "PixelRepresentation",
}
# Of enhanced objects in a sequence of these names.
PLACE = {
    "PlanePositionSequence": "ImagePositionPatient",
    "PlaneOrientationSequence": "ImageOrientationPatient",
    "PixelMeasuresSequence": "PixelSpacing",
}
TAGS = [
    int(Tag(keyword))
    for keyword in (
        *OPTIONS.values(),
        *(f"{palette}{part}" for palette in PALETTES for part in ("Descriptor", "Data")),
        *(f"Segmented{palette}Data" for palette in PALETTES),
        "SOPClassUID",
        *NAMES,
        *NUMBERS,
        "BurnedInAnnotation",
        "NumberOfFrames",
        "RescaleSlope",
        "RescaleIntercept",
        "ModalityLUTSequence",
        "VOILUTSequence",
        "WindowCenter",
        "WindowWidth",
        "VOILUTFunction",
        *PLACE.values(),
        "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence",
        "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths",
    )
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opened:
    """An open DICOM file.

    Attributes:
        stream: The file, or what it holds inflated, at the first byte of the pixels.
        dataset: Its header: the elements in `TAGS`.
        syntax: How the dataset is encoded.
        keyword: Name of the element of the pixels; empty where there is none.
        options: The element's and the image's properties, as pydicom's decoders take them.
    """

    stream: BinaryIO
    dataset: Dataset
    syntax: UID
    keyword: str
    options: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What there is to know of a file before a frame is decoded.

    Attributes:
        frames: Number of images; 0 where it holds none.
        kind: Name that the standard gives to its kind of object.
        patient: PatientID; empty where it is blank.
        identity: What must stand in no path that is written down.
        burned_in: Whether it says that text is burned into the pixels.
        offset: Where the pixels begin in the dataset's stream.
        options: Their properties, as pydicom's decoders take them.
        offsets: Where each compressed frame is, for files that say so in 64 bits.
        displays: How values of each frame are shown; one for all where the frames do not differ.
        planes: Where each lies in the patient; as many as there are displays.
    """

    frames: int
    kind: str
    patient: str
    identity: frozenset[str]
    burned_in: bool
    offset: int
    options: dict[str, Any]
    offsets: tuple[bytes, bytes] | None = None
    displays: tuple[Display, ...] = ()
    planes: tuple[Plane | None, ...] = ()


def quiet() -> None:
    """Keeps pydicom's warnings, which may quote the header, from the terminal and from the logs of others.

    Filters belong to the whole process: setting them for a moment would not be safe where several threads read.
    """
    warnings.filterwarnings("ignore", module=r"pydicom|openjpeg|libjpeg|pylibjpeg")
    logging.getLogger("pydicom").propagate = False


quiet()


@contextmanager
def understood(step: str) -> Iterator[None]:
    """Turns whatever a file makes pydicom or a decoder raise into an `ImageError` that quotes none of it.

    Args:
        step: What is done, for the message: "its header cannot be read".
    """
    try:
        yield
    except (ImageError, SettingsError):
        raise
    except MemoryError:
        raise ImageError(f"{step}: it needs more memory than there is; export it in smaller pieces") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        cause = f"damaged, truncated or not as the standard has it ({type(error).__name__})"
        raise ImageError(f"{step}: {cause}; export it again, or take it out") from None


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Opens a file and reads its header, not its pixels.

    Raises:
        ImageError: It cannot be read as DICOM.
    """
    with path.open("rb") as file:
        with understood(HEADER):
            stream, dataset, syntax = _read(file)
            keyword, vr = _pixel_element(stream, dataset)
            options = {name: dataset.get(element) for name, element in OPTIONS.items()}
            options["number_of_frames"] = int(dataset.get("NumberOfFrames") or 1)
            options |= {"pixel_keyword": keyword, "pixel_vr": vr, "transfer_syntax_uid": syntax}
        yield Opened(stream, dataset, syntax, keyword, options)


def once_a_file(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Keeps what was read of the last few files: one of a thousand frames is asked for its header a thousand times."""

    @lru_cache(FILES_KEPT)
    def kept(path: Path, size: int, time: int) -> T:
        return read(path)

    @wraps(read)
    def ask(path: Path) -> T:
        status = path.stat()
        return kept(path, status.st_size, status.st_mtime_ns)

    return ask


@once_a_file
def read_header(path: Path) -> Header:
    """Reads what there is to know before a frame is decoded.

    Raises:
        ImageError: It cannot be read as DICOM, or its size and the number of its images are not to be believed.
    """
    with opened(path) as file, understood(HEADER):
        kind = _kind(file.dataset)
        holds_image = bool(file.keyword) and kind not in NO_IMAGES
        if holds_image:
            check(file)
        elif not kind or (IMAGE in kind and not file.keyword):
            raise ImageError("its pixels are missing; it is truncated or damaged: copy or export it again")
        frames = file.options["number_of_frames"] if holds_image else 0
        tables = file.dataset.get("ExtendedOffsetTable"), file.dataset.get("ExtendedOffsetTableLengths")
        return Header(
            frames=frames,
            kind=kind,
            patient=_text(file.dataset, "PatientID"),
            identity=identity(file.dataset),
            burned_in=_text(file.dataset, "BurnedInAnnotation").upper() == "YES",
            offset=file.stream.tell(),
            options=file.options,
            offsets=tables if isinstance(tables[0], bytes) and isinstance(tables[1], bytes) else None,
            displays=read_displays(file.dataset, frames) if frames else (),
            planes=_planes(file.dataset, frames) if frames else (),
        )


def check(file: Opened) -> None:
    """Refuses, before anything is allocated, a size that cannot be true.

    Raises:
        ImageError: No or too many pixels, or more than the file has bytes for.
    """
    rows, columns, samples, bits = (
        file.options[name] for name in ("rows", "columns", "samples_per_pixel", "bits_allocated")
    )
    frames = file.options["number_of_frames"]
    if not all(isinstance(number, int) and number > 0 for number in (rows, columns, samples, bits)):
        cause = "Rows, Columns, Samples per Pixel or Bits Allocated is missing or 0"
        raise ImageError(f"{cause}; the header is damaged: export it again")
    if rows * columns > MOST_PIXELS:
        raise ImageError(f"{columns}x{rows} pixels are more than {MOST_PIXELS:,}; export it smaller, or take it out")
    if not 1 <= frames <= MOST_FRAMES:
        raise ImageError(f"Number of Frames is not in 1..{MOST_FRAMES:,}; the header is damaged: export it again")
    if not file.syntax.is_transfer_syntax or file.syntax.is_private:
        raise ImageError("encoded in a private or unknown way; export it again, as Explicit VR Little Endian")
    position = file.stream.tell()
    there = file.stream.seek(0, os.SEEK_END) - position
    file.stream.seek(position)
    if file.syntax.is_encapsulated:
        needed = frames * SMALLEST_FRAGMENT
    else:
        subsampled = file.options["photometric_interpretation"] == "YBR_FULL_422"
        needed = -(-rows * columns * samples * bits * frames // 8)
        needed = needed // 3 * 2 if subsampled else needed
    if needed > there:
        cause = f"{frames} images of {columns}x{rows} pixels need {needed:,} bytes or more, it has {max(there, 0):,}"
        raise ImageError(f"{cause}; the file is truncated or damaged: copy or export it again")


def dataset_stream(file: BinaryIO) -> BinaryIO:
    """The file itself, at its beginning; or, where it is deflated, what comes after its first group, inflated.

    Raises:
        ImageError: It inflates to too much.
    """
    read_preamble(file, force=True)
    meta = read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        return file
    # pydicom would inflate without a limit.
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    packed = file.read()
    most = min(MOST_INFLATED, max(HARMLESS_BYTES // 8, MOST_SWELLING * len(packed)))
    stream = io.BytesIO(inflater.decompress(packed, most))
    if inflater.unconsumed_tail:
        raise ImageError(f"inflates to more than {most:,} bytes; export it without compression")
    return stream


def _read(file: BinaryIO) -> tuple[BinaryIO, Dataset, UID]:
    """A stream at the element of the pixels or, where there is none, at its end; the header; the syntax."""
    stream = dataset_stream(file)
    if stream is not file:
        tags: list[BaseTag | int] = [Tag(tag) for tag in TAGS]
        dataset = read_dataset(stream, False, True, stop_when=lambda tag, *_: tag in PIXEL_ELEMENTS, specific_tags=tags)
        return stream, dataset, DeflatedExplicitVRLittleEndian
    dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(TAGS))
    if syntax := dataset.file_meta.get("TransferSyntaxUID"):
        return file, dataset, UID(syntax)
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return file, dataset, ImplicitVRLittleEndian if implicit else explicit


def _pixel_element(stream: BinaryIO, dataset: Dataset) -> tuple[str, str]:
    """Keyword and type of the element that the stream is at; after that the stream is at its value."""
    implicit, little = dataset.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    head = stream.read(8)
    if len(head) < 8:
        return "", ""
    tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)
    if not implicit and head[4:6] in LONG_LENGTHS:
        stream.read(4)
    return PIXEL_ELEMENTS.get(tag, ""), "OW" if implicit else head[4:6].decode("ascii", "replace")


def _planes(dataset: Dataset, frames: int) -> tuple[Plane | None, ...]:
    return tuple(
        plane(*((functional_group(places, group) or dataset).get(keyword) for group, keyword in PLACE.items()))
        for places in frame_groups(dataset, frames)
    )


def _kind(dataset: Dataset) -> str:
    """The standard's name of a kind of object, such as "CT Image Storage"; empty where the file names none."""
    meta = getattr(dataset, "file_meta", {})
    kind = UID(str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""))
    if kind.type == "SOP Class":
        return kind.name
    return PRIVATE if kind.is_valid and kind else ""


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()
