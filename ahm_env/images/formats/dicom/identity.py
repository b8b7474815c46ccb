"""What in a DICOM header tells who somebody is. This module needs pydicom: import it where it is used."""

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from ahm_env.images.privacy import words

NAMES = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "ReferringPhysicianName",
    "PerformingPhysicianName",
    "OperatorsName",
)
NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "InstitutionName")
DATE = "PatientBirthDate"


def identity(dataset: Dataset) -> frozenset[str]:
    """Words of names, alone and as people join them, and numbers, birth dates and institutions, as `words` has them."""
    found = [word for keyword in NAMES for name in _values(dataset, keyword) for word in _of_name(name)]
    found += ["".join(words(number)) for keyword in NUMBERS for number in _values(dataset, keyword)]
    for date in _values(dataset, DATE):
        year, month, day = date[:4], date[4:6], date[6:8]
        found += [year + month + day, day + month + year, month + day + year]
    return frozenset(found) - {""}


def _of_name(name: str) -> Iterator[str]:
    """Family^given^middle^prefix^suffix, and again after = in other scripts."""
    for written in name.split("="):
        parts = ["".join(words(part)) for part in written.split("^")]
        yield from parts
        for part in written.split("^"):
            # A number in the place of a name, such as TCGA-02-0003, is one only whole.
            yield from (word for word in words(part) if not any(map(str.isdigit, part)))
        if len(parts) > 1 and parts[0] and parts[1]:
            family, given = parts[:2]
            yield from (family + given, given + family, family + given[0], given[0] + family)


def _values(dataset: Dataset, keyword: str) -> Iterator[str]:
    value = dataset.get(keyword)
    several = value if isinstance(value, MultiValue) else [value]
    yield from (str(one) for one in several if one is not None)
