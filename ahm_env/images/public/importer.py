"""Brings public data sets into the layout of a folder: `images/`, `masks/`, `labels.csv`; whole, or not at all."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from ahm_env.errors import ImageError, SettingsError
from ahm_env.files import write_rows
from ahm_env.images.dataset.builder import Progress, in_order
from ahm_env.images.public.archives import PublicSet, Row, busi, downloaded, isic2018, lgg, npz
from ahm_env.images.public.coco import coco
from ahm_env.images.public.pairs import pairs

Importer = Callable[[Path], PublicSet]

PACKAGES = ("medmnist", "medsegbench")  # that download
AUTO = "auto"
IMPORTERS: dict[str, Importer] = {
    AUTO: pairs,
    "coco": coco,
    "isic2018": isic2018,
    "busi": busi,
    "lgg": lgg,
    **dict.fromkeys(PACKAGES, npz),
}


@dataclass(frozen=True)
class Imported:
    """What was written.

    Attributes:
        images: Number of images.
        has_masks: Whether there are masks.
        splits: Images by split; empty where the data set has none.
        classes: Images by class.
        patients: Number of known patients.
        leaking: Number of patients with images in more than one split.
        notes: What was left out, one line each.
    """

    images: int
    has_masks: bool
    splits: Counter[str]
    classes: Counter[str]
    patients: int
    leaking: int
    notes: list[str]


def import_data(
    name: str,
    source: Path,
    out: Path,
    progress: Progress | None = None,
    folders: str | None = None,
    scan: str | None = None,
) -> Imported:
    """Write a data set into a new folder: all of it, or nothing.

    Images are copied byte for byte; those of .npz files become PNG without loss.

    Args:
        name: One of `IMPORTERS`; `medmnist:NAME` and `medsegbench:NAME` download into `source` by their own package.
        source: Directory that the data set was unpacked in, or .npz file.
        out: The folder.
        progress: Called with (done, total).
        folders: Of `auto`: what folders of images are that are called neither images nor after a split: `patient`,
            `label`, or None, nothing.
        scan: Of `auto`: which of several scans of a patient is the image, such as `flair`; None is the most frequent.

    Returns:
        What was written.

    Raises:
        ImageError: The directory is not laid out as the data set is, a part is missing, or a mask is damaged.
        SettingsError: The name is unknown, `out` is there already, or a package that downloads is missing.
        OSError: The disk is full.
    """
    kind, _, member = name.partition(":")
    if kind not in IMPORTERS or (member and kind not in PACKAGES):
        raise SettingsError(f"{name} is no data set that is known; choose one of: {', '.join(IMPORTERS)}")
    if name != AUTO and (folders or scan):
        raise SettingsError(f"--folders and --scan are for `ahm data import {AUTO}`, not {name}; leave them out")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out}: is there already; choose another --out, or remove it")
    if member:
        source = downloaded(kind, member, source)
    if not source.exists():
        raise ImageError(f"{source}: no such file or folder; check the path")
    if name in (AUTO, "coco") and not source.is_dir():
        raise ImageError(f"{source}: is a file; unpack it, and give the folder")
    found = pairs(source, folders, scan) if name == AUTO else IMPORTERS[kind](source)
    rows = []
    with _new_directory(out) as directory:
        for folder in ("images", "masks") if found.has_masks else ("images",):
            (directory / folder).mkdir()
        for row in in_order(partial(write, directory) for write in found.writes):
            rows.append(row)
            if progress:
                progress(len(rows), found.count)
        _write_table(directory / "labels.csv", rows)
    return _summary(rows, found)


def _write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write a table of the columns that say something; the split column does if there are two or more splits."""
    columns = ["image"]
    columns += ["label"] if any(row.label for row in rows) else []
    columns += ["split"] if len({row.split for row in rows}) > 1 else []
    columns += ["patient"] if any(row.patient for row in rows) else []
    write_rows(path, map(asdict, rows), columns)


def _summary(rows: Sequence[Row], found: PublicSet) -> Imported:
    splits = Counter(row.split for row in rows)
    patients = Counter(patient for patient, _ in {(row.patient, row.split) for row in rows} if patient)
    return Imported(
        images=len(rows),
        has_masks=found.has_masks,
        splits=splits if len(splits) > 1 else Counter(),
        classes=Counter(row.label for row in rows if row.label),
        patients=len(patients),
        leaking=sum(sides > 1 for sides in patients.values()),
        notes=found.notes,
    )


@contextmanager
def _new_directory(out: Path) -> Iterator[Path]:
    """Make a directory beside `out` that replaces it when complete, and is removed if it is not completed."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        yield temporary
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
