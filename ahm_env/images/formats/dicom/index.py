"""The DICOM files of a source by name, in flat memory, and how many images each has."""

import os
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ahm_env.images.formats.files import PackedNames
from ahm_env.images.source import UNLABELLED

NUMBERED = re.compile(r"(.+)_(\d{4,})")


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Which image a sample is, and what is known of it without its file.

    Attributes:
        relative: The file's path within the folder.
        index: The frame, from 0.
        frames: How many the file has.
        has_mask: Whether it may have a mask.
        namesake: Whether another file has the same name but for the extension.
        segmentation: The path within the folder of masks of a SEG that is about it, or empty.
        label: Class number, or -1.
        split: Index into `SPLITS`.
        patient: Pseudonym that the table gives the patient, or empty.
        trouble: Why it cannot be used, or empty.
    """

    relative: str
    index: int
    frames: int
    has_mask: bool
    namesake: bool = False
    segmentation: str = ""
    label: int = UNLABELLED
    split: int = 0
    patient: str = ""
    trouble: str = ""

    @property
    def number(self) -> str:
        """What tells a frame from the others of its file, as in `_0001`; empty where there is but one."""
        return f"_{self.index + 1:04d}" if self.frames > 1 else ""


class DicomFiles:
    """Files in the order of their names, which are paths within a folder.

    Attributes:
        frames: Number of images in each.
    """

    def __init__(self, names: PackedNames, frames: "array[int]") -> None:
        """Sort the files by name.

        Args:
            names: Paths within the folder, with "/" between their parts.
            frames: Number of images in each.
        """
        unsorted = names.array()
        order = np.argsort(unsorted, kind="stable")
        self._names = unsorted[order]
        self.frames = np.asarray(frames, np.int64)[order]

    def __len__(self) -> int:
        """Count the files."""
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Name and number of images of each file."""
        for name, frames in zip(self._names, self.frames.tolist(), strict=True):
            yield os.fsdecode(name), frames

    def position(self, name: str) -> int | None:
        r"""Where a file is, its name given with or without extension, with / or \; None unless there is just one."""
        name = name if "\\" not in name or self._exact(name) is not None else name.replace("\\", "/")
        place = self._exact(name)
        if place is not None:
            return place
        places = self.with_stem(name)
        return places[0] if len(places) == 1 else None

    def with_stem(self, stem: str) -> list[int]:
        """Where the files with this stem are."""
        key = os.fsencode(stem)
        # "." and "/" are neighbours among the characters: between them is what the stem and an extension make up.
        start, end = bisect_left(self._names, key + b"."), bisect_left(self._names, key + b"/")
        exact = self._exact(stem)
        places = [*([] if exact is None else [exact]), *range(start, end)]
        return [place for place in places if stem_of(os.fsdecode(self._names[place])) == stem]

    def _exact(self, name: str) -> int | None:
        key = os.fsencode(name)
        place = bisect_left(self._names, key)
        return place if place < len(self) and self._names[place] == key else None

    def has(self, stem: str) -> bool:
        """Whether this is the stem of a file, or the name of a folder that files are in."""
        key = os.fsencode(stem) + b"/"
        place = bisect_left(self._names, key)
        return bool(self.with_stem(stem)) or (place < len(self) and bytes(self._names[place]).startswith(key))

    def has_frame(self, stem: str) -> bool:
        """Whether this is the stem of a file of one image, or that of one of more with `_0001` and so on added."""
        if any(self.frames[place] == 1 for place in self.with_stem(stem)):
            return True
        numbered = NUMBERED.fullmatch(stem)
        places = self.with_stem(numbered[1]) if numbered else []
        return numbered is not None and any(1 <= int(numbered[2]) <= self.frames[place] > 1 for place in places)


def stem_of(name: str) -> str:
    """Strip the extension off a name; digits alone, as in 1.2.840.113619 or IM.0001, are part of the name."""
    stem, ending = os.path.splitext(name)
    return name if ending[1:].isdigit() else stem
