"""Measures of segmentation and classification, by hand and against other people's implementations."""

import warnings
from dataclasses import astuple
from math import hypot, isfinite, isnan, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ahm_env.errors import TrainingError
from downstream.evaluation.metrics import hausdorff_95, score_classes, score_labels, score_mask

STEADY = settings(derandomize=True, max_examples=100)


def mask(text: str) -> Any:
    return np.array([[letter == "#" for letter in row] for row in text.split()])


def image(height: int, width: int, *points: tuple[int, int]) -> Any:
    found = np.zeros((height, width), bool)
    for point in points:
        found[point] = True
    return found


@st.composite
def pairs(draw: Any) -> Any:
    """Two masks: noise, boxes, single pixels, the same mask twice, empty and full ones."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    places = st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1))

    def one() -> Any:
        kind = draw(st.sampled_from(["noise", "box", "pixel", "full", "empty"]))
        if kind == "noise":
            return draw(arrays.arrays(bool, shape, elements=st.booleans(), fill=st.booleans()))
        found = np.full(shape, kind == "full")
        if kind in ("box", "pixel"):
            (top, left), (bottom, right) = draw(places), draw(places)
            if kind == "pixel":
                bottom, right = top, left
            found[min(top, bottom) : max(top, bottom) + 1, min(left, right) : max(left, right) + 1] = True
        return found

    truth = one()
    return truth, truth.copy() if draw(st.integers(0, 9)) == 0 else one()


PIXEL, EMPTY = image(5, 7, (0, 6)), image(5, 7)


def awkward(test: Any) -> Any:
    """The cases that must not depend on what hypothesis draws."""
    for truth, prediction in ((EMPTY, EMPTY), (EMPTY, PIXEL), (PIXEL, EMPTY), (PIXEL, PIXEL), (PIXEL, ~EMPTY)):
        test = example((truth, prediction))(test)
    return STEADY(given(pairs())(test))


# Segmentation, by hand


def test_pixels_that_do_not_count_belong_to_neither_mask():
    truth, prediction, counted = (
        mask(text)
        for text in ("##.. ##.. ....", ".##. .##. .##.", "###. ###. ####")  # of the last column one pixel counts
    )
    found = score_mask(truth, prediction, counted)
    # TP 2, FN 2, FP 4 (two in the last row), TN 2
    assert found.dice == pytest.approx(4 / 10)
    assert (found.sensitivity, found.specificity) == (2 / 4, 2 / 6)
    assert score_mask(truth | ~counted, prediction, counted) == found
    assert score_mask(truth, prediction ^ ~counted, counted) == found
    assert score_classes(truth.astype(np.uint8), prediction.astype(np.uint8), (1,), counted) == {1: found}


@awkward
def test_a_margin_that_does_not_count_is_as_if_it_were_not_there(pair: Any):
    wide = [np.pad(each, 2, constant_values=True) for each in pair]
    found, there = score_mask(*wide, np.pad(np.ones_like(pair[0]), 2)), score_mask(*pair)
    assert astuple(found)[:2] == astuple(there)[:2]
    assert astuple(found)[3:] == astuple(there)[3:]
    if pair[0].any() == pair[1].any():  # else it is the diagonal, of an image of another size
        assert found.hd95 == there.hd95


def test_scores_of_two_overlapping_boxes_by_hand():
    truth = mask("""
        ##..
        ##..
        ....""")
    prediction = mask("""
        .##.
        .##.
        .##.""")
    found = score_mask(truth, prediction)
    # TP 2, FN 2, FP 4, TN 4
    assert found.dice == pytest.approx(4 / 10)
    assert found.iou == pytest.approx(2 / 8)
    assert (found.sensitivity, found.specificity) == (2 / 4, 4 / 8)
    # all pixels are surface; from the prediction: 0 0 1 1 1 sqrt 2; from the truth: 0 0 1 1
    assert found.hd95 == pytest.approx(1 + 0.75 * (sqrt(2) - 1))


def test_the_distance_of_two_pixels_is_euclidean():
    assert score_mask(image(6, 9, (1, 2)), image(6, 9, (4, 6))).hd95 == 5


def test_a_few_distant_pixels_do_not_decide_the_distance():
    truth = image(30, 50, *((0, x) for x in range(40)))
    near, far = truth.copy(), truth.copy()
    near[29, 0] = True  # one of 41 is less than 5 %
    far[29, :3] = True
    assert hausdorff_95(truth, near) == 0
    assert hausdorff_95(truth, far) > 20
    assert hausdorff_95(far, truth) == hausdorff_95(truth, far)  # the larger of the two directions


def test_the_inside_of_a_mask_is_not_its_surface():
    truth = np.ones((9, 9), bool)
    ring = truth.copy()
    ring[1:-1, 1:-1] = False  # the same pixels next to what is beyond the border
    assert hausdorff_95(truth, ring) == 0
    centre = image(9, 9, (4, 4))
    # from each of the 32 pixels of the border to the centre: 4 are sqrt 32 away, more than 5 %
    assert hausdorff_95(truth, centre) == pytest.approx(sqrt(32))


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (EMPTY, EMPTY, (1, 1, 0, 1, 1)),
        (EMPTY, PIXEL, (0, 0, hypot(5, 7), 1, 34 / 35)),
        (PIXEL, EMPTY, (0, 0, hypot(5, 7), 0, 1)),
        (PIXEL, PIXEL, (1, 1, 0, 1, 1)),
        (EMPTY, ~EMPTY, (0, 0, hypot(5, 7), 1, 0)),
        (~EMPTY, ~EMPTY, (1, 1, 0, 1, 1)),
        (~EMPTY, EMPTY, (0, 0, hypot(5, 7), 0, 1)),
    ],
)
def test_conventions_for_empty_and_full_masks(truth, prediction, expected):
    assert astuple(score_mask(truth, prediction)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("truth", "prediction"),
    [
        (EMPTY, image(5, 8)),
        (EMPTY, EMPTY.astype(np.uint8) * 255),
        (EMPTY.astype(np.uint8), EMPTY),
        (EMPTY[None], EMPTY[None]),
        (image(0, 3), image(0, 3)),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(truth, prediction):
    for measure in (score_mask, hausdorff_95):
        with pytest.raises(ValueError, match="masks must be bool"):
            measure(truth, prediction)


def test_classes_are_scored_one_by_one_without_the_background():
    truth = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)
    prediction = np.array([[0, 1, 2], [2, 2, 0]], np.uint8)
    found = score_classes(truth, prediction, range(4))
    assert list(found) == [1, 2, 3]
    assert [found[each].iou for each in found] == pytest.approx([1 / 2, 2 / 3, 1])  # nobody says 3
    assert found[2] == score_mask(truth == 2, prediction == 2)
    assert score_classes(truth, prediction, [1]) == {1: found[1]}


# Segmentation, invariants


@pytest.mark.slow
@awkward
def test_dice_iou_and_distance_are_symmetric_and_bounded(pair):
    found, swapped = score_mask(*pair), score_mask(*pair[::-1])
    assert (found.dice, found.iou, found.hd95) == (swapped.dice, swapped.iou, swapped.hd95)
    assert all(0 <= each <= 1 for each in (found.dice, found.iou, found.sensitivity, found.specificity))
    assert 0 <= found.hd95 <= hypot(*pair[0].shape)
    assert found.dice == pytest.approx(2 * found.iou / (1 + found.iou))
    assert (found.dice == 1) == np.array_equal(*pair)


@pytest.mark.slow
@awkward
def test_scores_do_not_depend_on_how_the_image_lies(pair):
    found = astuple(score_mask(*pair))
    for turn in (np.flipud, np.fliplr, np.transpose, np.rot90):
        assert astuple(score_mask(*(turn(each) for each in pair))) == pytest.approx(found)


@pytest.mark.slow
@awkward
def test_surroundings_change_specificity_only(pair):
    found = score_mask(*pair)
    wide = score_mask(*(np.pad(each, ((3, 2), (1, 4))) for each in pair))
    assert (wide.dice, wide.iou, wide.sensitivity) == (found.dice, found.iou, found.sensitivity)
    if pair[0].any() == pair[1].any():
        assert wide.hd95 == pytest.approx(found.hd95)
    assert wide.specificity >= found.specificity


@pytest.mark.slow
@awkward
def test_sensitivity_of_what_is_not_there_is_specificity(pair):
    assert score_mask(*pair).sensitivity == score_mask(*(~each for each in pair)).specificity


@pytest.mark.slow
@awkward
def test_scoring_leaves_the_masks_alone(pair):
    copies = [each.copy() for each in pair]
    score_mask(*pair)
    assert all(np.array_equal(*each) for each in zip(pair, copies, strict=True))


# Segmentation, against others


@pytest.fixture(scope="module")
def monai() -> Any:
    return pytest.importorskip("monai.metrics")


def of_monai(measure: Any, truth: Any, prediction: Any, **settings: Any) -> float:
    import torch

    maps = [torch.from_numpy(each.astype(np.float32))[None, None] for each in (prediction, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of empty masks
        return float(measure(*maps, include_background=True, **settings))


@pytest.mark.slow
def test_overlap_agrees_with_monai(monai):
    @awkward
    def agrees(pair):
        found = score_mask(*pair)
        assert found.dice == pytest.approx(of_monai(monai.compute_dice, *pair, ignore_empty=False))
        assert found.iou == pytest.approx(of_monai(monai.compute_iou, *pair, ignore_empty=False))

    agrees()


@pytest.mark.slow
def test_distance_agrees_with_monai(monai):
    @awkward
    def agrees(pair):
        theirs = of_monai(monai.compute_hausdorff_distance, *pair, percentile=95, directed=False)
        ours, there = hausdorff_95(*pair), [bool(each.any()) for each in pair]
        if all(there):
            assert ours == pytest.approx(theirs, abs=1e-5)
        elif any(there):
            assert ours == hypot(*pair[0].shape)
            assert not isfinite(theirs)  # inf or NaN, as the direction has it
        else:
            assert ours == 0
            assert isnan(theirs)

    agrees()


@pytest.mark.slow
def test_distance_agrees_with_monai_on_larger_shapes(monai):
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:90, :70]
    for _ in range(10):
        lesions = []
        for _ in range(2):
            (top, left), radii = generator.uniform(0, 70, 2), generator.uniform(3, 60, 2)  # many are cut by the border
            lesions.append(((y - top) / radii[0]) ** 2 + ((x - left) / radii[1]) ** 2 < 1)
            lesions[-1] ^= generator.random(y.shape) < 0.002
        theirs = of_monai(monai.compute_hausdorff_distance, *lesions, percentile=95)
        assert hausdorff_95(*lesions) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.slow
def test_rates_agree_with_monai(monai):
    @awkward
    def agrees(pair):
        import torch

        truth, prediction = (torch.from_numpy(each.ravel().astype(np.float32))[:, None] for each in pair)
        counts = monai.get_confusion_matrix(prediction, truth).sum((0, 1))
        found = score_mask(*pair)
        for name in ("sensitivity", "specificity"):
            theirs = float(monai.compute_confusion_matrix_metric(name, counts))
            assert getattr(found, name) == (1 if isnan(theirs) else pytest.approx(theirs))

    agrees()


@pytest.mark.slow
@awkward
def test_overlap_and_rates_agree_with_scikit_learn(pair):
    from sklearn.metrics import f1_score, jaccard_score, recall_score

    truth, prediction = (each.ravel() for each in pair)
    found = score_mask(*pair)
    assert found.dice == pytest.approx(f1_score(truth, prediction, zero_division=1))
    assert found.iou == pytest.approx(jaccard_score(truth, prediction, zero_division=1))
    assert found.sensitivity == pytest.approx(recall_score(truth, prediction, zero_division=1))
    assert found.specificity == pytest.approx(recall_score(truth, prediction, pos_label=False, zero_division=1))


@pytest.mark.slow
def test_overlap_and_rates_agree_with_the_isic_challenge():
    """With empty masks too: the conventions are the same."""
    metrics = pytest.importorskip("isic_challenge_scoring.metrics")
    confusion = pytest.importorskip("isic_challenge_scoring.confusion")

    @awkward
    def agrees(pair):
        counts = confusion.create_binary_confusion_matrix(*(each.astype(int) for each in pair))
        found = score_mask(*pair)
        assert found.dice == pytest.approx(metrics.binary_dice(counts))
        assert found.iou == pytest.approx(metrics.binary_jaccard(counts))
        assert found.sensitivity == pytest.approx(metrics.binary_sensitivity(counts))
        assert found.specificity == pytest.approx(metrics.binary_specificity(counts))

    agrees()


# Classification


def test_two_classes_by_hand():
    truth = np.array([0, 0, 0, 1, 1])
    risks = np.array([0.1, 0.4, 0.6, 0.5, 0.9])  # 0.5 is a tie: class 0
    found = score_labels(truth, np.stack([1 - risks, risks], 1))
    assert found.confusion.tolist() == [[2, 1], [1, 1]]
    assert found.confusion.dtype == np.int64
    assert found.accuracy == 3 / 5
    assert found.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.auroc == pytest.approx(5 / 6)  # of 3 x 2 pairs one is in the wrong order


def test_of_two_classes_small_risks_keep_their_order():
    risks = np.array([1e-9, 2e-9], np.float32)
    probabilities = np.stack([1 - risks, risks], 1)
    assert (probabilities[:, 0] == 1).all()  # the other column has lost it
    assert score_labels(np.array([0, 1]), probabilities).auroc == 1


def test_a_class_without_images_is_left_out():
    truth = np.array([0, 0, 2, 2])  # nobody has 1 or 3, but 1 is predicted
    probabilities = np.array([[0.7, 0.2, 0.1, 0], [0.1, 0.6, 0.3, 0], [0.3, 0.3, 0.4, 0], [0.4, 0.35, 0.25, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_labels(truth, probabilities)
    assert found.confusion.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]
    assert (found.accuracy, found.balanced_accuracy) == (0.5, 0.5)
    # class 0: 0.7 0.1 against 0.3 0.4 -> 2 of 4; class 2: 0.4 0.25 against 0.1 0.3 -> 3 of 4
    assert found.auroc == pytest.approx((2 / 4 + 3 / 4) / 2)


@pytest.mark.parametrize("classes", [2, 3])
def test_one_class_has_no_curve(classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score_labels(np.array([1, 1]), np.eye(classes)[[1, 0]])
    assert isnan(found.auroc)
    assert (found.accuracy, found.balanced_accuracy) == (0.5, 0.5)


@st.composite
def labelled(draw: Any) -> Any:
    """Classes, some of them without images, and probabilities with ties."""
    classes, images = draw(st.integers(2, 5)), draw(st.integers(1, 12))
    truth = draw(arrays.arrays(np.int64, images, elements=st.integers(0, classes - 1)))
    scores = draw(arrays.arrays(np.int64, (images, classes), elements=st.integers(1, 6)))
    return truth, scores / scores.sum(1, keepdims=True)


@pytest.mark.slow
@STEADY
@given(labelled())
def test_labels_agree_with_scikit_learn(drawn):
    from sklearn import metrics

    truth, probabilities = drawn
    found, predicted = score_labels(truth, probabilities), probabilities.argmax(1)
    labels = np.arange(probabilities.shape[1])
    assert np.array_equal(found.confusion, metrics.confusion_matrix(truth, predicted, labels=labels))
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what is predicted and never true
        assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    if len(labels) > 2 and len(np.unique(truth)) == len(labels):
        area = metrics.roc_auc_score(truth, probabilities, multi_class="ovr", labels=labels)
        assert found.auroc == pytest.approx(area)


@pytest.mark.slow
@STEADY
@given(labelled())
def test_the_area_is_the_share_of_pairs_in_the_right_order(drawn):
    truth, probabilities = drawn
    areas = []
    for each in [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1]):
        own, rest = probabilities[truth == each, each], probabilities[truth != each, each]
        if own.size and rest.size:
            areas.append(np.mean((own[:, None] > rest) + 0.5 * (own[:, None] == rest)))
    assert score_labels(truth, probabilities).auroc == pytest.approx(np.mean(areas) if areas else np.nan, nan_ok=True)


@pytest.mark.slow
@STEADY
@given(labelled(), st.randoms(use_true_random=False))
def test_the_order_of_images_and_of_classes_does_not_matter(drawn, random):
    truth, probabilities = drawn
    probabilities = probabilities + np.arange(probabilities.shape[1]) * 1e-7  # a tie would go to the first class
    found = score_labels(truth, probabilities)
    images, classes = list(range(len(truth))), list(range(probabilities.shape[1]))
    random.shuffle(images)
    random.shuffle(classes)
    other = score_labels(np.argsort(classes)[truth[images]], probabilities[np.ix_(images, classes)])
    assert np.array_equal(other.confusion, found.confusion[np.ix_(classes, classes)])
    numbers = [(one.accuracy, one.balanced_accuracy, one.auroc) for one in (found, other)]
    assert numbers[0] == pytest.approx(numbers[1], nan_ok=True)


@pytest.mark.slow
def test_balanced_accuracy_agrees_with_the_isic_challenge():
    metrics = pytest.importorskip("isic_challenge_scoring.metrics")
    pandas = pytest.importorskip("pandas")

    @STEADY
    @given(labelled())
    def agrees(drawn):
        truth, probabilities = drawn
        probabilities = probabilities + np.arange(probabilities.shape[1]) * 1e-7  # it counts a tie as wrong
        names = [str(each) for each in range(probabilities.shape[1])]
        tables = [pandas.DataFrame(each, columns=names) for each in (np.eye(len(names))[truth], probabilities)]
        theirs = metrics.balanced_multiclass_accuracy(*tables, pandas.Series(np.ones(len(truth))))
        assert score_labels(truth, probabilities).balanced_accuracy == pytest.approx(theirs)

    agrees()


def test_single_precision_does_not_change_the_scores():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet(np.ones(7), 200).astype(np.float32)
    truth = generator.integers(0, 7, 200)
    single, double = (score_labels(truth, probabilities.astype(kind)) for kind in (np.float32, np.float64))
    assert single.auroc == pytest.approx(double.auroc)
    assert np.array_equal(single.confusion, double.confusion)


@pytest.mark.parametrize(
    ("truth", "probabilities", "message"),
    [
        ([], np.ones((0, 2)), "B > 0"),
        ([0], np.ones((1, 1)), "K > 1"),
        ([0, 1], np.eye(3), r"must be \(B,\)"),
        ([0, 2], np.eye(2), "from 0 to 2 do not fit 2 columns"),
        ([0, -1], np.eye(2), "from -1 to 0"),
        ([0, 1], 5 * np.eye(2), "softmax"),
    ],
)
def test_what_are_no_probabilities_is_refused(truth, probabilities, message):
    with pytest.raises(ValueError, match=message):
        score_labels(np.array(truth, np.int64), probabilities)


def test_a_diverged_classifier_is_told():
    with pytest.raises(TrainingError, match="diverged"):
        score_labels(np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]))
