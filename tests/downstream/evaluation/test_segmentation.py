"""Segmentation at the images' own size: masks in place, honest scores, and memory that stays flat."""

import threading
import weakref
from dataclasses import replace
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ahm_env import ImageError, load_images
from ahm_env.files import read_rows
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import Sample
from downstream.evaluation import segmentation
from downstream.evaluation.metrics import Overlap, SegmentationScores, score_mask
from downstream.evaluation.segmentation import (
    BATCH,
    Score,
    SegmentationAssessment,
    assess_segmenter,
    class_numbers,
    evaluate,
    in_batches,
    segment,
)
from downstream.models.model import Model, ModelSpec
from downstream.models.resizing import to_original, to_square

pytestmark = pytest.mark.usefixtures("own_cache")


class Bright:
    """Takes for lesion what is bright: probability 1 above half intensity."""

    def __init__(self, spec: ModelSpec, classes: int = 2) -> None:
        self.spec, self.classes = spec, classes

    def probabilities(self, images: np.ndarray, tta: bool = False) -> np.ndarray:
        found = np.zeros((len(images), self.classes, *images.shape[2:]), np.float32)
        found[:, 1] = images.mean(1) / 255
        found[:, 0] = 1 - found[:, 1]
        return found


def banded(shape: tuple[int, int], rows: slice, dtype=np.uint8) -> Sample:
    """An image with one bright band across, which is its lesion."""
    mask = np.zeros(shape, np.uint8)
    mask[rows] = 1
    image = mask.astype(dtype) * np.iinfo(dtype).max
    return Sample(f"{shape}.png", f"scans/{shape}.png", image, mask)


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_masks_lie_where_the_lesions_are(spec: ModelSpec, fit: str, dtype: type):
    samples = [
        banded((64, 64), slice(8, 24), dtype),
        banded((32, 64), slice(12, 24), dtype),
        banded((64, 16), slice(0, 32), dtype),
    ]
    for found, sample in zip(segment(Bright(replace(spec, fit=fit)), samples), samples, strict=True):
        assert found.sample is sample
        assert found.mask.dtype == np.uint8
        np.testing.assert_array_equal(found.mask, sample.mask)


def test_the_mean_probability_is_that_of_the_image_without_its_padding(spec: ModelSpec):
    sample = banded((16, 64), slice(0, 4))  # a quarter of it; of the padded square a sixteenth
    for fit in ("stretch", "pad"):
        (found,) = segment(Bright(replace(spec, fit=fit)), [sample])
        assert found.probabilities == pytest.approx([0.75, 0.25], abs=0.02)
        assert found.probabilities.sum() == pytest.approx(1)


@pytest.mark.parametrize("tta", [False, True])
def test_an_image_is_segmented_alike_alone_and_among_others(spec: ModelSpec, tta: bool):
    model = Model.create(spec, 0)
    samples = [banded((20 + number, 30 - number), slice(number, 9)) for number in range(2 * BATCH + 1)]
    for found, sample in zip(segment(model, samples, tta), samples, strict=True):
        maps = model.probabilities(to_square(sample.image, spec)[None], tta)[0]
        wide = to_original(maps, *sample.image.shape, spec)
        sure = abs(wide[0] - wide[1]) > 1e-5
        np.testing.assert_array_equal(found.mask[sure], wide.argmax(0)[sure])


def test_images_are_let_go_once_they_are_segmented(spec: ModelSpec):
    count, references, most = 8 * BATCH, list[weakref.ref](), 0

    def samples():
        for number in range(count):
            sample = banded((24, 24), slice(number % 20, 22))
            references.append(weakref.ref(sample.image))
            yield sample

    for found in segment(Bright(spec), samples()):
        most = max(most, sum(one() is not None for one in references))
        del found
    assert len(references) == count
    assert most <= 2 * BATCH + 1


def test_masks_are_made_beside_the_network_which_goes_no_further_than_a_batch_ahead(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
):
    threads, drawn = set[int](), 0

    def resize(*arguments: Any) -> np.ndarray:
        threads.add(threading.get_ident())
        return to_original(*arguments)

    def samples():
        nonlocal drawn
        for drawn in range(1, 5 * BATCH):
            yield banded((24, 24), slice(drawn % 20, 22))

    monkeypatch.setattr(segmentation, "to_original", resize)
    results = segment(Bright(spec), samples())
    next(results)
    assert drawn == BATCH
    next(results)
    assert drawn == 2 * BATCH
    results.close()
    assert drawn == 2 * BATCH
    assert threading.get_ident() not in threads


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (3, [3]), (4, [4]), (9, [4, 4, 1])])
def test_batches_are_full_but_for_the_last(count: int, sizes: list[int]):
    assert [len(batch) for batch in in_batches(iter(range(count)), 4)] == sizes


def test_an_image_that_cannot_be_used_is_named(spec: ModelSpec):
    bad = Sample("b.tif", "scans/b.tif", np.full((4, 4), np.nan, np.float32))
    with pytest.raises(ImageError, match=r"scans/b\.tif: holds no finite value"):
        list(segment(Bright(spec), [banded((8, 8), slice(0, 2)), bad]))


# Scores


def test_numbers_in_a_mask_become_numbers_of_classes():
    sample = Sample("a", "scans/a.png", np.zeros((1, 4)), np.array([[0, 5, 2, 255]], np.uint8))
    np.testing.assert_array_equal(class_numbers(sample, (0, 2, 5, 255)), [[0, 2, 1, 3]])
    with pytest.raises(ImageError, match=r"scans/a\.png: its mask holds 2, but the model knows 0, 5, 255; renumber"):
        class_numbers(sample, (0, 5, 255))
    with pytest.raises(ImageError, match=r"scans/a\.png: has no mask to compare with"):
        class_numbers(replace(sample, mask=None), (0, 1))


@pytest.mark.parametrize("mask", [[0, 1, 1], [0, 255, 255]])
def test_a_model_of_one_lesion_knows_both_ways_to_store_it(mask: list[int]):
    sample = Sample("a", "scans/a.png", np.zeros((1, 3)), np.array([mask], np.uint8))
    np.testing.assert_array_equal(class_numbers(sample, (0, 1)), [[0, 1, 1]])
    odd = replace(sample, mask=np.array([[0, 7, 7]], np.uint8))
    with pytest.raises(ImageError, match="its mask holds 7, but the model knows 0, 1"):
        class_numbers(odd, (0, 1))


def test_the_row_of_an_image_has_means_and_of_several_classes_each():
    half = score_mask(np.array([[True, True, False, False]]), np.array([[True, False, False, False]]))
    full = score_mask(np.array([[True]]), np.array([[True]]))
    assert Score("a", {"2": half}, {}).row() == pytest.approx(
        {"dice": 2 / 3, "iou": 0.5, "hd95": half.hd95, "sensitivity": 0.5, "specificity": 1.0}
    )
    both = Score("a", {"2": half, "5": full}, {}).row()
    assert both["dice"] == pytest.approx((2 / 3 + 1) / 2)
    assert (both["dice 2"], both["dice 5"]) == pytest.approx((2 / 3, 1))
    assert len(both) == 15


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_every_image_is_compared_at_its_own_size(write_source, spec: ModelSpec, fit: str):
    images = load_images(write_source(), 16, fit=fit)
    model = Bright(replace(spec, fit=fit))
    pairs = list(evaluate(model, images, images.split("train")))
    assert [score.image for _, score in pairs] == [images.names[index] for index in images.split("train")]
    assert len({found.mask.shape for found, _ in pairs}) == 4
    for found, score in pairs:
        truth = cv2.imread(f"source/masks/{score.image}", cv2.IMREAD_UNCHANGED) == 255
        assert score.classes == {"foreground": score_mask(truth, found.mask == 1)}
        assert score.mean("dice") > 0.8


def test_the_best_the_median_and_the_worst_are_pictured(write_source, spec: ModelSpec, tmp_path: Path):
    images = load_images(write_source(splits=("test",) * 15), 16)
    found = assess_segmenter(Bright(spec), images, images.split("test"))
    dice = {score.image: score.mean("dice") for score in found.scores}
    assert len(dice) == 15
    ordered = sorted(dice.values(), reverse=True)
    rows = {heading: [dice[case.caption.split()[0]] for case in cases] for heading, cases in found.cases}
    assert rows == {"best": ordered[:5], "median": ordered[5:10], "worst": ordered[-5:]}
    for _, cases in found.cases:
        for case in cases:
            assert case.caption == f"{case.caption.split()[0]}   Dice {dice[case.caption.split()[0]]:.3f}"
            assert case.image.shape[:2] == case.found.shape == case.truth.shape
            assert score_mask(case.truth == 1, case.found == 1).dice == dice[case.caption.split()[0]]
    assert found.summary["nothing_dice"] == 0
    for name in found.scores[0].row():
        assert found.summary[name] == pytest.approx(np.mean([score.row()[name] for score in found.scores]))
    found.write(tmp_path / "shown")
    table = read_rows(tmp_path / "shown" / "test.csv")
    assert [row["image"] for row in table] == list(dice)
    assert [int(row["patient"]) for row in table] == found.images.patients(found.indices).tolist()
    assert [float(row["dice"]) for row in table] == pytest.approx(list(dice.values()), rel=1e-5)
    assert cv2.imread(str(tmp_path / "shown" / "cases.png")) is not None


def test_of_few_images_none_is_pictured_twice(write_source, spec: ModelSpec):
    images = load_images(write_source(splits=("test",) * 8), 16)
    found = assess_segmenter(Bright(spec), images, images.split("test"))
    shown = [case.caption for _, cases in found.cases for case in cases]
    assert len(shown) == len(set(shown)) == 6


def test_one_image_is_the_best_and_the_worst(write_source, spec: ModelSpec):
    images = load_images(write_source(), 16)
    found = assess_segmenter(Bright(spec), images, images.split("val"))
    assert isinstance(found, SegmentationAssessment)
    assert [len(cases) for _, cases in found.cases] == [1, 1, 1]


def of_patients(*patients: int) -> Any:
    """Images of these patients, as much as measures need."""
    return SimpleNamespace(patients=lambda indices: np.array(patients)[indices])


def test_what_predicting_nothing_would_have_by_hand():
    # two patients: (marked, blank, blank) and (blank); pixels found, missed, wrong
    pixels = [Overlap(2, 1, 1), Overlap(0, 0, 0), Overlap(0, 0, 4), Overlap(0, 0, 2)]
    scores = tuple(
        Score(str(number), {"x": SegmentationScores(one.dice, 0, 0, 0, 0)}, {"x": one})
        for number, one in enumerate(pixels)
    )
    assessed = SegmentationAssessment(scores, None, of_patients(5, 5, 5, 3), np.arange(4), False)  # type: ignore[arg-type]
    assert next(iter(assessed.summary)) == "patient_dice"
    found = assessed.measures()(np.arange(4))
    assert found == assessed.summary
    assert found["nothing_dice"] == 3 / 4
    assert found["nothing_patient_dice"] == 1 / 2  # of the second, in whom nothing is
    assert found["marked_dice"] == pytest.approx(4 / 6)
    assert found["blank_pixels"] == (0 + 4 + 2) / 3
    assert found["patient_dice"] == pytest.approx((4 / (4 + 1 + 5) + 0) / 2)
    assert isnan(assessed.measures()(np.array([1, 2]))["marked_dice"])
    alone = SegmentationAssessment(scores[:1], None, of_patients(5), np.arange(1), False).summary  # type: ignore[arg-type]
    assert alone["nothing_dice"] == 0
    assert not {"marked_dice", "blank_pixels", "nothing_patient_dice", "patient_dice"} & set(alone)
