"""An evaluation as one page: how good the model is on these patients, how sure that is, and what it looks like."""

import base64
import re
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ahm_env.console import number
from ahm_env.files import as_utf8, write_text
from ahm_env.images.pixels.png import encode_png
from ahm_env.masks import Floats, Ints
from downstream.evaluation.classification import ClassificationAssessment
from downstream.evaluation.metrics import measure_name
from downstream.evaluation.segmentation import SegmentationAssessment
from downstream.evaluation.statistics import Interval

BINS = 60  # of the dots, side by side
HEIGHT, GAP = 112.0, 10.0
THEIRS = "; a patient who is drawn comes with all images."


def write_page(
    path: Path,
    assessed: SegmentationAssessment | ClassificationAssessment,
    found: Mapping[str, Interval],
    patients: Sequence[Ints],
    data: str,
    remarks: Sequence[str],
) -> None:
    """Write the page, whole.

    Args:
        path: The file.
        assessed: What was assessed.
        found: Every measure with its interval, the most important one first.
        patients: Positions of each patient's images.
        data: What it was assessed on, as it is shown.
        remarks: What to know of the numbers.

    Raises:
        OSError: The disk is full, or may not be written.
    """
    images = sum(map(len, patients))
    several = len(patients) < images
    whose = f"{len(patients):,} patient{'s' * (len(patients) > 1)}" if several else f"{images:,} images"
    those = "patients" if several else "images"
    name, main = next(iter(found.items()))
    one, between = measure_name(name), _between(main, "and")
    dots = None
    if isinstance(assessed, SegmentationAssessment):
        dots = np.array([np.mean(list(dice.values())) for dice in assessed.of_patients()])
    content = template(Path(__file__).with_name("page.html.jinja")).render(
        title=f"{one} on {data}",
        where=f"{data}: {images:,} images" + (f" of {whose}" if several else ""),
        headline=f"{one} {number(main.mean)}",
        lead=f"With 95 % confidence between {between} for {those} like these." if between else "",
        rows=[(measure_name(name), number(one.mean), _between(one, "to") or "–") for name, one in found.items()],
        note=" ".join((*remarks, f"Intervals: bootstrap over {whose}" + (THEIRS if several else "."))),
        dots=() if dots is None else stacked(dots),
        dots_title="Dice of each patient" if several else "Dice of each image",
        dots_summary="" if dots is None else _words(dots),
        picture_title="Best, median and worst cases" if dots is not None else "Truth and prediction",
        picture="data:image/png;base64," + base64.b64encode(encode_png(assessed.picture)).decode(),
    )
    write_text(path, content)


def _between(one: Interval, word: str) -> str:
    """Join the ends of an interval with a word; empty where there is no interval."""
    return "" if isnan(one.low) else f"{number(one.low)} {word} {number(one.high)}"


def stacked(values: Floats) -> list[tuple[float, float]]:
    """Left and top of a dot for each value from 0 to 1; those of about the same value one above the other."""
    bins = np.minimum((values * BINS).astype(int), BINS - 1)
    tallest = int(np.bincount(bins).max())
    gap = min(GAP, (HEIGHT - 10) / tallest)
    seen = dict.fromkeys(range(BINS), 0)
    places = []
    for slot in bins.tolist():
        places.append((round((slot + 0.5) / BINS * 1000, 1), round(HEIGHT - 5 - seen[slot] * gap, 1)))
        seen[slot] += 1
    return places


def _words(values: Floats) -> str:
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
    return f"Half of them are above {middle:.3f}, one in ten below {low:.3f}, one in ten above {high:.3f}."


def source_name(source: str) -> str:
    """Return the last part of a data source: the path to it may tell more than is meant to be shown."""
    return as_utf8(re.split(r"[\\/]", source.rstrip("\\/"))[-1].strip(".")) or "a folder"


def template(path: Path) -> Any:
    """Load the template of a page."""
    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)
