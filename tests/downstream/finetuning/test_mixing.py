"""Masks of mixed images: how large, of what shape, and the same again."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from downstream.finetuning.mixing import BOX_AREA, BOX_SHAPE, MIXES, mixing_masks


@given(size=st.sampled_from([16, 32, 64, 100]), seed=st.integers(0, 10_000))
def test_a_box_is_one_rectangle_of_a_quarter_to_a_half_of_the_image(size, seed):
    for mask in mixing_masks("box", 3, size, (seed,)).numpy()[:, 0]:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        height, width = len(rows), len(columns)
        assert (np.diff(rows) == 1).all()
        assert (np.diff(columns) == 1).all()
        assert mask.sum() == height * width
        rim = 1.1 / size  # sides are whole pixels
        assert BOX_AREA[0] - rim <= mask.mean() <= BOX_AREA[1] + rim
        assert max(height, width) / min(height, width) <= BOX_SHAPE * (1 + 3 / size)


@pytest.mark.slow
@given(size=st.sampled_from([16, 64, 100]), seed=st.integers(0, 10_000))
def test_patches_are_half_of_a_grid_of_eight_by_eight(size, seed):
    for mask in mixing_masks("patches", 2, size, (seed,)).numpy()[:, 0]:
        edges = np.round(np.arange(9) * size / 8 + 0.499).astype(int)
        cells = [
            mask[top:bottom, left:right]
            for top, bottom in itertools.pairwise(edges)
            for left, right in itertools.pairwise(edges)
        ]
        assert all(cell.all() or not cell.any() for cell in cells)
        assert sum(bool(cell.all()) for cell in cells) == 32


def test_boxes_lie_everywhere():
    covered = mixing_masks("box", 400, 32, (0,)).float().mean(0)[0]
    assert covered.min() > 0
    assert covered[16, 16] > covered[0, 0]


@pytest.mark.parametrize("kind", MIXES)
def test_the_same_seed_gives_the_same_masks_and_none_mixes_nothing(kind):
    first, again, other = (mixing_masks(kind, 4, 32, (seed, 5)) for seed in (1, 1, 2))
    assert first.shape == (4, 1, 32, 32)
    assert first.equal(again)
    assert first.equal(other) == (kind == "none")
    assert kind != "none" or not first.any()
