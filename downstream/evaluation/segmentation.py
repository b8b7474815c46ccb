"""Segmentation: the masks that a model finds in images at their own size, and how good they are."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import islice
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env import ImageSet
from ahm_env.errors import about
from ahm_env.files import write_rows
from ahm_env.images.dataset.builder import in_order
from ahm_env.images.dataset.loader import originals
from ahm_env.images.dataset.patients import Groups
from ahm_env.images.pixels.png import save_picture
from ahm_env.images.source import Sample
from ahm_env.masks import Ints
from downstream.evaluation.metrics import Measures, Overlap, SegmentationScores, score_classes
from downstream.evaluation.pictures import Case, draw_cases
from downstream.evaluation.tables import MEASURES, OF_IMAGES, OF_PATIENTS, is_ours
from downstream.evaluation.tested import IGNORED, class_numbers
from downstream.models.model import Model
from downstream.models.resizing import to_original, to_square

Mask = npt.NDArray[np.uint8]

BATCH = 8  # images at once; a few times as many are in memory, and they may be large
PICTURED = 5  # images of a row of cases.png


@dataclass(frozen=True)
class Segmented:
    """One image with what the model found in it.

    Attributes:
        sample: The image, its true mask among it.
        mask: `(H, W)` uint8 numbers of classes: of the model's spec, not those that stand in a mask file.
        probabilities: `(K,)` mean probability of each class over the image.
    """

    sample: Sample
    mask: Mask
    probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """How well one image was segmented.

    Attributes:
        image: Its name.
        classes: Name of each class but the background to its scores.
        overlaps: Name of each of them to its pixels.
    """

    image: str
    classes: Mapping[str, SegmentationScores]
    overlaps: Mapping[str, Overlap]

    def mean(self, measure: str) -> float:
        """Mean of a measure over the classes."""
        return float(np.mean([getattr(one, measure) for one in self.classes.values()]))

    def row(self) -> dict[str, float]:
        """Return the measures: their means over the classes and, where there are several classes, those of each."""
        row = {name: self.mean(name) for name in MEASURES}
        if len(self.classes) > 1:
            for label, scores in self.classes.items():
                row |= {f"{name} {label}": value for name, value in asdict(scores).items()}
        return row


def segment(model: Model, samples: Iterable[Sample], tta: bool = False) -> Iterator[Segmented]:
    """Segment images one after the other, in flat memory.

    Args:
        model: A model of segmentation.
        samples: Images at their own size.
        tta: Test-time augmentation.

    Raises:
        ImageError: An image holds no finite value.
    """

    def calls() -> Iterator[Callable[[], Segmented]]:
        for some in in_batches(samples, BATCH):
            squares = np.stack([_square(sample, model) for sample in some])
            for sample, maps in zip(some, model.probabilities(squares, tta), strict=True):
                yield partial(_at_its_size, sample, maps, model)

    yield from in_order(calls(), BATCH, behind=True)  # while the network is at work on the next images


def _square(sample: Sample, model: Model) -> npt.NDArray[np.uint8]:
    """Convert an image to the square that the model sees."""
    with about(sample.path):
        return to_square(sample.image, model.spec)


def _at_its_size(sample: Sample, maps: npt.NDArray[np.float32], model: Model) -> Segmented:
    """Bring the maps of a square back to the size of its image."""
    height, width = sample.image.shape[:2]
    wide = to_original(maps, height, width, model.spec)
    return Segmented(sample, wide.argmax(0).astype(np.uint8), wide.mean((1, 2)))


def evaluate(model: Model, images: ImageSet, indices: Ints, tta: bool = False) -> Iterator[tuple[Segmented, Score]]:
    """Segment labelled images, and compare with their masks at their own size.

    Args:
        model: A model of segmentation.
        images: The images.
        indices: Which of them, ascending.
        tta: Test-time augmentation.

    Raises:
        ImageError: There are no masks, or one holds a number that the model does not know.
    """
    spec = model.spec
    for found in segment(model, originals(images, indices), tta):
        truth = class_numbers(found.sample, spec.values, spec.ignore)
        counted = truth != IGNORED
        scores = score_classes(truth, found.mask, range(1, len(spec.values)), counted)
        yield (
            found,
            Score(
                found.sample.name,
                {spec.classes[number]: one for number, one in scores.items()},
                {spec.classes[one]: Overlap.of(truth == one, counted & (found.mask == one)) for one in scores},
            ),
        )


def together(scores: Iterable[Score]) -> dict[str, float]:
    """Dice of each class in some images as if they were one: of all slices of a volume, that in 3-D."""
    found = [one.overlaps for one in scores]
    return {label: sum((one[label] for one in found), Overlap(0, 0, 0)).dice for label in found[0]}


def in_batches(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    """Cut a stream into lists of up to `size`."""
    stream = iter(samples)
    return iter(lambda: list(islice(stream, size)), [])


@dataclass(frozen=True)
class SegmentationAssessment:
    """How well a model segments a set of images.

    Attributes:
        scores: Of every image.
        model: What was assessed.
        images: The images.
        indices: Which of them.
        tta: Whether mirror images counted.
    """

    scores: tuple[Score, ...]
    model: Model
    images: ImageSet
    indices: Ints
    tta: bool

    @cached_property
    def patients(self) -> Sequence[Ints]:
        """Positions of each patient's images, by first appearance."""
        return Groups(self.images.patients(self.indices))

    @property
    def summary(self) -> dict[str, Any]:
        """Every measure of all images; None where one is not defined."""
        found = self.measures()(np.arange(len(self.scores)))
        return {name: None if isnan(value) else value for name, value in found.items()}

    def measures(self) -> Callable[[Ints], Measures]:
        """Return a function that gives the means of all measures over images chosen by position.

        Where a patient has several images, `patient_dice` comes first: Dice of all pixels of a patient, as a mean over
        patients. Beside both kinds of Dice is that of predicting nothing. Where nothing is marked in some images,
        there are also the Dice of the others, and the mean number of pixels wrongly found in the unmarked ones.
        """
        rows = [one.row() for one in self.scores]
        table = np.array([list(row.values()) for row in rows])
        found = self.of_patients()
        whole, share = np.empty((len(rows), len(found[0]))), np.empty(len(rows))
        absent = np.array([[not one.found + one.missed for one in score.overlaps.values()] for score in self.scores])
        wrong = np.array([sum(one.wrong for one in score.overlaps.values()) for score in self.scores])
        absent_whole, blank = np.empty_like(absent), np.asarray(absent.all(1))
        dices = table[:, list(rows[0]).index("dice")]
        for positions, dice in zip(self.patients, found, strict=True):
            whole[positions], share[positions] = list(dice.values()), 1 / len(positions)
            absent_whole[positions] = absent[positions].all(0)

        def measure(chosen: Ints) -> Measures:
            means = dict(zip(rows[0], table[chosen].mean(0).tolist(), strict=True))
            means["nothing_dice"] = float(absent[chosen].mean())
            if blank.any() and not blank.all():
                means["marked_dice"] = _mean(dices[chosen][~blank[chosen]])
                means["blank_pixels"] = _mean(wrong[chosen][blank[chosen]])
            if len(self.patients) == len(rows):
                return means
            means["nothing_patient_dice"] = float(np.average(absent_whole[chosen].mean(1), weights=share[chosen]))
            of_classes = np.average(whole[chosen], axis=0, weights=share[chosen])
            each = {f"patient_dice {label}": float(dice) for label, dice in zip(found[0], of_classes, strict=True)}
            return {"patient_dice": float(of_classes.mean()), **(each if len(each) > 1 else {}), **means}

        return measure

    def of_patients(self) -> list[dict[str, float]]:
        """Dice of each patient and class, all images taken together."""
        return [together(self.scores[position] for position in positions) for positions in self.patients]

    @cached_property
    def cases(self) -> tuple[tuple[str, tuple[Case, ...]], ...]:
        """Rows of the picture, best, median and worst; these few images are segmented again."""
        order = np.argsort([-score.mean("dice") for score in self.scores], kind="stable")
        count = min(PICTURED, max(1, len(order) // 3))  # of few images, none is shown twice
        middle = (len(order) - count) // 2
        rows = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}
        shown = np.unique(np.concatenate(list(rows.values())))
        again = evaluate(self.model, self.images, self.indices[shown], self.tta)
        found = dict(zip(shown.tolist(), again, strict=True))

        def case(position: int) -> Case:
            segmented, score = found[position]
            truth = class_numbers(segmented.sample, self.model.spec.values, self.model.spec.ignore)
            truth[truth == IGNORED] = 0
            return Case(f"{score.image}   Dice {score.mean('dice'):.3f}", segmented.sample.image, truth, segmented.mask)

        return tuple((heading, tuple(case(int(one)) for one in some)) for heading, some in rows.items())

    @property
    def picture(self) -> npt.NDArray[np.uint8]:
        """The cases, drawn: `(h, w, 3)`."""
        return draw_cases(self.cases, tuple(self.scores[0].classes))

    def write(self, directory: Path) -> None:
        """Write `test.csv`, a row an image, `patients.csv`, where a patient has several, and `cases.png`."""
        rows = [
            {"image": one.image, "patient": patient} | {name: f"{value:.6g}" for name, value in one.row().items()}
            for one, patient in zip(self.scores, self.images.patients(self.indices), strict=True)
        ]
        write_rows(directory / OF_IMAGES, rows)
        whole = directory / OF_PATIENTS
        if len(self.patients) < len(self.scores):
            write_rows(whole, self._rows_of_patients())
        elif whole.exists() and is_ours(whole):
            whole.unlink()  # of other images
        save_picture(directory / "cases.png", self.picture)

    def _rows_of_patients(self) -> list[dict[str, object]]:
        """Each patient's number, as in `test.csv`, how many images, the first of them, and Dice, of classes too."""
        numbers, rows = self.images.patients(self.indices), list[dict[str, object]]()
        for positions, dice in zip(self.patients, self.of_patients(), strict=True):
            first = positions[0]
            about = {"patient": numbers[first], "images": len(positions), "first_image": self.scores[first].image}
            each = {f"dice {label}": f"{value:.6g}" for label, value in dice.items()} if len(dice) > 1 else {}
            rows.append({**about, "dice": f"{np.mean(list(dice.values())):.6g}", **each})
        return rows


def _mean(values: npt.NDArray[Any]) -> float:
    """Their mean; NaN of none."""
    return float(values.mean()) if values.size else nan


def assess_segmenter(model: Model, images: ImageSet, indices: Ints, tta: bool = False) -> SegmentationAssessment:
    """Segment labelled images at their own size, and compare: `evaluate` for all of them.

    Args:
        model: A model of segmentation.
        images: The images.
        indices: Which of them, ascending; at least one.
        tta: Test-time augmentation.

    Raises:
        ImageError: There are no masks, or one holds a number that the model does not know.
    """
    scores = tuple(score for _, score in evaluate(model, images, indices, tta))
    return SegmentationAssessment(scores, model, images, indices, tta)
