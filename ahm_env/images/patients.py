"""Patients: the images of one stay together, and no number of theirs is shown, only a pseudonym."""

import hashlib
import os
import secrets
import shlex
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError
from ahm_env.images.cache import cache_root, explained
from ahm_env.images.source import SPLITS
from ahm_env.masks import Ints

SALT = "patients.salt"
SALT_BYTES = 32
DIGITS = 16  # 64 bits: no two of a million files have the same
NAMED = 5  # at most, in an error


def pseudonym(identifier: str) -> str:
    """Hex digits that stand for a patient's number, a name or a path wherever something is shown or written.

    The same on this computer for the same text; nobody finds the text from it without the salt, a secret of 32 random
    bytes in the cache directory.

    Raises:
        SettingsError: The cache directory, where the salt is kept, cannot be written.
    """
    text = identifier.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, key=_salt(cache_root(None))).hexdigest()[:DIGITS]


def hint(source: Path, name: str) -> str:
    """How to find the file of a source that a pseudonym stands for."""
    return f"`ahm data find {shlex.quote(str(source))} {name}` tells where it is"


def grouped(patients: Ints) -> list[Ints]:
    """Positions of each patient's images, `(B,)` numbers of patients to one array a patient, by first appearance."""
    _, first, inverse, counts = np.unique(patients, return_index=True, return_inverse=True, return_counts=True)
    groups = np.split(np.argsort(inverse, kind="stable"), np.cumsum(counts)[:-1])
    return [groups[position] for position in np.argsort(first)]


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
    groups = grouped(patients)
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
    groups = [rng.permutation(group) for group in grouped(patients)]
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
        Positions; none where the first patient has more than twice as many.
    """
    ends = np.flatnonzero(np.diff(patients[order], append=-1, prepend=-1))
    return order[: ends[np.abs(ends - count).argmin()]]


class SplitLeakCheck:
    """Watches that no patient has images on two sides: in two of the splits."""

    def __init__(self) -> None:
        """Start without patients."""
        self._splits: dict[str, int] = {}
        self._leaking: dict[str, set[int]] = {}

    @property
    def patients(self) -> int:
        """How many patients were counted."""
        return len(self._splits)

    def add(self, patient: str, split: int) -> None:
        """Count an image of a patient; an empty name stands for no patient."""
        if patient and self._splits.setdefault(patient, split) != split:
            self._leaking.setdefault(patient, {self._splits[patient]}).add(split)

    def check(self, source: str) -> None:
        """Raise an error if patients that are tested on would be trained on as well.

        Raises:
            ImageError: A patient has images in more than one split.
        """
        if not self._leaking:
            return
        some = ", ".join(
            f"{patient} ({' and '.join(SPLITS[split] for split in sorted(splits))})"
            for patient, splits in sorted(self._leaking.items())[:NAMED]
        )
        more = f" and {len(self._leaking) - NAMED:,} more" if len(self._leaking) > NAMED else ""
        raise ImageError(
            f"{source}: patients with images in more than one split: {some}{more}; give each patient one split, or let "
            f"`ahm data split {source} --again` draw them"
        )


@cache
def _salt(root: Path) -> bytes:
    path = root / SALT
    if not path.is_file():
        # Written under another name first: another process finds the whole salt or none.
        own = root / f".{SALT}.{secrets.token_hex(4)}"
        with explained(root):
            descriptor = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(SALT_BYTES))
            with suppress(FileExistsError):
                os.link(own, path)
            own.unlink()
    return path.read_bytes()
