"""Classification: the classes that a model gives to images, and how often it is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env import ImageSet
from ahm_env.files import write_rows
from ahm_env.images.pixels.png import save_picture
from ahm_env.masks import Ints
from downstream.evaluation.metrics import ClassificationScores, Measures, score_labels
from downstream.evaluation.pictures import draw_confusion
from downstream.evaluation.tables import OF_IMAGES
from downstream.models.model import Model

BATCH = 64  # images at once


@dataclass(frozen=True)
class ClassificationAssessment:
    """How well a model classifies a set of images.

    Attributes:
        classes: Names of the K classes.
        images: Names of the B images.
        patients: `(B,)` numbers of their patients.
        truth: `(B,)` class numbers.
        probabilities: `(B, K)`.
        scores: What these come to.
    """

    classes: tuple[str, ...]
    images: Sequence[str]
    patients: Ints
    truth: Ints
    probabilities: npt.NDArray[np.float32]
    scores: ClassificationScores

    @property
    def summary(self) -> dict[str, Any]:
        """Every measure of all images, as JSON can hold them; None where one is not defined."""
        found = self.measures()(np.arange(len(self.truth)))
        measures = {name: None if np.isnan(value) else value for name, value in found.items()}
        return {**measures, "classes": list(self.classes), "confusion": self.scores.confusion.tolist()}

    def measures(self) -> Callable[[Ints], Measures]:
        """Return a function that gives all measures on images chosen by position; NaN where one is not defined.

        Beside them is the accuracy of always giving the most frequent class.
        """
        most = np.bincount(self.truth).argmax()

        def measure(chosen: Ints) -> Measures:
            scores = score_labels(self.truth[chosen], self.probabilities[chosen])
            measures = {
                "accuracy": scores.accuracy,
                "balanced_accuracy": scores.balanced_accuracy,
                "auroc": scores.auroc,
                "majority_accuracy": float((self.truth[chosen] == most).mean()),
            }
            for name, row, hits in zip(self.classes, scores.confusion, scores.confusion.diagonal(), strict=True):
                measures[f"sensitivity {name}"] = float(hits / row.sum()) if row.sum() else float("nan")
            return measures

        return measure

    @property
    def picture(self) -> npt.NDArray[np.uint8]:
        """The confusion of classes, drawn: `(h, w, 3)`."""
        return draw_confusion(self.scores.confusion, self.classes)

    def write(self, directory: Path) -> None:
        """Write `test.csv`, a row an image, and `confusion.png`."""
        rows = []
        for name, patient, number, row in zip(self.images, self.patients, self.truth, self.probabilities, strict=True):
            found = {"label": self.classes[number], "prediction": self.classes[row.argmax()]}
            shares = {f"p {label}": f"{share:.6g}" for label, share in zip(self.classes, row, strict=True)}
            rows.append({"image": name, "patient": patient} | found | shares)
        write_rows(directory / OF_IMAGES, rows)
        save_picture(directory / "confusion.png", self.picture)


def assess_classifier(model: Model, images: ImageSet, indices: Ints, tta: bool = False) -> ClassificationAssessment:
    """Classify labelled images, and compare.

    Args:
        model: A model of classification.
        images: The images; their classes are the model's.
        indices: Which of them; all have a label.
        tta: Test-time augmentation.
    """
    parts = np.array_split(indices, max(1, -(-len(indices) // BATCH)))
    probabilities = np.concatenate([model.probabilities(images.images(part), tta) for part in parts])
    truth, patients = images.labels(indices), images.patients(indices)
    names = [images.names[index] for index in indices]
    scores = score_labels(truth, probabilities)
    return ClassificationAssessment(model.spec.classes, names, patients, truth, probabilities, scores)
