"""Which images count as labelled: fair samples, one within the other, whatever is fine-tuned on them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ahm_env import ImageSet, SettingsError
from ahm_env.images.dataset.patients import fair_order
from downstream.finetuning.labelled import choose_labelled

CLASSES = st.lists(st.integers(1, 12), min_size=1, max_size=6).flatmap(
    lambda sizes: st.permutations([number for number, size in enumerate(sizes) for _ in range(size)])
)


def label_order(classes: np.ndarray, seed: int) -> np.ndarray:
    """Where each image is a patient of its own."""
    return fair_order(classes, np.arange(len(classes)), seed)


def deviations(classes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """How far the counts `(B, K)` of the classes among the first N are from their shares of N."""
    sizes = np.bincount(classes)
    counts = np.cumsum(np.eye(len(sizes))[classes[order]], 0)
    return np.asarray(counts - np.arange(1, len(classes) + 1)[:, None] * sizes / len(classes))


@pytest.mark.slow
@given(classes=CLASSES, seed=st.integers(0, 100))
def test_every_beginning_of_the_order_has_each_class_within_one_of_its_share(classes, seed):
    order = label_order(np.array(classes), seed)
    assert sorted(order) == list(range(len(classes)))
    assert abs(deviations(np.array(classes), order)).max() < 1


@settings(max_examples=20)
@given(small=st.lists(st.just(1), min_size=1, max_size=12), large=st.integers(10, 60), seed=st.integers(0, 100))
def test_one_frequent_class_and_many_rare_ones_are_mixed_as_well(small, large, seed):
    classes = np.repeat(np.arange(len(small) + 1), [large, *small])
    assert abs(deviations(classes, label_order(classes, seed))).max() < 1


def test_images_without_a_class_are_a_class_like_any_other():
    classes = np.array([-1, 0, -1, 0, -1, 0])
    for half in (1, 2, 3):
        assert sorted(classes[label_order(classes, 3)[: 2 * half]]) == [-1] * half + [0] * half


def test_which_image_of_a_class_comes_first_depends_on_the_seed_alone():
    classes = np.repeat([0, 1], 20)
    assert label_order(classes, 5).tolist() == label_order(classes, 5).tolist()
    assert len({int(label_order(classes, seed)[0]) for seed in range(30)}) > 8


@pytest.mark.slow
def test_the_smaller_choice_lies_within_the_larger(drawn: ImageSet):
    train = drawn.split("train")
    before: set[int] = set()
    for count in range(1, len(train) + 1):
        chosen = choose_labelled(drawn, train, count, 4)
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        assert len(chosen) == count
        assert before < set(chosen.tolist()) <= set(train.tolist())
        before = set(chosen.tolist())
    assert choose_labelled(drawn, train, None, 4).tolist() == train.tolist()
    assert choose_labelled(drawn, train, 5, 4).tolist() != choose_labelled(drawn, train, 5, 6).tolist()


def test_more_labels_than_there_are_is_refused_with_their_number(drawn: ImageSet):
    with pytest.raises(SettingsError, match=r"--labels 33: phantom:40:0 has 32 labelled images.*ask for fewer, or all"):
        choose_labelled(drawn, drawn.split("train"), 33, 0)
