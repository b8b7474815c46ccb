"""What every source of images gives, whatever its kind: a fingerprint, and an index of samples.

One file a source, all of the same shape: a class with `fingerprint` and `index`. A sample is a call that
decodes it, so that decoding can happen in any thread, and that raises `ImageError` where the image is bad.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

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
        patient: Pseudonym of whom it shows; empty if unknown: the image then counts as a patient of its own.
        line: How `labels.csv` names it, where that is not `name`.
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
    line: str = ""
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


Entry = Callable[[], Sample | None]


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
        samples: One call a sample, in the order of the set; a bad one raises `ImageError`, one without content, such
            as an empty slice of a volume, gives None and is left out.
        classes: Sorted class names; empty without labels.
        has_masks: Whether there are masks, of some samples at least.
        problems: What is wrong and belongs to no sample, one line each, naming the file.
        warnings: What is likely wrong and belongs to no sample.
        notes: What is worth knowing but is no fault, one line each.
        identities: Digests of words that tell whose images these are: a path that is written down must not have them.
        slow: Whether decoding is mostly Python, so that processes are faster than threads; samples can then be pickled.
    """

    count: int
    samples: Iterator[Entry]
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
