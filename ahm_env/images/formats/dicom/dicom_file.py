"""Opens a DICOM file: reads its header, within limits, and stops where its pixels begin.

pydicom does the parsing. What it raises or warns of may quote a patient's name, so none of its words get out. This
module needs pydicom: import it where it is used.
"""

import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.formats.dicom.values import PADDING, PALETTES
from ahm_env.images.formats.limits import HARMLESS_BYTES, MOST_INFLATED, MOST_SWELLING
from ahm_env.images.privacy import DATE, NAMES, NUMBERS

HEADER, PIXELS = "its header cannot be read", "its pixels cannot be decoded"
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
KEYWORDS = [
    *OPTIONS.values(),
    *(f"{palette}{part}" for palette in PALETTES for part in ("Descriptor", "Data")),
    *(f"Segmented{palette}Data" for palette in PALETTES),
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    *NAMES,
    *NUMBERS,
    DATE,
    "HighBit",
    *PADDING,
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
]


@dataclass(frozen=True, slots=True)
class Opened:
    """An open DICOM file.

    Attributes:
        stream: The file, or what it holds inflated, at the first byte of the pixels.
        dataset: Its header: the elements in `KEYWORDS`.
        syntax: How the dataset is encoded.
        keyword: Name of the element of the pixels; empty where there is none.
        options: The element's and the image's properties, as pydicom's decoders take them.
    """

    stream: BinaryIO
    dataset: Dataset
    syntax: UID
    keyword: str
    options: dict[str, Any]


def quiet() -> None:
    """Keep pydicom's warnings, which may quote the header, out of the terminal and of the caller's logs.

    Filters belong to the whole process: setting them for a moment would not be safe where several threads read.
    """
    warnings.filterwarnings("ignore", module=r"pydicom|openjpeg|libjpeg|pylibjpeg")
    logging.getLogger("pydicom").propagate = False


quiet()


@contextmanager
def understood(step: str) -> Iterator[None]:
    """Turn whatever a file makes pydicom or a decoder raise into an `ImageError` that quotes none of it.

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
    """Open a file and read its header, not its pixels.

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


def dataset_stream(file: BinaryIO) -> BinaryIO:
    """Return the file itself, at its beginning; if it is deflated, what comes after its first group, inflated.

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
    """Read the header; return a stream at the pixels, or at the end if there are none, the header and the syntax."""
    stream = dataset_stream(file)
    dataset = dcmread(stream, stop_before_pixels=True, force=True, specific_tags=list(KEYWORDS))
    if stream is not file:
        return stream, dataset, DeflatedExplicitVRLittleEndian
    if syntax := dataset.file_meta.get("TransferSyntaxUID"):
        return stream, dataset, UID(syntax)
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return stream, dataset, ImplicitVRLittleEndian if implicit else explicit


def _pixel_element(stream: BinaryIO, dataset: Dataset) -> tuple[str, str]:
    """Keyword and type of the element that the stream is at; after that the stream is at its value.

    Whether types are written out is seen in the element itself: some files declare the one and are the other. Taken for
    a length, such a type would be odd, which no length is.
    """
    _, little = dataset.original_encoding
    order: Literal["little", "big"] = "little" if little else "big"
    head = stream.read(8)
    if len(head) < 8:
        return "", ""
    tag = int.from_bytes(head[:2], order) << 16 | int.from_bytes(head[2:4], order)
    implicit = head[4:6] not in LONG_LENGTHS or head[6:] != b"\0\0"
    if not implicit:
        stream.read(4)
    return PIXEL_ELEMENTS.get(tag, ""), "OW" if implicit else head[4:6].decode("ascii", "replace")
