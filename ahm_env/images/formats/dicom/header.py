"""What there is to know of a DICOM file before a frame is decoded.

This module needs pydicom: import it where it is used.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from pydicom.dataset import Dataset
from pydicom.uid import UID

from ahm_env.errors import ImageError
from ahm_env.images.formats.dicom.dicom_file import HEADER, PLACE, Opened, opened, understood
from ahm_env.images.formats.dicom.planes import Plane, plane
from ahm_env.images.formats.dicom.values import Display, frame_groups, functional_group, read_displays
from ahm_env.images.formats.limits import MOST_FRAMES
from ahm_env.images.pixels.opencv import MOST_PIXELS
from ahm_env.images.privacy import identity

FILES_KEPT = 8
SMALLEST_FRAGMENT = 8  # bytes: the tag and the length of one that is empty
IMAGE, PRIVATE = "Image Storage", "a private kind"
STORAGE = "1.2.840.10008.5.1.4.1.1."
SEGMENTATIONS = (f"{STORAGE}66.4", f"{STORAGE}66.7")
# Their pixels are labels, heights or doses. Versions of pydicom differ in the kinds that they know the names of.
NO_IMAGES = {
    f"{STORAGE}66.4": "Segmentation Storage",
    f"{STORAGE}66.7": "Label Map Segmentation Storage",
    f"{STORAGE}66.8": "Height Map Segmentation Storage",
    f"{STORAGE}481.2": "RT Dose Storage",
}
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What there is to know of a file before a frame is decoded.

    Attributes:
        frames: Number of images; 0 where it holds none.
        kind: Name that the standard gives to its kind of object.
        uid: SOP Instance UID.
        patient: PatientID; empty where it is blank.
        study: StudyInstanceUID, else SeriesInstanceUID; empty where both are blank.
        identity: Words that must stand in no path that is written down.
        burned_in: Whether it says that text is burned into the pixels.
        offset: Where the pixels begin in the dataset's stream.
        options: Their properties, as pydicom's decoders take them.
        offsets: Where each compressed frame is, for files that say so in 64 bits.
        low_bits: How many bits of a stored value lie below those that are used.
        displays: How values of each frame are shown; one for all where the frames do not differ.
        planes: Where each lies in the patient; one for all where the frames do not differ.
    """

    frames: int
    kind: str
    uid: str
    patient: str
    study: str
    identity: frozenset[str]
    burned_in: bool
    offset: int
    options: dict[str, Any]
    offsets: tuple[bytes, bytes] | None = None
    low_bits: int = 0
    displays: tuple[Display, ...] = ()
    planes: tuple[Plane | None, ...] = ()


def once_a_file(read: Callable[[Path], T]) -> Callable[[Path], T]:
    """Keep what was read of the last few files: one of a thousand frames is asked for its header as often."""

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
    """Read what must be known before a frame is decoded.

    Raises:
        ImageError: It cannot be read as DICOM, or its size and the number of its images are implausible.
    """
    with opened(path) as file, understood(HEADER):
        uid = _class(file.dataset)
        kind = NO_IMAGES.get(uid) or _name(uid)
        holds_image = bool(file.keyword) and uid not in NO_IMAGES
        if holds_image:
            check(file)
        elif not kind or (IMAGE in kind and not file.keyword):
            raise ImageError("its pixels are missing; it is truncated or damaged: copy or export it again")
        frames = file.options["number_of_frames"] if holds_image else 0
        tables = file.dataset.get("ExtendedOffsetTable"), file.dataset.get("ExtendedOffsetTableLengths")
        return Header(
            frames=frames,
            kind=kind,
            uid=_text(file.dataset, "SOPInstanceUID"),
            patient=_text(file.dataset, "PatientID"),
            study=_text(file.dataset, "StudyInstanceUID") or _text(file.dataset, "SeriesInstanceUID"),
            identity=identity(file.dataset),
            burned_in=_text(file.dataset, "BurnedInAnnotation").upper() == "YES",
            offset=file.stream.tell(),
            options=file.options,
            offsets=tables if isinstance(tables[0], bytes) and isinstance(tables[1], bytes) else None,
            low_bits=_low_bits(file) if frames else 0,
            displays=read_displays(file.dataset, frames) if frames else (),
            planes=read_planes(file.dataset, frames) if frames else (),
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


def _low_bits(file: Opened) -> int:
    """How many bits lie below those that are used: of 12 that end at the 16th, 4."""
    high, stored = file.dataset.get("HighBit"), file.options["bits_stored"]
    if not isinstance(high, int) or not isinstance(stored, int):
        return 0
    return high + 1 - stored if stored <= high < file.options["bits_allocated"] else 0


def read_planes(dataset: Dataset, frames: int) -> tuple[Plane | None, ...]:
    """Read where each frame lies in the patient; one for all of them where the file does not tell them apart."""
    return tuple(
        plane(*((functional_group(places, group) or dataset).get(keyword) for group, keyword in PLACE.items()))
        for places in frame_groups(dataset, frames)
    )


def _class(dataset: Dataset) -> UID:
    """UID of the kind of object; empty where the file names none."""
    meta = getattr(dataset, "file_meta", {})
    return UID(str(dataset.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or ""))


def _name(kind: UID) -> str:
    """Look up the standard's name of a kind of object, such as "CT Image Storage"; empty if it has none."""
    if kind.type == "SOP Class":
        return str(kind.name)
    return PRIVATE if kind.is_valid and kind else ""


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()
