"""The DICOM files of a source, found by how they begin, kept by name in flat memory, with what is known of each."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError
from ahm_env.images.formats.files import Files, is_image, walk
from ahm_env.images.formats.nifti.names import is_nifti
from ahm_env.masks import Ints

ENDINGS = (".dcm", ".dicom", ".ima")
NOT_DICOM = "not DICOM, or its beginning is damaged; copy or export it again, or take it out"
SEARCHED = 2000
HEAD = 4096
PREAMBLE, PREFIX = 128, b"DICM"
FIRST_GROUPS = (b"\x02\x00", b"\x00\x02", b"\x08\x00", b"\x00\x08")
# (0008,0016) SOP Class UID, one of the standard's, in either order of bytes, with or without its type.
SOP_CLASS = re.compile(rb"(?:\x08\x00\x16\x00|\x00\x08\x00\x16)(?:UI..|....)1\.2\.840\.10008\.", re.DOTALL)

NUMBERED = re.compile(r"(.+)_(\d{4,})")
# How many images a file has, its patient's pseudonym as a number (0 if unknown), whether text is burned into them.
KNOWN = np.dtype([("frames", np.int64), ("patient", np.uint64), ("burned_in", np.bool_)])


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Which image of which file a sample is, and what masks it may have.

    Attributes:
        relative: The file's path within the folder.
        index: The frame, from 0.
        frames: How many the file has.
        has_mask: Whether it may have a mask.
        namesake: Whether another file has the same name but for the extension.
        segmentation: The path within the folder of masks of a SEG that is about it, or empty.
    """

    relative: str
    index: int
    frames: int
    has_mask: bool
    namesake: bool = False
    segmentation: str = ""

    @property
    def number(self) -> str:
        """What tells a frame from the others of its file, as in `_0001`; empty where there is but one."""
        return f"_{self.index + 1:04d}" if self.frames > 1 else ""


class DicomFiles(Files):
    """Files by their paths within a folder.

    Attributes:
        known: `(N,)` records of each, as in `KNOWN`.
        segmentations: By path, that of the SEG within the folder of masks that is about a file.
    """

    def __init__(
        self,
        names: Iterable[str],
        known: Iterable[tuple[int, int, bool]],
        segmentations: Mapping[str, str] | None = None,
    ) -> None:
        """Sort the files by name."""
        super().__init__(names, stem_of)
        self.known = np.fromiter(known, KNOWN, len(self))[self.order]
        self.segmentations = segmentations or {}

    def has(self, stem: str) -> bool:
        """Whether this is the stem of a file, or the name of a folder that files are in."""
        return bool(self.with_stem(stem)) or self.hold_folder(stem)

    def has_frame(self, stem: str) -> bool:
        """Whether this is the stem of a file of one image, or that of one of more with `_0001` and so on added."""
        if (self._frames(stem) == 1).any():
            return True
        numbered = NUMBERED.fullmatch(stem)
        return numbered is not None and any(1 <= int(numbered[2]) <= most > 1 for most in self._frames(numbered[1]))

    def _frames(self, stem: str) -> Ints:
        places = self.with_stem(stem)
        return self.known["frames"][places.start : places.stop]


def stem_of(name: str) -> str:
    """Strip the extension off a name; digits alone, as in 1.2.840.113619 or IM.0001, are part of the name."""
    stem, ending = os.path.splitext(name)
    return name if ending[1:].isdigit() else stem


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does: with the mark of a file, or with elements that name a class of objects."""
    try:
        return path.is_file() and begins(path)
    except OSError:
        return False


def begins(path: Path) -> bool:
    """As `is_dicom`, of a file that is there.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head[PREAMBLE : PREAMBLE + len(PREFIX)] == PREFIX:
        return True
    return head.startswith(FIRST_GROUPS) and SOP_CLASS.search(head) is not None


def holds_dicom(folder: Path, others: int = 0) -> bool:
    """Whether a folder and its sub-folders, hidden ones left out, hold more DICOM files than `others`.

    Of many files the first decide: then it is enough that most of them are DICOM.
    """
    count = opened = 0
    try:
        for found in walk(folder, folder):
            if found.trouble or is_image(found.relative) or is_nifti(found.relative):
                continue
            count += is_dicom(Path(found.path))
            opened += 1
            if count > others or opened == SEARCHED:
                break
    except ImageError:
        return False
    return count > others or count > SEARCHED // 2
