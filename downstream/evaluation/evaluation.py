"""Evaluation of a fine-tuned model on a labelled source: every measure, with how sure it is."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ahm_env import ImageError, ImageSet, SettingsError, load_images
from ahm_env.console import make_console, number, reading, tell_bad_masks, tell_left_out
from ahm_env.files import write_text
from ahm_env.images.loading import annotated, find_source
from ahm_env.images.patients import grouped
from ahm_env.images.source import SPLITS
from ahm_env.masks import Ints
from downstream.evaluation.classification import ClassificationAssessment, assess_classifier
from downstream.evaluation.cropping import Cropped, load_tuned
from downstream.evaluation.metrics import Measures, measure_name
from downstream.evaluation.page import source_name, write_page
from downstream.evaluation.segmentation import SegmentationAssessment, assess_segmenter
from downstream.evaluation.statistics import Interval
from downstream.evaluation.tested import usable
from downstream.models.model import Card

DRAWS = 1000  # of the bootstrap: AUROC takes a millisecond
FEW = 10  # patients
ALL = "all"


def evaluate(
    tuned: Path,
    data: str,
    split: str = "test",
    out: Path | None = None,
    page: Path | None = None,
    pictures: Path | None = None,
    flips: bool = False,
    skip_bad: bool = False,
    burned_in: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> int:
    """Evaluate a model, and show how good it is.

    Args:
        tuned: Directory that `ahm finetune` wrote.
        data: A source with masks, or with the labels that the classifier knows.
        split: Of which images: `train`, `val`, `test` or `all`.
        out: JSON file for the numbers.
        page: HTML file for all of it.
        pictures: Directory for a table of all images, and for a picture of the cases or of the confusion.
        flips: Test-time augmentation.
        skip_bad: Go on without images that cannot be read.
        burned_in: Take DICOM images in that say that text is burned into them.
        device: Where to compute.
        precision: Of the networks' layers: `fp32`, `bf16`, or `auto`.

    Returns:
        The exit status.

    Raises:
        AHMError: Anything that the user can mend.
    """
    console = make_console()
    if split not in (*SPLITS, ALL):
        raise SettingsError(f"--split {split} is unknown; choose one of: {', '.join((*SPLITS, ALL))}")
    if out is not None and out.is_dir():
        raise SettingsError(f"--out {out} is a directory; give the name of a file, such as {out / 'evaluation.json'}")
    if out is not None and out.suffix.lower() != ".json":  # else a slip overwrites labels.csv
        raise SettingsError(f"--out {out} must end in .json; for example {out.with_suffix('.json')}")
    if page is not None and page.suffix.lower() != ".html":
        raise SettingsError(f"--page {page} must end in .html; for example {page.with_suffix('.html')}")
    if pictures is not None and (pictures / "config.json").exists():
        raise SettingsError(f"--pictures {pictures} is a run, whose own test.csv would be lost; give another directory")
    model, segmenter = load_tuned(tuned, device, precision)
    card = model.card
    pixels = replace(card.pixels, burned_in=burned_in)
    source = data if segmenter is None else Cropped(find_source(data, pixels), segmenter, data)
    with reading(console) as report:
        images = load_images(source, skip_bad=skip_bad, progress=report, masks=False, **asdict(pixels))
    tell_left_out(console, images)
    indices = of_split(images, card.task, split)
    if card.task == "classification":
        check_classes(images, indices, card)
        images = annotated(images, indices, card.classes, masks=False)
    else:
        whole, images = images, annotated(images, indices, skip_bad=skip_bad)
        tell_bad_masks(console, images.skipped - whole.skipped)
        indices = of_split(images, card.task, split)
    patients = grouped(images.patients(indices))
    assess = assess_segmenter if card.task == "segmentation" else assess_classifier
    assessed: SegmentationAssessment | ClassificationAssessment = assess(model, images, indices, flips)
    several, told = len(patients) < len(indices), remarks(assessed, patients)
    part = "" if split == ALL else f", {split} split"
    found = with_intervals(assessed.measures(), patients, DRAWS)
    where = {"task": card.task, "model": str(tuned), "data": data, "split": split, "tta": flips}
    if out is not None:
        counts = {"images": len(indices), "patients": len(patients)}
        write_text(out, json.dumps({**where, **counts, **as_json(assessed, found)}, indent=2) + "\n")
    if pictures is not None:
        assessed.write(pictures)
    if page is not None:
        write_page(page, assessed, found, patients, f"{source_name(data)}{part}", told)
    whose = f" of {len(patients):,} patient{'s' * (len(patients) > 1)}" if several else ""
    _show(console, f"{data}{part}: {len(indices):,} images{whose}", found)
    for remark in told:
        console.print(remark, markup=False)
    if out is not None:
        console.print(f"numbers      {out}", markup=False)
    if page is not None:
        console.print(f"page         {page}", markup=False)
    if pictures is not None:
        picture = "cases.png" if card.task == "segmentation" else "confusion.png"
        console.print(f"picture      {pictures / picture}", markup=False)
        console.print(f"each image   {pictures / 'test.csv'}", markup=False)
        if card.task == "segmentation" and several:
            console.print(f"each patient {pictures / 'patients.csv'}", markup=False)
    return 0


def of_split(images: ImageSet, task: str, split: str) -> Ints:
    """Images of a split, or all, that have a mask or a label; ascending.

    Raises:
        ImageError: There is none.
    """
    found = {name: usable(task, images, images.split(name)) for name in SPLITS}
    found[ALL] = np.sort(np.concatenate([found[name] for name in SPLITS]))
    if found[split].size:
        return found[split]
    what = "mask" if task == "segmentation" else "label"
    others = [f"{name} ({len(found[name]):,})" for name in SPLITS if found[name].size]
    remedy = f"choose --split {' or '.join(others)}" if others else f"the whole source has none; add {what}s"
    where = "no image" if split == ALL else f"no image of its {split} split"
    raise ImageError(f"{images.source}: {where} has a {what}; {remedy}")


def check_classes(images: ImageSet, indices: Ints, card: Card) -> None:
    """The classes of the images must be those of the classifier, or some of them.

    Raises:
        SettingsError: One is unknown to it.
    """
    found = {images.classes[number] for number in images.labels(indices).tolist()}
    if unknown := sorted(found - set(card.classes)):
        raise SettingsError(
            f"{images.source}: its classes are not those of the model ({', '.join(card.classes)}); unknown: "
            f"{', '.join(unknown)}; rename them in labels.csv, or evaluate on a source that has these"
        )


def with_intervals(measure: Callable[[Ints], Measures], patients: Sequence[Ints], draws: int) -> dict[str, Interval]:
    """Measures with their 95 % intervals, by a bootstrap over patients (percentiles; Efron, Tibshirani, 1993, ch. 13).

    Args:
        measure: Of the images at some positions, in which one may come several times.
        patients: Positions of each patient's images, who are drawn with all of theirs.
        draws: Number of resamples; one in which a measure is not defined does not count for that measure.

    Returns:
        Name to interval; NaN where a measure is not defined, and the ends where there is but one patient.
    """
    generator = np.random.default_rng(0)
    drawn = [
        measure(
            np.concatenate([patients[patient] for patient in generator.integers(len(patients), size=len(patients))])
        )
        for _ in range(draws)
    ]
    found = {}
    for name, value in measure(np.sort(np.concatenate(patients))).items():
        values = [one[name] for one in drawn if not isnan(one[name])]
        none = isnan(value) or len(patients) < 2  # of one, nothing is known of others
        low, high = (float("nan"),) * 2 if none else np.quantile(values, (0.025, 0.975)).tolist()
        found[name] = Interval(value, low, high)
    return found


def remarks(assessed: SegmentationAssessment | ClassificationAssessment, patients: Sequence[Ints]) -> list[str]:
    """What to know of these numbers before they are believed, a sentence or two each."""
    told, images = list[str](), sum(map(len, patients))
    several = len(patients) < images
    if isinstance(assessed, SegmentationAssessment):
        if several:
            told.append(
                "Dice of a patient is that of all pixels of the patient's images together, of a volume that in 3-D. "
                "The other measures are means over images."
            )
        blank = sum(not any(one.found + one.missed for one in score.overlaps.values()) for score in assessed.scores)
        if blank:
            told.append(
                f"In {blank:,} of {images:,} images nothing is marked: there, Dice is 1 where nothing is found."
            )
    if len(patients) < FEW:
        whose = "patients" if several else "images"
        one = f"This is one {whose[:-1]}, which says nothing of others: there is no interval."
        few = f"These are few {whose}: with fewer than {FEW}, intervals are too narrow."
        told.append(one if len(patients) == 1 else few)
    return told


def as_json(
    assessed: SegmentationAssessment | ClassificationAssessment, found: Mapping[str, Interval]
) -> dict[str, Any]:
    """The summary as in `test.json`, and the intervals; None for what is not defined."""
    intervals = {name: None if isnan(one.low) else [one.low, one.high] for name, one in found.items()}
    return {**assessed.summary, "intervals": intervals}


def _show(console: Console, title: str, found: Mapping[str, Interval]) -> None:
    table = Table("measure", "mean", "95 % interval", title=escape(title))
    for name, one in found.items():
        between = "–" if isnan(one.low) else f"{one.low:.3f} to {one.high:.3f}"
        table.add_row(escape(measure_name(name)), number(one.mean), between)
    console.print(table)
