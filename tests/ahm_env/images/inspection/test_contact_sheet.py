"""The contact sheet: a fair sample, each image in its place with the contours of its mask, and words that fit."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.inspection.contact_sheet import (
    CAPTION,
    GAP,
    HEADER,
    LEGEND_LINE,
    MARGIN,
    TILE,
    _colour,
    _shortened,
    contact_sheet,
    fair_sample,
)
from ahm_env.images.pixels.opencv import cv2
from ahm_env.rendering import COLOURS, PAPER

TOP = MARGIN + HEADER


def grey_set(tmp_path: Path, count: int, table: str = "", masks: list[np.ndarray] | None = None) -> ImageSet:
    """Images of one grey each, 20, 30, 40 …, of 32 x 32 pixels."""
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    for number in range(count):
        assert cv2.imwrite(str(root / "images" / f"{number:02}.png"), np.full((32, 32), 20 + 10 * number, np.uint8))
    if masks:
        (root / "masks").mkdir()
        for number, mask in enumerate(masks):
            assert cv2.imwrite(str(root / "masks" / f"{number:02}.png"), mask)
    if table:
        (root / "labels.csv").write_text(table)
    return load_images(root, 32)


def tile(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = TOP + row * (TILE + CAPTION + GAP), MARGIN + column * (TILE + GAP)
    return sheet[top : top + TILE, left : left + TILE]


def caption(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = TOP + row * (TILE + CAPTION + GAP) + TILE, MARGIN + column * (TILE + GAP)
    return sheet[top : top + CAPTION, left : left + TILE]


def square(number: int, start: int = 8, end: int = 24) -> np.ndarray:
    mask = np.zeros((32, 32), np.uint8)
    mask[start:end, start:end] = number
    return mask


def test_every_image_has_its_place_and_the_rest_is_paper(tmp_path: Path) -> None:
    images = grey_set(tmp_path, 5)
    sheet = contact_sheet(images, [3, 0, 4, 1, 2], columns=3)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * MARGIN + HEADER + 2 * (TILE + CAPTION) + GAP, 2 * MARGIN + 3 * TILE + 2 * GAP, 3)
    for place, index in enumerate([3, 0, 4, 1, 2]):
        assert (tile(sheet, *divmod(place, 3)) == 20 + 10 * index).all()
    assert (tile(sheet, 1, 2) == PAPER).all()
    for edge in (sheet[: MARGIN // 2], sheet[-MARGIN:], sheet[:, :MARGIN], sheet[:, -MARGIN:]):
        assert (edge == PAPER).all()


def test_a_row_is_no_wider_than_its_images(tmp_path: Path) -> None:
    images = grey_set(tmp_path, 2)
    assert contact_sheet(images, [0, 1]).shape[1] == 2 * MARGIN + 2 * TILE + GAP
    assert contact_sheet(images, 1, columns=0).shape[1] == 2 * MARGIN + TILE


def test_a_mask_is_outlined_where_it_ends_and_nowhere_else(tmp_path: Path) -> None:
    images = grey_set(tmp_path, 2, masks=[square(255), np.zeros((32, 32), np.uint8)])
    sheet = contact_sheet(images, [0, 1])
    drawn = (tile(sheet, 0, 0) != 20).any(2)
    scale = TILE // 32
    low, high = 8 * scale, 24 * scale
    assert not drawn[low + 4 : high - 4, low + 4 : high - 4].any()
    assert not drawn[: low - 4].any()
    assert not drawn[high + 4 :].any()
    blue = np.abs(tile(sheet, 0, 0).astype(int) - COLOURS[0]).sum(2) < 60
    for line in (blue[low - 2 : low + 3, low + 8 : high - 8], blue[high - 3 : high + 2, low + 8 : high - 8]):
        assert 1 <= line.sum(0).min() <= line.sum(0).max() <= 3
    assert (tile(sheet, 0, 1) == 30).all()


def test_each_class_has_a_colour_and_a_line_in_the_legend(tmp_path: Path) -> None:
    masks = [square(1, 2, 12) + square(2, 18, 30), square(7)]
    images = grey_set(tmp_path, 2, masks=masks)
    sheet = contact_sheet(images, [0, 1])

    def shows(part: np.ndarray, place: int) -> bool:
        return bool((np.abs(part.astype(int) - COLOURS[place]).sum(2) < 60).any())

    assert [shows(tile(sheet, 0, 0), place) for place in range(3)] == [True, True, False]
    assert [shows(tile(sheet, 0, 1), place) for place in range(3)] == [False, False, True]
    legend = sheet[-MARGIN - LEGEND_LINE : -MARGIN]
    assert [shows(legend, place) for place in range(4)] == [True, True, True, False]


def test_all_classes_that_a_mask_can_have_differ_in_colour() -> None:
    colours = [_colour(place) for place in range(20)]
    assert len(set(colours)) == 20
    assert all(0 <= value <= 255 for place in range(255) for value in _colour(place))


def test_class_and_split_are_told_where_there_are_any(tmp_path: Path) -> None:
    def lines(sheet: np.ndarray) -> list[bool]:
        inked = (caption(sheet, 0, 0) != PAPER).any((1, 2))
        return [bool(inked[: CAPTION // 2].any()), bool(inked[CAPTION // 2 + 3 :].any())]

    assert lines(contact_sheet(grey_set(tmp_path / "a", 2), [0])) == [True, False]
    one_split = grey_set(tmp_path / "b", 2, "image,split\n00,test\n01,test\n")
    assert lines(contact_sheet(one_split, [0])) == [True, False]
    two_splits = grey_set(tmp_path / "c", 2, "image,split\n00,test\n01,train\n")
    assert lines(contact_sheet(two_splits, [0])) == [True, True]
    assert lines(contact_sheet(grey_set(tmp_path / "d", 2, "image,label\n00,NV\n01,\n"), [0])) == [True, True]


@pytest.mark.slow
def test_long_names_lose_their_middle_and_stay_in_their_tile(tmp_path: Path) -> None:
    font = ImageFont.load_default(13)
    short = _shortened("begin" + "x" * 500 + "end.png", font, TILE)
    assert short.startswith("begin")
    assert short.endswith("end.png")
    assert "…" in short
    assert TILE - 20 < font.getlength(short) <= TILE
    assert _shortened("scan.png", font, TILE) == "scan.png"
    assert _shortened("scan.png", font, 0) == "…"
    root = tmp_path / "long"
    root.mkdir()
    for number in range(2):
        cv2.imwrite(str(root / f"{number}{'W' * 200}.png"), np.zeros((8, 8), np.uint8))
    sheet = contact_sheet(load_images(root, 8), [0, 1])
    gap = sheet[TOP + TILE :, MARGIN + TILE : MARGIN + TILE + GAP]
    assert (gap == PAPER).all()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7, 500])
def test_images_of_any_size_are_drawn(tmp_path: Path, size: int) -> None:
    images = load_images("phantom:3:1", size)
    assert contact_sheet(images, [0, 1, 2]).shape[1] == 2 * MARGIN + 3 * TILE + 2 * GAP


def test_a_sample_shows_classes_by_their_shares(tmp_path: Path) -> None:
    rows = "".join(f"{number:02},{'abbbb'[number % 5]}\n" for number in range(20))
    images = grey_set(tmp_path, 20, "image,label\n" + rows)
    chosen = fair_sample(images, 10, seed=3)
    assert len(set(chosen.tolist())) == 10
    labels = images.labels(chosen).tolist()
    assert labels == [0] * 2 + [1] * 8
    assert (np.diff(chosen[:2]) > 0).all()
    assert (np.diff(chosen[2:]) > 0).all()
    assert np.array_equal(chosen, fair_sample(images, 10, seed=3))
    assert not np.array_equal(chosen, fair_sample(images, 10, seed=4))


def test_no_patient_is_shown_twice_before_all_are_shown(tmp_path: Path) -> None:
    patients = ["p"] * 12 + ["q"] * 3 + ["r"]
    images = grey_set(tmp_path, 16, "image,patient\n" + "".join(f"{i:02},{p}\n" for i, p in enumerate(patients)))
    for count, shown in ((3, [1, 1, 1]), (5, [1, 2, 2]), (9, [1, 3, 5]), (16, [1, 3, 12]), (99, [1, 3, 12])):
        chosen = fair_sample(images, count)
        _, counts = np.unique(images.patients(chosen), return_counts=True)
        assert sorted(counts.tolist()) == shown
