"""Evaluation of a fine-tuned model on a labelled source: every measure, with how sure it is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np

from ahm_env import ImageError, ImageSet, SettingsError, load_images
from ahm_env.console import number, table_text
from ahm_env.files import Saved, path_of
from ahm_env.images.dataset.annotated import annotated
from ahm_env.images.dataset.builder import Progress
from ahm_env.images.dataset.loader import find_source, with_marked
from ahm_env.images.dataset.patients import Groups
from ahm_env.images.source import SPLITS
from ahm_env.masks import Ints
from downstream.evaluation.classification import ClassificationAssessment, assess_classifier
from downstream.evaluation.cropping import Cropped, load_tuned
from downstream.evaluation.metrics import Measures, measure_name
from downstream.evaluation.page import source_name, write_page
from downstream.evaluation.segmentation import SegmentationAssessment, assess_segmenter
from downstream.evaluation.statistics import Interval
from downstream.evaluation.tested import usable, with_ignore
from downstream.models.model import ModelSpec

DRAWS = 1000  # of the bootstrap: AUROC takes a millisecond
FEW = 10  # patients
ALL = "all"


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on labelled images.

    Attributes:
        model: Its directory.
        data: The source.
        split: Of which images: `train`, `val`, `test` or `all`.
        tta: Whether mirror images were averaged.
        images: The source as it was read.
        bad_masks: Number of images left out, since their masks cannot be read.
        unknown_masks: Number of images left out, since their masks hold nothing but the number to be ignored.
        patients: Positions of each patient's images.
        assessed: What was found in each image.
        measures: Name of each measure to its mean and 95 % interval over patients; NaN where it is not defined.
        remarks: What to know of these numbers before they are believed.
    """

    model: Path
    data: str
    split: str
    tta: bool
    images: ImageSet
    bad_masks: int
    unknown_masks: int
    patients: Sequence[Ints]
    assessed: SegmentationAssessment | ClassificationAssessment
    measures: Mapping[str, Interval]
    remarks: Sequence[str]

    @property
    def count(self) -> int:
        """Number of images that it was evaluated on."""
        return sum(map(len, self.patients))

    @property
    def several(self) -> bool:
        """Whether there are several images of a patient."""
        return len(self.patients) < self.count

    def table(self) -> str:
        """Format the measures with their intervals as a table, for a person."""
        whose = f" of {len(self.patients):,} patient{'s' * (len(self.patients) > 1)}" if self.several else ""
        rows = [
            (measure_name(name), number(one.mean), "–" if isnan(one.low) else f"{one.low:.3f} to {one.high:.3f}")
            for name, one in self.measures.items()
        ]
        title = f"{self.data}{self._part}: {self.count:,} images{whose}"
        return table_text(title, ("measure", "mean", "95 % interval"), rows)

    def as_dict(self) -> dict[str, Any]:
        """All numbers, as JSON can hold them; None for what is not defined."""
        where = {"model": str(self.model), "data": self.data, "split": self.split, "tta": self.tta}
        counts = {"images": self.count, "patients": len(self.patients)}
        task = "segmentation" if isinstance(self.assessed, SegmentationAssessment) else "classification"
        ends = {name: None if isnan(one.low) else [one.low, one.high] for name, one in self.measures.items()}
        return {"task": task, **where, **counts, **self.assessed.summary, "intervals": ends}

    def write_page(self, path: Path) -> None:
        """Write all of it as an HTML page."""
        title = f"{source_name(self.data)}{self._part}"
        write_page(path, self.assessed, self.measures, self.patients, title, self.remarks)

    @property
    def _part(self) -> str:
        return "" if self.split == ALL else f", {self.split} split"


def evaluate(
    model: str | Path | Saved,
    data: str | Path,
    split: str = "test",
    *,
    tta: bool = False,
    ignore: int | str | None = None,
    skip_bad: bool = False,
    burned_in: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a fine-tuned model on labelled images.

    Args:
        model: A fine-tuned model, or its directory.
        data: A source with masks, or with the labels that the classifier knows.
        split: Of which images: `train`, `val`, `test` or `all`.
        tta: Test-time augmentation by mirror images.
        ignore: Number in masks that is no class: such pixels are not scored; `none`, or by default that of the model.
        skip_bad: Go on without images that cannot be read.
        burned_in: Take DICOM images in that say that text is burned into them.
        device: Where to compute.
        precision: Of the networks' layers: `fp32`, `bf16`, or `auto`.
        progress: Called with (done, total) while images are read.

    Returns:
        How good it is.

    Raises:
        AHMError: Anything that the user can mend.
    """
    check_split(split)
    path, data = path_of(model), str(data)
    tuned, segmenter = load_tuned(path, device, precision)
    spec = tuned.spec = with_ignore(tuned.spec, ignore)
    pixels = replace(spec.pixels, burned_in=burned_in)
    source = data if segmenter is None else Cropped(find_source(data, pixels), segmenter, data)
    whole = load_images(source, skip_bad=skip_bad, progress=progress, masks=False, **asdict(pixels))
    if spec.task == "segmentation":
        whole = with_marked(whole, SPLITS if split == ALL else (split,), skip_bad, progress)
    indices = of_split(whole, spec.task, split)
    assess: Callable[..., SegmentationAssessment | ClassificationAssessment]
    if spec.task == "classification":
        check_classes(whole, indices, spec)
        images, assess = annotated(whole, indices, spec.classes, masks=False), assess_classifier
    else:
        images, assess = annotated(whole, indices, skip_bad=skip_bad, ignore=spec.ignore), assess_segmenter
        indices = of_split(images, spec.task, split)
    patients = Groups(images.patients(indices))
    assessed = assess(tuned, images, indices, tta)
    found = with_intervals(assessed.measures(), patients, DRAWS)
    bad = images.skipped - whole.skipped
    told, unknown = remarks(assessed, patients), images.unknown
    return Evaluation(path, data, split, tta, whole, bad, unknown, patients, assessed, found, told)


def check_split(split: str) -> None:
    """Refuse what is no name of a split.

    Raises:
        SettingsError: It is neither `train`, `val`, `test` nor `all`.
    """
    if split not in (*SPLITS, ALL):
        raise SettingsError(f"--split {split} is unknown; choose one of: {', '.join((*SPLITS, ALL))}")


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


def check_classes(images: ImageSet, indices: Ints, spec: ModelSpec) -> None:
    """Check that the classes of the images are those of the classifier, or some of them.

    Raises:
        SettingsError: The classifier does not have one of the classes.
    """
    found = {images.classes[number] for number in images.labels(indices).tolist()}
    if unknown := sorted(found - set(spec.classes)):
        raise SettingsError(
            f"{images.source}: its classes are not those of the model ({', '.join(spec.classes)}); unknown: "
            f"{', '.join(unknown)}; rename them in labels.csv, or evaluate on a source that has these"
        )


def with_intervals(measure: Callable[[Ints], Measures], patients: Sequence[Ints], draws: int) -> dict[str, Interval]:
    """Measures with their 95 % intervals, by a bootstrap over patients (percentiles; Efron, Tibshirani, 1993, ch. 13).

    Args:
        measure: Of the images at some positions, in which one may come several times.
        patients: Positions of each patient's images, who are drawn with all of theirs.
        draws: Number of resamples; one in which a measure is not defined does not count for that measure.

    Returns:
        Name to interval; NaN where a measure is not defined, and the ends where there is but one patient, or all
        resamples are alike.
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
        low, high = (nan, nan) if none else np.quantile(values, (0.025, 0.975)).tolist()
        if low == high:  # what holds of all of a few, as that everything was found, need not hold of others
            low = high = nan
        found[name] = Interval(value, low, high)
    return found


def remarks(assessed: SegmentationAssessment | ClassificationAssessment, patients: Sequence[Ints]) -> list[str]:
    """List what to know of these numbers before they are believed, a sentence or two each."""
    lines, images = list[str](), sum(map(len, patients))
    several = len(patients) < images
    if isinstance(assessed, SegmentationAssessment):
        if several:
            lines.append(
                "Dice of a patient is that of all pixels of the patient's images together, of a volume that in 3-D. "
                "The other measures are means over images."
            )
        blank = sum(not any(one.found + one.missed for one in score.overlaps.values()) for score in assessed.scores)
        if blank:
            lines.append(
                f"In {blank:,} of {images:,} images nothing is marked: there, Dice is 1 where nothing is found."
            )
    else:
        classes = [assessed.truth[images[0]] for images in patients]
        rare = [name for number, name in enumerate(assessed.classes) if 0 < classes.count(number) < FEW]
        if rare and len(patients) >= FEW:
            lines.append(f"Of class {', '.join(rare)} there are fewer than {FEW}: intervals of it are too narrow.")
    if len(patients) < FEW:
        whose = "patients" if several else "images"
        one = f"This is one {whose[:-1]}, which says nothing of others: there is no interval."
        few = f"These are few {whose}: with fewer than {FEW}, intervals are too narrow."
        lines.append(one if len(patients) == 1 else few)
    return lines
