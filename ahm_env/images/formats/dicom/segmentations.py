"""DICOM SEG as masks: which frames of a segmentation mark which images.

This module needs pydicom: import it where it is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from ahm_env.errors import ImageError
from ahm_env.images.formats.dicom.dicom_file import HEADER, PIXELS, opened, understood
from ahm_env.images.formats.dicom.header import (
    FILES_KEPT,
    SEGMENTATIONS,
    Header,
    check,
    once_a_file,
    read_header,
    read_planes,
)
from ahm_env.images.formats.dicom.pixels import stored_frames
from ahm_env.images.formats.dicom.planes import Plane, level, slab, voxels_on
from ahm_env.images.formats.dicom.values import frame_groups, functional_group
from ahm_env.images.pixels.fit import Image8

LARGEST = 255  # number of a segment, which becomes that of a class
NUMBERED = "save it with the numbers of its source frames"
GRID = "save the segmentation on the pixels of its images"


@dataclass(frozen=True, slots=True, eq=False)
class Marked:
    """What a frame of a SEG marks.

    Attributes:
        index: The frame, from 0.
        segment: Its segment; 0 in a label map, whose values are the numbers of segments.
        numbers: Of the frames of the image that it marks, from 1; none where the SEG does not say: all, by the standard
            (PS3.3 table 10-3), but what is meant is the one that it lies on.
        lies: Where it lies in the patient, if that is said.
    """

    index: int
    segment: int
    numbers: tuple[int, ...]
    lies: Plane | None


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What a SEG marks.

    Attributes:
        images: SOP Instance UIDs of what it is about, also of images in which it marks nothing.
        frames: By UID of an image, the SEG's frames that mark it.
        labels: What segments are called, by their numbers.
        shape: Rows and columns.
        threshold: What is marked has at least this value.
    """

    images: frozenset[str]
    frames: dict[str, list[Marked]]
    labels: dict[int, str]
    shape: tuple[int, int]
    threshold: float


@once_a_file
def read_segmentation(path: Path) -> Segmentation | None:
    """Read what a SEG marks; None where the DICOM file is none.

    Raises:
        ImageError: It is damaged, or does not say which images each of its frames marks.
    """
    with opened(path) as file, understood(HEADER):
        if str(file.dataset.get("SOPClassUID") or "") not in SEGMENTATIONS:
            return None
        check(file)
        dataset = dcmread(path, stop_before_pixels=True, force=True)
        count, silent, frames = int(dataset.NumberOfFrames), 0, dict[str, list[Marked]]()
        each = zip(frame_groups(dataset, count), read_planes(dataset, count), strict=True)
        for index, (groups, lies) in enumerate(each):
            named = functional_group(groups, "SegmentIdentificationSequence")
            segment = int(named.ReferencedSegmentNumber) if named is not None else 0
            if segment > LARGEST:
                raise ImageError(f"segment {segment} is more than {LARGEST}; renumber its segments")
            sources = list(_sources(groups))
            silent += not sources
            for uid, numbers in sources:
                frames.setdefault(uid, []).append(Marked(index, segment, numbers, lies))
        images = frames.keys() | {
            str(image.ReferencedSOPInstanceUID)
            for series in dataset.get("ReferencedSeriesSequence") or ()
            for image in series.get("ReferencedInstanceSequence") or ()
        }
        labels = {
            int(segment.SegmentNumber): str(segment.get("SegmentLabel") or "").strip()
            for segment in dataset.get("SegmentSequence") or ()
        }
        fractional = str(dataset.get("SegmentationType") or "") == "FRACTIONAL"
        threshold = float(dataset.MaximumFractionalValue) / 2 if fractional else 1.0
        shape = int(dataset.Rows), int(dataset.Columns)
    # Passed over, it would leave an image that it marks with an empty mask.
    if silent:
        cause = f"does not say which images its frames mark, of {silent} of {count}"
        raise ImageError(f"{cause}; save it with references to the source images of each frame")
    return Segmentation(frozenset(images), frames, labels, shape, threshold)


def read_marked(path: Path, header: Header, index: int, shape: tuple[int, int]) -> Image8:
    """Numbers of the segments that mark an image; of those that overlap the largest.

    Where the image and a frame of the SEG say how they lie in the patient, pixels are marked that lie on each other:
    the one may be the other turned. Otherwise the first is taken to lie on the first.

    Args:
        path: The SEG.
        header: Of the image's file.
        index: Its frame, from 0.
        shape: Its rows and columns.

    Returns:
        `shape`; or what the SEG has, where that is of another size.

    Raises:
        ImageError: It is damaged, its pixels do not lie on those of the image, or it does not say which frames of the
            image it marks.
    """
    found = read_segmentation(path)
    assert found is not None
    lies = header.planes[min(index, len(header.planes) - 1)]
    frames, masks = _by_number(header, found).get(index + 1, ()), [np.zeros(shape, np.uint8)]
    with stored_frames(path, read_header(path)) as decode:
        for frame in frames:
            values, _ = decode(frame.index)
            marked = np.where(values >= found.threshold, frame.segment, 0) if frame.segment else values
            if marked.shape != found.shape or marked.max() > LARGEST:
                raise ImageError(f"{PIXELS}: not as its header has them; export it again")
            masks.append(_on_image(marked.astype(np.uint8), frame.lies, lies, shape))
    others = [mask for mask in masks if mask.shape != shape]
    return others[0] if others else np.maximum.reduce(masks)


@lru_cache(FILES_KEPT)
def _by_number(header: Header, segmentation: Segmentation) -> dict[int, list[Marked]]:
    """Find the frames of a SEG that mark each frame of an image, by its number: once, however many frames there are."""
    found: dict[int, list[Marked]] = {}
    for marked in segmentation.frames.get(header.uid, ()):
        for number in _frames_of(header, marked):
            found.setdefault(number, []).append(marked)
    return found


def _frames_of(header: Header, marked: Marked) -> tuple[int, ...]:
    """Numbers of the frames of an image, from 1, that a frame of a SEG marks."""
    if marked.numbers or header.frames == 1:
        if wrong := [number for number in marked.numbers if not 1 <= number <= header.frames]:
            raise ImageError(f"marks frame {wrong[0]} of an image that has {header.frames}; {NUMBERED}")
        return marked.numbers or (1,)
    told_apart = len(header.planes) == header.frames
    found = level(marked.lies, header.planes) if told_apart and marked.lies is not None else []
    if len(found) != 1:
        raise ImageError(f"does not say which of the {header.frames} frames of its image it marks; {NUMBERED}")
    return (found[0] + 1,)


def _on_image(marked: Image8, lies: Plane | None, image: Plane | None, shape: tuple[int, int]) -> Image8:
    """Turn what a frame marks as the image is, to `shape`; where one of the two does not say how it lies, keep it."""
    if lies is None or image is None:
        return marked
    rows, columns = marked.shape
    try:
        places = voxels_on(slab(lies), (columns, rows, 1), image, shape)
    except ImageError as error:
        raise ImageError(f"{error}; {GRID}") from None
    return np.ascontiguousarray(marked[places[1], places[0]])


def _sources(groups: tuple[Dataset | None, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """UID and numbers of frames, none where they are not said, of each image that a frame of a SEG is derived from."""
    derived = next((one for group in groups if group is not None and (one := group.get("DerivationImageSequence"))), ())
    for derivation in derived:
        for image in derivation.get("SourceImageSequence") or ():
            numbers: Any = image.get("ReferencedFrameNumber") or ()
            some = numbers if hasattr(numbers, "__iter__") else (numbers,)
            yield str(image.ReferencedSOPInstanceUID), tuple(int(number) for number in some)
