"""Whether a path tells who somebody is, by what the headers of the files below it hold. This module needs pydicom."""

import re
from pathlib import Path

from pydicom.dataset import Dataset

NAMES = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
)
NUMBERS = ("PatientID", "OtherPatientIDs", "PatientBirthDate", "AccessionNumber", "InstitutionName")
# What is shorter stands in a path by chance, and what is long or has digits does not, even within another word.
SHORTEST, LONG = 3, 8
# Instead of a name.
NOBODY = frozenset(("anon", "anonymised", "anonymized", "anonymous", "none", "patient", "phantom", "test", "unknown"))

_WORD = re.compile(r"[^\W_]+")


def identity(dataset: Dataset) -> frozenset[str]:
    """What tells who it is: each part of a name, each number, date and institution whole; letters and digits only."""
    parts = [part for keyword in NAMES for part in _WORD.findall(_text(dataset, keyword))]
    wholes = ["".join(_WORD.findall(_text(dataset, keyword))) for keyword in NUMBERS]
    return frozenset(word.casefold() for word in parts + wholes if len(word) >= SHORTEST) - NOBODY


class PathWords:
    """The words of a path."""

    def __init__(self, path: Path) -> None:
        """Takes it as it is given, for so it is written down."""
        words = [_WORD.findall(part.casefold()) for part in path.parts if part != path.anchor]
        self._parts = [(some, "".join(some)) for some in words]

    def told(self, identity: frozenset[str]) -> str:
        """What of the path has one of them as a word, or holds one that is no word by chance, without naming it."""
        for number, (words, whole) in enumerate(self._parts, 1):
            if not identity.isdisjoint(words) or any(one in whole for one in identity if _rare(one)):
                return f"part {number} of the path of these images"
        return ""


def _rare(word: str) -> bool:
    return len(word) >= LONG or (len(word) > SHORTEST and any(map(str.isdigit, word)))


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None else str(value)
