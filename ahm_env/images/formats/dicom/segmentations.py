"""DICOM SEG as masks: which frames of a segmentation mark which images.

This module needs pydicom: import it where it is used.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from ahm_env.errors import ImageError
from ahm_env.images.formats.dicom.dicom_file import HEADER, PIXELS, opened, understood
from ahm_env.images.formats.dicom.header import SEGMENTATIONS, check, once_a_file
from ahm_env.images.formats.dicom.values import frame_groups, functional_group
from ahm_env.images.pixels.fit import Image8

LARGEST = 255  # number of a segment, which becomes that of a class


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """What a SEG marks.

    Attributes:
        images: SOP Instance UIDs of what it is about, also of images in which it marks nothing.
        frames: By UID and number of a frame, from 1: the SEG's frames that mark it, from 0, and their segments; a label
            map's have segment 0, for their values are the numbers of segments.
        shape: Rows and columns.
        threshold: What is marked has at least this value.
    """

    images: frozenset[str]
    frames: dict[tuple[str, int], list[tuple[int, int]]]
    shape: tuple[int, int]
    threshold: float


def is_segmentation(path: Path) -> bool:
    """Whether a DICOM file is a SEG.

    Raises:
        ImageError: Its header cannot be read.
    """
    with opened(path) as file:
        return str(file.dataset.get("SOPClassUID") or "") in SEGMENTATIONS


@once_a_file
def read_segmentation(path: Path) -> Segmentation:
    """Read what a SEG marks.

    Raises:
        ImageError: It is damaged, or does not say which images its frames mark.
    """
    with opened(path) as file:
        check(file)
    with understood(HEADER):
        dataset = dcmread(path, stop_before_pixels=True, force=True)
        frames = dict[tuple[str, int], list[tuple[int, int]]]()
        for index, groups in enumerate(frame_groups(dataset, int(dataset.NumberOfFrames))):
            named = functional_group(groups, "SegmentIdentificationSequence")
            segment = int(named.ReferencedSegmentNumber) if named is not None else 0
            if segment > LARGEST:
                raise ImageError(f"segment {segment} is more than {LARGEST}; renumber its segments")
            for image in _sources(groups):
                frames.setdefault(image, []).append((index, segment))
        images = {uid for uid, _ in frames} | {
            str(image.ReferencedSOPInstanceUID)
            for series in dataset.get("ReferencedSeriesSequence") or ()
            for image in series.get("ReferencedInstanceSequence") or ()
        }
        fractional = str(dataset.get("SegmentationType") or "") == "FRACTIONAL"
        threshold = float(dataset.MaximumFractionalValue) / 2 if fractional else 1.0
        shape = int(dataset.Rows), int(dataset.Columns)
    if not frames:
        raise ImageError("does not say which images its frames mark; save it with references to its source images")
    return Segmentation(frozenset(images), frames, shape, threshold)


def read_marked(path: Path, uid: str, frame: int) -> Image8:
    """Numbers of the segments that mark an image, (H, W); of those that overlap the largest.

    Args:
        path: The SEG.
        uid: SOP Instance UID of the image.
        frame: Number of its frame, from 1.

    Raises:
        ImageError: It is damaged.
    """
    found = read_segmentation(path)
    mask = np.zeros(found.shape, np.uint8)
    for index, segment in found.frames.get((uid, frame), ()):
        with understood(PIXELS):
            values = pixel_array(path, index=index)
            marked = np.where(values >= found.threshold, segment, 0) if segment else values
        if marked.shape != mask.shape or marked.max() > LARGEST:
            raise ImageError(f"{PIXELS}: not as its header has them; export it again")
        mask = np.maximum(mask, marked.astype(np.uint8))
    return mask


def _sources(groups: tuple[Dataset | None, ...]) -> Iterator[tuple[str, int]]:
    """UID and number of a frame of each image that a frame of a SEG is derived from."""
    derived = next((one for group in groups if group is not None and (one := group.get("DerivationImageSequence"))), ())
    for derivation in derived:
        for image in derivation.get("SourceImageSequence") or ():
            numbers: Any = image.get("ReferencedFrameNumber") or 1
            for number in numbers if hasattr(numbers, "__iter__") else (numbers,):
                yield str(image.ReferencedSOPInstanceUID), int(number)
