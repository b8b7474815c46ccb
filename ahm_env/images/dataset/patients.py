"""Patients: the images of one stay together."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.images.source import SPLITS, DatasetIndex
from ahm_env.masks import Ints

Digests = npt.NDArray[np.uint64]

NAMED = 5  # at most, in an error


class Groups(Sequence[Ints]):
    """Positions of each patient's images, one array a patient, by first appearance; kept in a few arrays."""

    def __init__(self, patients: Ints) -> None:
        """Group `(B,)` numbers of patients."""
        _, first, inverse, counts = np.unique(patients, return_index=True, return_inverse=True, return_counts=True)
        rank = np.argsort(first)
        self._order = np.argsort(inverse, kind="stable")
        self._ends, self._counts = np.cumsum(counts)[rank], counts[rank]

    def __len__(self) -> int:
        """Count the patients."""
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Ints: ...
    @overload
    def __getitem__(self, index: slice) -> list[Ints]: ...
    def __getitem__(self, index: int | slice) -> Ints | list[Ints]:
        """Return the positions of a patient's images, or a list of those of some patients."""
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        end = self._ends[index]
        return self._order[end - self._counts[index] : end]


def fair_order(classes: Ints, patients: Ints, seed: int) -> Ints:
    """Order images, patient after patient, so that every beginning is a fair sample of the classes.

    Of a class with P_k of P patients, the first N patients hold less than one more or fewer than its share N·P_k/P: the
    one that must come soonest of those that may come already, as in the scheduling of periodic tasks by earliest
    deadline (Liu, Layland, J. ACM 1973). Which patients of a class come first is left to chance, and so are ties
    between classes. Where each image is a patient of its own, this holds for images.

    Args:
        classes: `(B,)` class numbers; -1, unknown, is a class like any other. A patient has the class that most of the
            images have.
        patients: `(B,)` numbers of patients.
        seed: Decides.

    Returns:
        `(B,)` positions.
    """
    groups = Groups(patients)
    if not groups:
        return np.empty(0, np.int64)
    numbers = np.unique(classes, return_inverse=True)[1]
    of_patients = np.array([np.bincount(numbers[group]).argmax() for group in groups])
    rng = np.random.default_rng(seed)
    members = [
        rng.permutation(np.flatnonzero(of_patients == number)) for number in rng.permutation(np.unique(of_patients))
    ]
    sizes, total = np.array([len(some) for some in members], np.int64), len(groups)
    taken, order = np.zeros_like(sizes), list[Ints]()
    for place in range(total):
        latest = -(-(taken + 1) * total // sizes)
        chosen = np.where(taken * total < sizes * (place + 1), latest, total + 1).argmin()
        order.append(groups[members[chosen][taken[chosen]]])
        taken[chosen] += 1
    return np.concatenate(order)


def round_robin(patients: Ints, seed: int, classes: Ints | None = None) -> Ints:
    """Order images so that one of each patient comes first, then a second of each that has one, and so on.

    Which patient comes first, and which of a patient's images, is left to chance.

    Args:
        patients: `(B,)` numbers of patients.
        seed: Decides.
        classes: `(B,)` class numbers, of which every beginning of a round is then a fair sample. By default nothing but
            patients is looked at, so that images without labels can be ordered.

    Returns:
        `(B,)` positions.
    """
    rng = np.random.default_rng(seed)
    groups = [rng.permutation(group) for group in Groups(patients)]
    shuffled = [groups[position] for position in rng.permutation(len(groups))]
    rounds = np.concatenate([np.arange(len(group)) for group in shuffled] or [np.empty(0, np.int64)])
    order = np.concatenate(shuffled or [np.empty(0, np.int64)])[np.argsort(rounds, kind="stable")]
    if classes is None:
        return order
    ends = np.cumsum(np.bincount(rounds)) if len(rounds) else np.empty(0, np.int64)
    each = [np.sort(part) for part in np.split(order, ends[:-1])]
    return np.concatenate([part[fair_order(classes[part], patients[part], seed)] for part in each])


def first_patients(patients: Ints, order: Ints, count: int) -> Ints:
    """Beginning of an order that has whole patients only, and as many images as is nearest to `count`.

    Args:
        patients: `(B,)` numbers of patients.
        order: Positions, patient after patient.
        count: Images wanted.

    Returns:
        Positions; none where the first patient has more than twice as many, or there is none.
    """
    if not len(order):
        return order
    ends = np.flatnonzero(np.diff(patients[order], append=-1, prepend=-1))
    return order[: ends[np.abs(ends - count).argmin()]]


def digest(name: str) -> int:
    """Make a number of 64 bits that stands for a patient, or another name; 0 for an unknown one, which is empty."""
    return (
        int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()) if name else 0
    )


def first_images(patients: Digests) -> Ints:
    """Find, of each image, the first one of its patient; of an unknown patient the image itself."""
    _, first, inverse = np.unique(patients, return_index=True, return_inverse=True)
    return np.where(patients == 0, np.arange(len(patients)), first[inverse])


def refuse_leaks(source: str, index: DatasetIndex, patients: Digests, splits: npt.NDArray[np.uint8]) -> None:
    """Refuse images of one patient in two splits: who is tested on would be trained on as well.

    Args:
        source: Named in the error.
        index: Its images.
        patients: `(N,)` digests, of the images that are used.
        splits: `(N,)` indices into `SPLITS`.

    Raises:
        ImageError: A patient has images in more than one split.
    """
    order = np.argsort(patients, kind="stable")
    patients, splits = patients[order], splits[order]
    apart = (patients[1:] == patients[:-1]) & (splits[1:] != splits[:-1]) & (patients[1:] != 0)
    if not apart.any():
        return
    digests, leaking = set(patients[1:][apart].tolist()), defaultdict[str, set[int]](set)
    for entry in index.samples:
        if digest(entry.patient) in digests:
            leaking[entry.patient].add(entry.split)
    some = ", ".join(
        f"{patient} ({' and '.join(SPLITS[split] for split in sorted(sides))})"
        for patient, sides in sorted(leaking.items())[:NAMED]
    )
    more = f" and {len(leaking) - NAMED:,} more" if len(leaking) > NAMED else ""
    raise ImageError(
        f"{source}: patients with images in more than one split: {some}{more}; give each patient one split, or let "
        f"`ahm data split {source} --again` draw them"
    )
