"""What `ahm data` shows: what is in a source, what is wrong with it, how it looks, and what was made of it."""

import csv
import io
import json
import os
import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ahm_env.console import ProgressBar, make_console, warn_left_out
from ahm_env.files import check_name
from ahm_env.images.dataset.loader import find_file, find_files
from ahm_env.images.dataset.splits import split_source
from ahm_env.images.inspection.contact_sheet import make_contact_sheet
from ahm_env.images.inspection.report import SourceReport, check_images
from ahm_env.images.public.importer import import_data

ALIKE = 5  # problems that are shown where there are more of the same kind

Data = Annotated[str, typer.Argument(help="A folder, a file (.npz, .nii.gz, DICOM), or phantom[:COUNT[:SEED]].")]
Window = Annotated[
    str | None,
    typer.Option(help="Window of CT: lung, bone, brain, soft, or CENTRE,WIDTH.", show_default="the file's own"),
]
Axis = Annotated[str, typer.Option(help="Slices of volumes: sagittal, coronal or axial.")]
BurnedIn = Annotated[
    bool,
    typer.Option("--burned-in", help="Take in DICOM images that say that text, a name perhaps, is burned into them."),
]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Go on without images that cannot be read.")]


def check_data(
    source: Data,
    window: Window = None,
    axis: Axis = "axial",
    burned_in: BurnedIn = False,
    every: Annotated[bool, typer.Option("--all", help="Show all of many problems that are alike.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with all problems.")] = False,
) -> int:
    """Print what is there, what is likely wrong, and what is wrong with its files: then end with status 2."""
    console = make_console(stderr=as_json)
    with ProgressBar(console, "reading images") as report_progress:
        report = check_images(source, window, axis, burned_in, report_progress)
    if as_json:
        _tell(json.dumps(report.as_dict(), indent=2))
    else:
        _print_report(console, report, every)
    return 2 if report.problems else 0


def _print_report(console: Console, report: SourceReport, every: bool) -> None:
    source = os.fsencode(report.source).decode(errors="replace")
    table = Table(title=source, show_header=False)
    sizes = [f"{width} x {height} ({count:,})" for (width, height), count in report.sizes.most_common(4)]
    more = len(report.sizes) - len(sizes)
    table.add_row("kind", report.kind)
    why = "their headers say that text is burned in" if report.kind == "dicom" else "they show nothing"
    dropped = f", and {report.empty:,} left out: {why}" if report.empty else ""
    table.add_row("images", f"{report.images:,}{dropped}")
    if report.patients:
        table.add_row("patients", f"{report.patients:,}")
    table.add_row("sizes", ", ".join(sizes) + (f", and {more:,} more" if more else ""))
    names = {1: "grey", 3: "colour"}
    table.add_row("channels", ", ".join(f"{names[key]} ({count:,})" for key, count in sorted(report.channels.items())))
    table.add_row("pixels", ", ".join(f"{key} ({count:,})" for key, count in sorted(report.pixel_types.items())))
    values = ", ".join(map(str, report.mask_values[:8])) + (", …" if len(report.mask_values) > 8 else "")
    empty = f", {report.empty_masks:,} of them empty" if report.empty_masks else ""
    how_many = f"{report.masks:,}" if report.masks == report.images else f"of {report.masks:,} images"
    table.add_row("masks", f"{how_many}, with values {values}{empty}" if report.masks else "none")
    table.add_row("splits", ", ".join(f"{name} {count:,}" for name, count in report.splits.items()))
    for name, splits in sorted(report.classes.items()):
        table.add_row(f"class {name}", ", ".join(f"{split} {splits[split]:,}" for split in report.splits))
    console.print(table)
    for note in report.notes:
        _tell(f"note: {note}")
    for warning in report.warnings:
        _tell(f"warning: {warning.text}")
    kinds = Counter(map(_kind, report.problems))
    printed = Counter[str]()
    for problem in report.problems:
        kind = _kind(problem)
        printed[kind] += 1
        if every or printed[kind] <= ALIKE or kinds[kind] == ALIKE + 1:
            _tell(f"problem: {problem}")
        elif printed[kind] == ALIKE + 1:
            _tell(f"problem: … and {kinds[kind] - ALIKE:,} more like it; --all lists them")
    problems, warnings = len(report.problems), len(report.warnings)
    found = f"{problems:,} problem{'s' * (problems != 1)}" if problems else "No problem found"
    console.print(found + f", {warnings:,} warning{'s' * (warnings != 1)}" * bool(warnings) + ".")


def _kind(problem: str) -> str:
    """Reduce a problem to its kind: drop the file that it names, numbers, pseudonyms and quoted words."""
    return re.sub(r"'[^']*'|[0-9a-f]{16}|[0-9]+", "#", problem.partition(": ")[2])


def split_data(
    source: Annotated[str, typer.Argument(help="A folder.")],
    train: Annotated[float, typer.Option(help="Share of the images to train on.")] = 0.7,
    val: Annotated[float, typer.Option(help="Share for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share for the test.")] = 0.2,
    stratify: Annotated[str | None, typer.Option(help="label: every split gets its share of each class.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the draw.")] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Replace the splits that are there; the old table is kept.")
    ] = False,
    skip_bad: SkipBad = False,
) -> int:
    """Draw splits that keep each patient on one side, and write them into the folder's labels.csv."""
    shares = {"train": train, "val": val, "test": test}
    console = make_console()
    counts = split_source(source, shares, stratify, seed, again, skip_bad)
    each = ", ".join(f"{name} {counts[name]:,}" for name in shares)
    console.print(f"splits       {Path(source) / 'labels.csv'}: {each}; each patient in one")
    return 0


def show_data(
    source: Data,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("contact-sheet.png"),
    count: Annotated[int, typer.Option(help="Number of images on it.", min=1)] = 24,
    seed: Annotated[int, typer.Option(help="Random seed by which images are chosen.", min=0)] = 0,
    window: Window = None,
    axis: Axis = "axial",
    burned_in: BurnedIn = False,
    skip_bad: SkipBad = False,
) -> int:
    """Make a contact sheet: a fair sample of the images, with the contours of their masks."""
    check_name(out, ".png")
    console = make_console()
    with ProgressBar(console, "reading images") as report_progress:
        options = {"window": window, "axis": axis, "burned_in": burned_in, "skip_bad": skip_bad}
        sheet = make_contact_sheet(source, count, seed, **options, progress=report_progress)
    warn_left_out(console, sheet.images)
    sheet.save(out)
    shown = f"{len(sheet.indices):,} of {len(sheet.images):,} images"
    console.print(f"picture      {out}: {shown}")
    return 0


def import_into(
    name: Annotated[str, typer.Argument(help="auto, coco, isic2018, busi, lgg, medmnist or medsegbench.")],
    source: Annotated[Path, typer.Argument(help="The data set as it is distributed: a folder, or a .npz file.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    folders: Annotated[
        str | None, typer.Option(help="Of auto: what folders of images are, patient or label.", show_default="nothing")
    ] = None,
    scan: Annotated[
        str | None,
        typer.Option(
            help="Of auto: which of several scans of a patient, such as flair.", show_default="the most frequent"
        ),
    ] = None,
) -> int:
    """Turn a data set as it is downloaded into a folder of images, masks and labels.csv.

    The name auto finds images and masks by the names of files and folders; coco reads outlines in JSON files.
    """
    console = make_console()
    with ProgressBar(console, "reading images") as report_progress:
        made = import_data(name, source, out, report_progress, folders, scan)
    folder = shlex.quote(str(out))
    masks = " with masks" if made.has_masks else ""
    patients = f", {made.patients:,} patients or lesions" if made.patients else ""
    console.print(f"imported     {out}: {made.images:,} images{masks}{patients}")
    for what, counts in (("classes", made.classes), ("splits", made.splits)):
        if counts:
            console.print(f"{what:<12} {_told(counts)}")
    for note in made.notes:
        console.print(f"note: {note}")
    steps = [f"ahm data check {folder}"]
    if made.leaking:
        cause = "have images in more than one split, which training refuses"
        console.print(f"note: {made.leaking:,} patients or lesions {cause}; draw splits anew")
        steps.insert(0, f"ahm data split {folder} --again")
    elif not made.splits:
        steps.append(f"ahm data split {folder}")
    console.print(f"next         {'; '.join(steps)}")
    return 0


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def find_data(
    source: Annotated[str, typer.Argument(help="DICOM or NIfTI files.")],
    name: Annotated[str | None, typer.Argument(help="The name under which an image is shown; by default all.")] = None,
) -> int:
    """Print which file it is that is shown under a pseudonym; or, as CSV, all pseudonyms and their files."""
    if name is not None:
        _tell(str(find_file(source, name)))
        return 0
    for row in (("name", "file"), *find_files(source)):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(row)
        _tell(line.getvalue())
    return 0


def _tell(line: str) -> None:
    """Print a text in which a path may stand, whatever bytes that is made of."""
    sys.stdout.flush()
    sys.stdout.buffer.write(os.fsencode(f"{line}{os.linesep}"))
    sys.stdout.buffer.flush()
