"""Draws splits, patients kept apart, and writes them into `labels.csv`."""

from collections import Counter
from collections.abc import Mapping
from itertools import count
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError, SettingsError
from ahm_env.files import write_rows, write_text
from ahm_env.images.dataset.builder import with_remedy
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.dataset.patients import fair_order, first_patients
from ahm_env.images.formats.dicom.source import Dicom
from ahm_env.images.formats.files import Files
from ahm_env.images.formats.labels import NO_IMAGE, has_table, plain, separator_of, table_lines
from ahm_env.images.formats.nifti.source import Nifti
from ahm_env.images.formats.pictures.folder import Folder
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.privacy import hint
from ahm_env.images.source import Entry, not_text
from ahm_env.masks import Ints

BEFORE = "labels.before.csv"


def split_source(
    source: str,
    shares: Mapping[str, float],
    stratify: str | None = None,
    seed: int = 0,
    again: bool = False,
    skip_bad: bool = False,
) -> Counter[str]:
    """Draw a split for each image of a folder and write it into its `labels.csv`; a patient is in one split.

    Args:
        source: A folder.
        shares: Of the images, by split; they add up to 1. Met as nearly as whole patients allow.
        stratify: "label" gives every split its share of each class, as nearly as possible.
        seed: Decides.
        again: Replace splits that are there; the table before is kept as `labels.before.csv`.
        skip_bad: Leave bad images out, which then have no line, instead of stopping at the first.

    Returns:
        Images by split.

    Raises:
        ImageError: The source, or one of its images, cannot be used.
        SettingsError: The shares are wrong, too few patients, splits are there already, or no place to write them.
    """
    if not abs(sum(shares.values()) - 1) <= 1e-6 or min(shares.values()) < 0:
        given = ", ".join(f"--{name} {share:g}" for name, share in shares.items())
        raise SettingsError(f"{given}: shares must be 0 or more and add up to 1; for example 0.7, 0.1 and 0.2")
    if stratify not in (None, "label"):
        raise SettingsError(f"--stratify {stratify} is unknown; give label, or leave it out")
    found = find_source(source, PixelSettings(burned_in=True))
    if not isinstance(found, Folder | Nifti | Dicom):
        raise SettingsError(f"{source}: a source of kind {found.kind} has splits of its own; give a folder")
    table = found.table
    separator, rows = _read(table)
    if any(plain(row.get("split", "")) for row in rows) and not again:
        raise SettingsError(f"{table}: has splits already; --again draws new ones and keeps the table as {BEFORE}")
    index = found.index()
    if stratify and not index.classes:
        raise SettingsError(f"--stratify {stratify}: {source} has no labels; add them to {table}, or leave it out")
    if index.problems and not skip_bad:
        raise ImageError(with_remedy(index.problems[0], source))
    lines, classes, patients = list[str](), list[int](), list[int]()
    numbers: dict[str, int] = {}
    for entry in index.samples:
        trouble = with_remedy(entry.trouble, source) if entry.trouble else _unwritable(entry, source)
        if not trouble:
            lines.append(entry.line or entry.name)
            classes.append(entry.label if stratify else 0)
            patients.append(numbers.setdefault(entry.patient or f"line {lines[-1]}", len(numbers)))
        elif not skip_bad:
            raise ImageError(trouble)
    if not lines:
        raise ImageError(f"{source}: no image of it can be used; `ahm data check {source}` says why")
    splits = _draw(np.array(classes), np.array(patients), shares, seed, source)
    of_lines = dict(zip(lines, splits, strict=True))
    _write(table, separator, rows, Files(of_lines, found.stem_of), of_lines)
    return Counter(splits)


def _unwritable(entry: Entry, source: str) -> str:
    """Say why the table cannot name an image; empty if it can."""
    wrong = not_text(entry.line or entry.name, entry.path)
    where = f" ({hint(Path(source), entry.name)})" if entry.line else ""  # which is shown by its pseudonym
    return f"{wrong}{where}, or leave such images out with --skip-bad" if wrong else ""


def _draw(classes: Ints, patients: Ints, shares: Mapping[str, float], seed: int, source: str) -> list[str]:
    """Draw the split of each image: cut a fair order of patients into one piece per split."""
    rest = fair_order(classes, patients, seed)
    splits, left = [""] * len(classes), float(len(classes))
    for name, share in shares.items():
        images = share * len(classes)
        taken = rest if images >= left - 0.5 else first_patients(patients, rest, round(images))
        if share and not len(taken):
            raise SettingsError(
                f"{source}: too few patients ({len(set(patients.tolist())):,}), or one has too many of the images, for "
                f"{share:g} of them in {name}; add patients, or leave that split out (--{name} 0, more for another)"
            )
        for position in taken:
            splits[position] = name
        rest, left = rest[len(taken) :], left - images
    return splits


def _read(table: Path) -> tuple[str, list[dict[str, str]]]:
    """Columns in lower case and lines of a table, empty where there is none, with what separates its cells."""
    if not has_table(table):
        return ",", []
    return separator_of(table), [cells for _, cells in table_lines(table, ("image",), NO_IMAGE)]


def _write(table: Path, separator: str, rows: list[dict[str, str]], files: Files, splits: Mapping[str, str]) -> None:
    names = list(files)
    rows = rows or [{"image": line} for line in splits]
    for row in rows:
        position = files.position(row["image"])
        row["split"] = "" if position is None else splits[names[position]]
    if table.is_file():
        write_text(_free(table.with_name(BEFORE)), table.read_text(encoding="utf-8-sig"))
    write_rows(table, rows, separator=separator)


def _free(path: Path) -> Path:
    """Find a path that is free: this one, or with -2 and so on before its ending, so that older files stay."""
    names = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(2))
    return path if not path.exists() else next(name for name in names if not name.exists())
