"""Real files, read by our readers and by others: where they differ, and why."""

import gzip
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import numpy as np

from ahm_env.errors import AHMError
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.formats.files import is_image
from ahm_env.images.formats.nifti.names import is_nifti
from ahm_env.images.pixels.fit import AXES, PixelSettings, to_uint8
from ahm_env.images.source import Sample
from tests.ahm_env.images.references import dicom, nifti, pictures
from tests.ahm_env.images.references.display import Values
from tests.ahm_env.images.references.listed import DIFFERENT, REFUSED

PACKAGES = ("PIL", "pydicom", "nibabel", "skimage")  # whose places are searched, with all that is beside them
TOLERANCE = 1.0  # grey level
DARK = 5.0  # of 255, what a slice may show that is left out
Reader = Callable[[Path], list[Values]]


@dataclass
class Counts:
    """What came of the files of a kind.

    Attributes:
        files: Their number.
        equal: How many are equal to what all others read that can read them.
        refused: How many we refuse, as all others do.
        listed: Why others are refused, or differ from what another reads, by reason.
        faults: What is none of these, a line each.
        readers: How many files each other reader could read.
    """

    files: int = 0
    equal: int = 0
    refused: int = 0
    listed: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    readers: Counter[str] = field(default_factory=Counter)


def packages() -> list[Path]:
    """Where packages are installed."""
    found = (find_spec(name) for name in PACKAGES)
    return sorted({Path(spec.origin).parents[1] for spec in found if spec and spec.origin})


def real_files(kind: str, roots: Iterable[Path]) -> Iterator[Path]:
    """The files of a kind below some folders: `pictures`, which are `masks` as well, `NIfTI` or `DICOM`."""
    belongs = {"pictures": is_image, "masks": is_image, "NIfTI": is_nifti}.get(kind)
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file() and (belongs(path.name) if belongs else _is_dicom(path)):
                yield path


def compare(kind: str, paths: Iterable[Path]) -> Counts:
    """Read files of a kind with our reader and with all others."""
    counts = Counts()
    for path in paths:
        counts.files += 1
        with _unpacked(path) as file:
            _count((kind, path.name), *READ[kind](file), counts)
    return counts


def _count(
    file: tuple[str, str], ours: list[Values | str | None], others: Mapping[str, list[Values]], counts: Counts
) -> None:
    name = file[1]
    refusals = [each for each in ours if isinstance(each, str)]
    counts.readers.update(list(others))
    if any("\n" in each for each in refusals):
        counts.faults.append(f"{name}: refused in several lines")
    elif len(refusals) == len(ours) and not others:
        counts.refused += 1
    elif refusals:
        _list(name, REFUSED.get(file), f"{', '.join(others)} read it, refused: {refusals[0]}", counts)
    elif not others:
        _list(name, REFUSED.get(file), "nobody else reads it", counts)
    else:
        wrong = {reader: difference(ours, theirs) for reader, theirs in others.items()}
        known = {reader: reason for reader in wrong if (reason := DIFFERENT.get((*file, reader)))}
        counts.faults += [f"{name}: equal to what {reader} reads, but listed" for reader in known if not wrong[reader]]
        if any(wrong.values()):
            told = "; ".join(f"{reader}: {what}" for reader, what in wrong.items() if what and reader not in known)
            _list(name, None if told else next(iter(known.values())), told, counts)
        else:
            counts.equal += 1


def _list(name: str, reason: str | None, otherwise: str, counts: Counts) -> None:
    if reason:
        counts.listed[reason] += 1
    else:
        counts.faults.append(f"{name}: {otherwise}")


def difference(ours: list[Values | None], theirs: list[Values]) -> str:
    """How images differ by more than `TOLERANCE`; empty if they do not."""
    if len(ours) != len(theirs):
        return f"{len(ours)} images, not {len(theirs)}"
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if one is None:
            if other.max() > DARK and np.ptp(other):
                return f"image {index} is left out"
            continue
        colours = max(one.ndim, other.ndim)
        one, other = (each if each.ndim == colours else each[..., None] for each in (one, other))
        if one.shape[:2] != other.shape[:2]:
            return f"image {index} is of {one.shape[:2]}, not {other.shape[:2]}"
        apart = np.abs(one.astype(np.float64) - other)
        if not apart.max() <= TOLERANCE:
            return (
                f"image {index} differs by up to {apart.max():.1f}, in {(apart > TOLERANCE).mean():.1%} of its pixels"
            )
    return ""


Read = tuple[list[Values | str | None], dict[str, list[Values]]]


def _picture(path: Path) -> Read:
    return _ours(path), _theirs(pictures.READERS, path)


def _mask(path: Path) -> Read:
    with TemporaryDirectory() as folder:
        for part in ("images", "masks"):
            Path(folder, part).mkdir()
            copyfile(path, Path(folder, part, path.name))
        return _ours(Path(folder), masks=True), _theirs(pictures.MASK_READERS, path)


def _volume(path: Path) -> Read:
    ours, theirs = list[Values | str | None](), dict[str, list[Values]]()
    for axis in AXES:
        ours += _ours(path, axis=axis)
        readers = {name: partial(read, axis=axis) for name, read in nifti.READERS.items()}
        for name, found in _theirs(readers, path).items():
            theirs.setdefault(name, []).extend(found)
    return ours, theirs


def _frames(path: Path) -> Read:
    return _ours(path, burned_in=True), _theirs(dicom.READERS, path)


READ: dict[str, Callable[[Path], Read]] = {"pictures": _picture, "masks": _mask, "NIfTI": _volume, "DICOM": _frames}


def _ours(path: Path, masks: bool = False, **settings: object) -> list[Values | str | None]:
    """What comes of each image at its own size, scaled to 0..255; None where it shows nothing; or the refusal."""
    try:
        entries = list(find_source(path, PixelSettings(**settings), bare=not masks).index().samples)
    except AHMError as error:
        return [str(error)]
    return [_outcome(entry, masks) for entry in entries]


def _outcome(entry: Callable[[], Sample | None], masks: bool) -> Values | str | None:
    try:
        sample = entry()
        return None if sample is None else sample.mask if masks else to_uint8(sample.image)
    except AHMError as error:
        return str(error)


def _theirs(readers: Mapping[str, Reader], path: Path) -> dict[str, list[Values]]:
    """What those give that are installed and can read it."""
    found = {}
    for name, read in readers.items():
        try:
            found[name] = read(path)
        except Exception:  # each has its own ways to fail
            continue
    return found


def _is_dicom(path: Path) -> bool:
    """Whether it is a DICOM file by its name or its beginning, or one of these packed by gzip."""
    if path.suffix == ".dcm":
        return True
    if path.suffix not in ("", ".gz") or is_nifti(path.name):
        return False
    try:
        with (gzip.open if path.suffix else open)(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    if path.suffix != ".gz" or is_nifti(path.name):
        yield path
        return
    with TemporaryDirectory() as folder:
        file = Path(folder, path.stem)
        file.write_bytes(gzip.decompress(path.read_bytes()))
        yield file
