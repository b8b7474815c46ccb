"""Pictures of results: contours where masks end, counts where they belong, and no size that is too odd."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ahm_env.rendering import INK, PAPER
from downstream.evaluation.pictures import (
    COLOURS,
    FOUND,
    LARGEST,
    Case,
    draw_cases,
    draw_confusion,
    draw_overlay,
)


def squares(shape: tuple[int, int] = (40, 60), number: int = 1) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[10:30, 20:50] = number
    return mask


def near_border(mask: np.ndarray, reach: int) -> np.ndarray:
    """Pixels that are not farther than so many pixels from the border of a mask."""
    padded = np.pad(mask != 0, reach, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * reach + 1,) * 2)
    return windows.any((2, 3)) & ~windows.all((2, 3))


def test_what_was_found_is_outlined_and_nothing_else_is_changed():
    image = np.full((40, 60, 3), 100, np.uint8)
    picture = draw_overlay(Case("", image, None, squares()))
    assert (picture.shape, picture.dtype) == (image.shape, np.uint8)
    changed = (picture != image).any(2)
    assert (changed <= near_border(squares(), 3)).all()  # its line is two pixels wide, with soft edges
    outline = (picture == COLOURS[0]).all(2)
    assert outline[10, 20:50].all()
    assert outline[29, 20:50].all()
    assert outline[10:30, 20].all()
    assert outline[10:30, 49].all()
    assert (image == 100).all()  # the image itself stays


def test_the_truth_is_white_and_each_class_has_its_colour():
    found = squares()
    found[17:24, 30:40] = 2
    truth = np.zeros((40, 60), np.uint8)
    truth[5:35, 5:15] = 1
    picture = draw_overlay(Case("", np.zeros((40, 60), np.uint8), truth, found))
    assert (picture[5, 6:14] > 200).all()  # a thin line has soft edges
    assert (picture[10, 20:50] == COLOURS[0]).all()
    assert (picture[17, 30:40] == COLOURS[1]).all()
    assert not picture[20, 0:3].any()
    assert COLOURS[0] == FOUND


def test_large_images_are_made_smaller_with_their_masks():
    picture = draw_overlay(Case("", np.zeros((100, 200), np.uint16), None, squares((100, 200))), largest=50)
    assert picture.shape == (25, 50, 3)
    rows, columns = np.nonzero(picture.any(2))  # the box is at 2.5 to 7.5 and 5 to 12.5 now
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == pytest.approx([2.5, 7.5, 5, 12.5], abs=3)
    assert draw_overlay(Case("", np.zeros((5, 3000), np.uint8), None, np.ones((5, 3000), np.uint8))).shape == (
        2,
        LARGEST,
        3,
    )


@pytest.mark.slow
@settings(max_examples=30)
@given(
    height=st.sampled_from([1, 2, 5, 40]),
    width=st.sampled_from([1, 3, 60, 3000]),
    classes=st.integers(1, 12),
    colour=st.booleans(),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
)
def test_no_image_is_too_odd_to_be_drawn(height, width, classes, colour, dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (height, width, 3) if colour else (height, width)).astype(dtype)
    found = rng.integers(0, classes, (height, width)).astype(np.uint8)
    sheet = draw_cases([("best", [Case("a", image, found, found), Case("b", image, None, np.zeros_like(found))])])
    assert (sheet.ndim, sheet.shape[2], sheet.dtype) == (3, 3, np.uint8)


def test_a_sheet_has_a_place_for_every_case():
    image = np.full((20, 20), 77, np.uint8)
    empty = np.zeros((20, 20), np.uint8)
    one = draw_cases([("best", [Case("a", image, empty, empty)])])
    two = draw_cases([("best", [Case("a", image, empty, empty)] * 2), ("worst", [Case("b", image, empty, empty)])])
    tile = 220 * 220
    assert np.count_nonzero((one == 77).all(2)) == tile
    assert np.count_nonzero((two == 77).all(2)) == 3 * tile
    assert (one[0, 0] == PAPER).all()


def test_the_legend_has_the_colour_of_every_class():
    empty = np.zeros((20, 20), np.uint8)
    rows = [("best", [Case("a", empty, empty, empty)])]  # a narrow sheet
    for classes in (1, 2, 5):
        legend = draw_cases(rows, ["name"] * classes)[-30:]
        shown = [(legend == colour).all(2).any() for colour in COLOURS[:5]]
        assert shown == [number < classes for number in range(5)]


def test_a_cell_of_the_confusion_is_as_dark_as_its_share_of_its_row():
    sheet = draw_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"])
    height, width = sheet.shape[:2]
    left = width - 20 - 2 * 84
    corners = {(i, j): tuple(sheet[64 + i * 84 + 3, left + j * 84 + 3].tolist()) for i in (0, 1) for j in (0, 1)}
    assert height == 84 + 2 * 84
    for place, share in {(0, 0): 0.75, (0, 1): 0.25, (1, 0): 0.0, (1, 1): 0.0}.items():
        assert corners[place] == tuple(round(242 - share * (242 - dark)) for dark in (0, 92, 158))
    dark, light = (sheet[64 + 10 : 64 + 70, left + j * 84 + 10 : left + j * 84 + 70].reshape(-1, 3) for j in (0, 1))
    assert (dark == PAPER).all(1).any()  # ink that can be read on it
    assert (light == INK).all(1).any()


@pytest.mark.parametrize("count", [2, 3, 12])
def test_any_number_of_classes_and_long_names_fit(count: int):
    names = [f"a very long name of class {number}" for number in range(count)]
    sheet = draw_confusion(np.full((count, count), 1_234_567, np.int64), names)
    assert sheet.shape[0] == 84 + 84 * count
    assert sheet.shape[1] > 84 * count
