"""What every source of images gives, whatever its kind: a fingerprint, and an index of entries.

One class a source, all of the same shape: `fingerprint` and `index`. An entry names an image; calling it decodes the
image, in any thread or process, and raises `ImageError` where that is bad.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError

SPLITS = ("train", "val", "test")
UNLABELLED = -1

Pixels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image as its source has it, before it is scaled and resized.

    Attributes:
        name: Name within the source, such as `ISIC_0000000.jpg`.
        path: How an error names it, such as `scans/images/ISIC_0000000.jpg`.
        image: (H, W) or (H, W, 3), RGB order, any integer or float type.
        mask: (H, W) uint8 class numbers, or None where it has no mask.
        label: Class number, or -1 if unknown.
        split: Index into `SPLITS`.
        patient: Pseudonym of the patient; empty if unknown: the image then counts as a patient of its own.
        remarks: What is worth knowing of its file, in words that count images.
        later: Reads the mask, where there is one that has not been read; raises `ImageError` where it cannot be used.
    """

    name: str
    path: str
    image: Pixels
    mask: npt.NDArray[np.uint8] | None = None
    label: int = UNLABELLED
    split: int = 0
    patient: str = ""
    remarks: tuple[str, ...] = ()
    later: "Callable[[], npt.NDArray[np.uint8]] | None" = None

    @property
    def masked(self) -> bool:
        """Whether it has a mask, read or not."""
        return self.mask is not None or self.later is not None

    def with_mask(self) -> "Sample":
        """Return the same sample with its mask read.

        Raises:
            ImageError: The mask cannot be used.
        """
        return self if self.later is None else replace(self, mask=self.later(), later=None)


class Decoded(NamedTuple):
    """What decoding an entry gives; as in `Sample`.

    Attributes:
        blank: Whether the image shows nothing: it counts only where its mask is read, and something is marked in that.
    """

    image: Pixels
    later: Callable[[], npt.NDArray[np.uint8]] | None = None
    remarks: tuple[str, ...] = ()
    blank: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of a source, named before it is decoded; it can be pickled.

    Attributes:
        name: As of `Sample`; so are path, label, split and patient.
        decode: Gives its pixels, or None where it shows nothing; raises `ImageError` where it is bad.
        line: How `labels.csv` names it, where that is not `name`.
        file: What it is read from, if that is a file; it may tell who somebody is.
        trouble: Why it cannot be used, where that is known before it is decoded; else empty.
        masks: Whether its mask is read with it, if it has one.
        marks: Whether its mask is read where it is blank, to find out whether something is marked in it.
    """

    name: str
    path: str
    decode: Callable[[], Decoded | None]
    label: int = UNLABELLED
    split: int = 0
    patient: str = ""
    line: str = ""
    file: Path | None = None
    trouble: str = ""
    masks: bool = True
    marks: bool = False

    def __call__(self) -> Sample | None:
        """Decode it; None where it shows nothing.

        Raises:
            ImageError: It is bad, or its mask is.
        """
        found = self.decode()  # what is wrong with the file itself comes first
        if self.trouble:
            raise ImageError(self.trouble)
        if wrong := not_text(self.name, self.path):
            raise ImageError(wrong)
        if found is None:
            return None
        sample = Sample(
            name=self.name,
            path=self.path,
            image=found.image,
            label=self.label,
            split=self.split,
            patient=self.patient,
            remarks=found.remarks,
            later=found.later,
        )
        if self.masks or (found.blank and self.marks):
            sample = sample.with_mask()
        marked = sample.mask is not None and sample.mask.any()
        return None if found.blank and not marked else sample


def not_text(name: str, path: str | Path) -> str:
    """Say what is wrong with a name that cannot be written; empty if nothing is.

    Args:
        name: Of a file, with the folders that belong to it.
        path: How an error names that.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        cause = "its name is not UTF-8, or that of a folder that it is in, so that no table can hold it"
        return f"{str(path)!a}: {cause}; rename it"
    return ""


class Entries(Iterable[Entry]):
    """Entries that are named anew whenever they are gone through: in flat memory, however many there are."""

    def __init__(self, name_all: Callable[..., Iterator[Entry]], *arguments: Any) -> None:
        """Take the function that names them, and its arguments."""
        self._name_all, self._arguments = name_all, arguments

    def __iter__(self) -> Iterator[Entry]:
        """Name them, from the first."""
        return self._name_all(*self._arguments)


@dataclass(frozen=True, slots=True)
class DataWarning:
    """What is likely wrong with images though they can be read.

    Attributes:
        kind: One of a few words, for programs.
        text: What it is, how often, and what to do, on one line.
        count: How many images, masks or names it is about.
        images: Names of the first few images, if it is about some.
    """

    kind: str
    text: str
    count: int = 1
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DatasetIndex:
    """What a source holds, known without decoding.

    Attributes:
        count: Number of samples, those without content included.
        samples: One entry a sample, in the order of the set; one without content, such as an empty slice of a volume,
            gives None and is left out.
        classes: Sorted class names; empty without labels.
        has_masks: Whether there are masks, of some samples at least.
        problems: What is wrong and belongs to no sample, one line each, naming the file.
        warnings: What is likely wrong and belongs to no sample.
        notes: What is worth knowing but is no fault, one line each.
        identities: Digests of words that tell whose images these are: a path that is written down must not have them.
        slow: Whether decoding is mostly Python, so that processes are faster than threads; samples can then be pickled.
    """

    count: int
    samples: Iterable[Entry]
    classes: tuple[str, ...] = ()
    has_masks: bool = False
    problems: list[str] = field(default_factory=list)
    warnings: list[DataWarning] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    slow: bool = False
    identities: frozenset[int] = frozenset()


class Source(Protocol):
    """A kind of images."""

    kind: str

    def fingerprint(self) -> str:
        """Return a text that changes when the content does, found without decoding and in flat memory.

        Raises:
            ImageError: The source cannot be read.
        """
        ...

    def index(self, masks: bool = True) -> DatasetIndex:
        """Find what is there.

        Args:
            masks: Whether masks are read with their images; otherwise none is opened but by `Sample.with_mask`.

        Raises:
            ImageError: Nothing of the source can be used.
        """
        ...


def class_order(names: set[str]) -> tuple[str, ...]:
    """Sort class names; by number where all are numbers, so that class 10 comes after class 2."""
    numeric = all(name.isascii() and name.isdigit() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numeric else 0, name)))
