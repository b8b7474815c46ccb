"""Whether a file is DICOM, found by its beginning."""

import re
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.formats.dicom.tree import walk
from ahm_env.images.formats.files import is_image
from ahm_env.images.formats.nifti.names import is_nifti

ENDINGS = (".dcm", ".dicom", ".ima")
NOT_DICOM = "not DICOM, or its beginning is damaged; copy or export it again, or take it out"
SEARCHED = 2000
HEAD = 4096
PREAMBLE, PREFIX = 128, b"DICM"
FIRST_GROUPS = (b"\x02\x00", b"\x00\x02", b"\x08\x00", b"\x00\x08")
# (0008,0016) SOP Class UID, one of the standard's, in either order of bytes, with or without its type.
SOP_CLASS = re.compile(rb"(?:\x08\x00\x16\x00|\x00\x08\x00\x16)(?:UI..|....)1\.2\.840\.10008\.", re.DOTALL)


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
