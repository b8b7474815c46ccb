"""Measures of segmentation and classification: Dice, IoU, HD95, accuracy, balanced accuracy, AUROC.

Where a measure is 0 / 0 it is 1, as in the scoring code of the ISIC challenges: nothing was asked, nothing was missed.
No image is ever left out of an average, because leaving out images in which nothing was predicted would reward missing
what is there.

| truth | prediction | dice, iou | hd95 | sensitivity | specificity |
|-|-|-|-|-|-|
| empty | empty | 1 | 0 | 1 | 1 |
| empty | not | 0 | the image's diagonal | 1 | ordinary |
| not | empty | 0 | the image's diagonal | 0 | 1 |

Where truth is the whole image there is no background, and specificity is 1. Pixels that do not count belong to
neither mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import hypot

import numpy as np
import numpy.typing as npt

from ahm_env.errors import TrainingError
from ahm_env.masks import Bools, Floats, Ints

Measures = Mapping[str, float]  # name of each to its value
BACKGROUND = 0
PERCENTILE = 95  # of surface distances
# What a person reads for a measure
NAMES = {
    "patient_dice": "Dice of a patient",
    "dice": "Dice",
    "nothing_dice": "Dice of predicting nothing",
    "nothing_patient_dice": "Dice of a patient of predicting nothing",
    "marked_dice": "Dice where something is marked",
    "blank_pixels": "false pixels where nothing is marked",
    "majority_accuracy": "accuracy of the most frequent class",
    "iou": "IoU",
    "hd95": "HD95, pixels",
    "auroc": "AUROC",
    "balanced_accuracy": "balanced accuracy",
}


@dataclass(frozen=True)
class Overlap:
    """Pixels of a class in one or more images.

    Attributes:
        found: TP, marked in truth and prediction.
        missed: FN, in truth only.
        wrong: FP, in the prediction only.
    """

    found: int
    missed: int
    wrong: int

    @classmethod
    def of(cls, truth: Bools, prediction: Bools) -> "Overlap":
        """Of two masks `(H, W)` bool."""
        found = int(np.count_nonzero(truth & prediction))
        return cls(found, int(np.count_nonzero(truth)) - found, int(np.count_nonzero(prediction)) - found)

    def __add__(self, other: "Overlap") -> "Overlap":
        """Of the images of both."""
        return Overlap(self.found + other.found, self.missed + other.missed, self.wrong + other.wrong)

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return _ratio(2 * self.found, 2 * self.found + self.missed + self.wrong)


@dataclass(frozen=True)
class SegmentationScores:
    """How well one class of one image was segmented; TP, FP, FN, TN count pixels.

    Attributes:
        dice: 2 TP / (2 TP + FP + FN).
        iou: Intersection over union (Jaccard index), TP / (TP + FP + FN).
        hd95: 95 % Hausdorff distance in pixels, see `hausdorff_95`.
        sensitivity: TP / (TP + FN).
        specificity: TN / (TN + FP).
    """

    dice: float
    iou: float
    hd95: float
    sensitivity: float
    specificity: float


def score_mask(truth: Bools, prediction: Bools, counted: Bools | None = None) -> SegmentationScores:
    """Compare a predicted mask with the true one, with the conventions at the top of this file.

    Args:
        truth: `(H, W)` bool, at the image's original size.
        prediction: `(H, W)` bool.
        counted: `(H, W)` bool, the pixels that count; None is all.

    Raises:
        ValueError: The arrays are not masks of one shape.
    """
    _check(truth, prediction)
    pixels = truth.size
    if counted is not None:
        truth, prediction, pixels = truth & counted, prediction & counted, int(np.count_nonzero(counted))
    overlap = Overlap.of(truth, prediction)
    found, missed, wrong = overlap.found, overlap.missed, overlap.wrong
    return SegmentationScores(
        dice=overlap.dice,
        iou=_ratio(found, found + missed + wrong),
        hd95=hausdorff_95(truth, prediction),
        sensitivity=_ratio(found, found + missed),
        specificity=_ratio(pixels - found - missed - wrong, pixels - found - missed),
    )


def score_classes(
    truth: npt.NDArray[np.uint8],
    prediction: npt.NDArray[np.uint8],
    classes: Sequence[int],
    counted: Bools | None = None,
) -> dict[int, SegmentationScores]:
    """Compare a predicted class map with the true one, class by class.

    Args:
        truth: `(H, W)` uint8, the class of each pixel, at the image's original size.
        prediction: `(H, W)` uint8.
        classes: The classes; the background, 0, is left out where it is among them.
        counted: `(H, W)` bool, the pixels that count; None is all.

    Raises:
        ValueError: The two shapes differ.
    """
    return {each: score_mask(truth == each, prediction == each, counted) for each in classes if each != BACKGROUND}


def hausdorff_95(truth: Bools, prediction: Bools) -> float:
    """95 % Hausdorff distance of two masks, in pixels, percentiles interpolated linearly.

    From each surface pixel of one mask, measure the Euclidean distance to the nearest surface pixel of the other; the
    95th percentile of these, in the direction in which it is larger (Huttenlocher et al. 1993, "Comparing images using
    the Hausdorff distance", with a quantile for the outer maximum; the same as MONAI's `compute_hausdorff_distance`
    with `percentile=95`). Surface pixels belong to the mask and have one of their four neighbours outside of it; beyond
    the image's border is outside.

    Args:
        truth: `(H, W)` bool.
        prediction: `(H, W)` bool.

    Returns:
        0 where both masks are empty; the image's diagonal, longer than any distance in it, where just one is.

    Raises:
        ValueError: The arrays are not masks of one shape.
    """
    from scipy.spatial import KDTree  # type: ignore[import-untyped]

    _check(truth, prediction)
    there = truth.any(), prediction.any()
    if not all(there):
        return hypot(*truth.shape) if any(there) else 0.0
    # a tree over the few surface pixels is several times faster than distance transforms of the whole image
    surfaces = [KDTree(_surface(mask)) for mask in (truth, prediction)]
    distances = [one.query(other.data)[0] for one, other in (surfaces, surfaces[::-1])]
    return float(max(np.percentile(each, PERCENTILE) for each in distances))


@dataclass(frozen=True)
class ClassificationScores:
    """How well images were classified.

    Attributes:
        accuracy: Share of the images whose likeliest class is the true one.
        balanced_accuracy: Mean sensitivity over the classes of which there is an image.
        auroc: Area under the ROC curve: of class 1 where there are two classes; else the mean, over the classes of
            which there is an image, of each class against the rest. NaN where all images have the same class.
        confusion: `(K, K)` int64, how many images of the class of a row were taken for the class of a column.
    """

    accuracy: float
    balanced_accuracy: float
    auroc: float
    confusion: Ints


def score_labels(truth: Ints, probabilities: npt.NDArray[np.floating]) -> ClassificationScores:
    """Compare predicted class probabilities with the true classes.

    Args:
        truth: `(B,)` int64, the classes of the images, from 0 to K - 1.
        probabilities: `(B, K)` float, rows sum to 1; of equally likely classes the first one is predicted.

    Raises:
        TrainingError: A probability is not finite.
        ValueError: There is no image, shapes do not fit, a class is out of range, or rows do not sum to 1.
    """
    from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

    if (
        probabilities.ndim != 2
        or probabilities.shape[1] < 2
        or not len(truth)
        or truth.shape != probabilities.shape[:1]
    ):
        raise ValueError(
            f"classes {truth.shape} must be (B,), probabilities {probabilities.shape} (B, K); B > 0, K > 1"
        )
    if not np.isfinite(probabilities).all():
        raise TrainingError("a class probability is not finite: the classifier has diverged; lower its learning rate")
    classes = probabilities.shape[1]
    if truth.min() < 0 or truth.max() >= classes:
        raise ValueError(f"classes from {truth.min()} to {truth.max()} do not fit {classes} columns of probabilities")
    if not np.allclose(probabilities.sum(1), 1, atol=1e-3):
        raise ValueError("rows of class probabilities must sum to 1; apply a softmax to scores")
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (truth, probabilities.argmax(1)), 1)
    counts, hits = confusion.sum(1), confusion.diagonal()
    present = counts > 0
    # both classes of two have the same curve, except that rounding in one column may break ties of the other
    apart = [1] if classes == 2 else np.flatnonzero(present)
    areas = [roc_auc_score(truth == each, probabilities[:, each]) for each in apart] if present.sum() > 1 else [np.nan]
    return ClassificationScores(
        accuracy=float(hits.sum() / len(truth)),
        balanced_accuracy=float((hits[present] / counts[present]).mean()),
        auroc=float(np.mean(areas)),
        confusion=confusion,
    )


def measure_name(key: str) -> str:
    """Return the name for people of a measure of a summary, such as `hd95` or, of one class, `hd95 lesion`."""
    measure, _, label = key.partition(" ")
    name, comma, unit = NAMES.get(measure, measure).partition(",")
    return f"{name} {label}".rstrip() + comma + unit


def _check(truth: Bools, prediction: Bools) -> None:
    masks = all(mask.dtype == bool and mask.ndim == 2 and mask.size for mask in (truth, prediction))
    if not masks or truth.shape != prediction.shape:
        raise ValueError(
            f"masks must be bool (H, W), both of the image's size, not {truth.dtype} {truth.shape} "
            f"and {prediction.dtype} {prediction.shape}"
        )


def _ratio(part: int, whole: int) -> float:
    """Their ratio; 1 for 0 / 0."""
    return part / whole if whole else 1.0


def _surface(mask: Bools) -> Floats:
    """Rows and columns `(P, 2)` of the surface pixels of a mask that is not empty."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    corner = np.array([rows[0], columns[0]])
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    around = np.pad(mask, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return np.asarray(np.argwhere(mask & ~inside) + corner, np.float64)
