"""Masks drawn from outlines: by hand, against the packed form of others, and against whole images of truth values."""

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ahm_env.images.public.outlines import FARTHEST, Region, class_map, polygon_region, region

HEIGHT, WIDTH = 10, 14


def whole(part: Region, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    inside = np.zeros((height, width), bool)
    inside[part.top : part.bottom, part.left : part.right] = part.inside
    return inside


def polygon(*corners: tuple[float, float], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return whole(polygon_region(np.array(corners, float), height, width), height, width)


def test_a_rectangle_has_the_pixels_whose_middles_it_holds() -> None:
    found = polygon((2, 1), (6, 1), (6, 4), (2, 4))
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(found, expected)
    assert np.array_equal(polygon((2.4, 1.4), (6.4, 1.4), (6.4, 4.4), (2.4, 4.4)), expected)
    assert np.array_equal(polygon((1.6, 0.6), (5.6, 0.6), (5.6, 3.6), (1.6, 3.6)), expected)


def test_what_lies_outside_is_cut_off() -> None:
    assert polygon((-50, -50), (1e300, -50), (1e300, 1e300), (-50, 1e300)).all()
    assert not polygon((20, 1), (30, 1), (30, 4)).any()
    assert np.array_equal(polygon((-5, -5), (3, -5), (3, 2), (-5, 2)), polygon((0, 0), (3, 0), (3, 2), (0, 2)))


@given(st.lists(st.tuples(st.floats(-3, 15), st.floats(-3, 15)), min_size=3, max_size=7))
@settings(derandomize=True)
def test_a_pixel_is_inside_by_the_turns_around_its_middle(corners: list[tuple[float, float]]) -> None:
    found = polygon(*corners)
    points = [complex(x, y) for x, y in corners]
    for row, column in ((0, 0), (4, 5), (9, 13), (7, 2)):
        middle = complex(column + 0.5, row + 0.5)
        ends = [point - middle for point in points]
        if min(map(abs, ends)) < 1e-3:
            continue
        turns = [(after / before) for before, after in zip(ends, ends[1:] + ends[:1], strict=True)]
        angles = np.angle(turns)
        if (np.abs(np.abs(angles) - np.pi) < 1e-6).any():  # on an edge
            continue
        assert found[row, column] == (round(angles.sum() / (2 * np.pi)) % 2 == 1)


def test_parts_are_united_and_a_line_is_nothing() -> None:
    parts = [[1, 1, 4, 1, 4, 4, 1, 4], [2, 2, 8, 2, 8, 3, 2, 3], [5, 5, 9, 5, 7, 5]]
    assert region(parts, HEIGHT, WIDTH).inside.sum() == 9 + 6 - 2


def packed(runs: list[int]) -> str:
    """Run lengths as characters, as the API of COCO packs them."""
    text = ""
    for place, run in enumerate(runs):
        value, more = run - (runs[place - 2] if place > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != -1 if bits & 16 else value != 0
            text += chr(48 + bits + 32 * more)
    return text


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.02, 0.5, 1]))
@settings(derandomize=True)
def test_run_lengths_are_what_was_drawn_packed_or_not(seed: int, height: int, width: int, share: float) -> None:
    drawn = np.random.default_rng(seed).random((height, width)) < share
    flat = np.concatenate([[False], drawn.T.ravel()])
    ends = np.flatnonzero(np.diff(flat)).tolist()
    runs = np.diff([0, *ends, height * width]).tolist()
    for counts in (runs, packed(runs)):
        assert np.array_equal(region({"size": [height, width], "counts": counts}, height, width).inside, drawn)


def test_the_packed_form_by_hand() -> None:
    # as pycocotools packs a square of 2 x 2 pixels in the middle of 4 x 4
    assert packed([5, 2, 2, 2, 5]) == "52203"
    expected = np.zeros((4, 4), bool)
    expected[1:3, 1:3] = True
    assert np.array_equal(region({"size": [4, 4], "counts": "52203"}, 4, 4).inside, expected)


def plainly(outline: Any, height: int, width: int) -> np.ndarray:
    """An instance drawn in the whole image, all edges to the left of each pixel counted."""
    if isinstance(outline, dict):
        return np.repeat(np.arange(len(outline["counts"])) % 2 == 1, outline["counts"]).reshape(width, height).T
    inside = np.zeros((height, width), bool)
    for polygon in outline:
        edges = np.zeros((height, width + 1), np.int64)
        corners = np.clip(np.reshape(polygon, (-1, 2)) - 0.5, -FARTHEST, FARTHEST)
        for (x, y), (to_x, to_y) in pairwise([*corners, corners[0]]):
            first, last = (int(np.ceil(side)) for side in sorted((y, to_y)))
            rows = np.arange(max(first, 0), min(last, height))
            if rows.size:
                crossed = np.ceil(x + (rows - y) * (to_x - x) / (to_y - y)).clip(0, width)
                np.add.at(edges, (rows, crossed.astype(np.int64)), 1)
        inside |= edges[:, :width].cumsum(1) % 2 == 1
    return inside


def outlines(rng: np.random.Generator, height: int, width: int) -> list[Any]:
    """Polygons that cross themselves, have holes, or lie partly outside, and runs of pixels."""
    found: list[Any] = []
    for _ in range(rng.integers(1, 12)):
        if rng.random() < 0.2:
            cuts = np.sort(rng.integers(0, height * width + 1, rng.integers(1, 9)))
            found.append({"size": [height, width], "counts": np.diff([0, *cuts, height * width]).tolist()})
            continue
        polygons = []
        for _ in range(rng.integers(1, 4)):
            middle, reach = rng.uniform(-5, [width + 5, height + 5]), rng.choice([1, 5, 30, 1e3, 1e9])
            points = middle + rng.uniform(-reach, reach, (rng.integers(3, 9), 2))
            points = points.round() if rng.random() < 0.3 else points.round(1) if rng.random() < 0.5 else points
            if rng.random() < 0.3:  # a hole: out to it, around, and back
                points = np.concatenate([points, points[:1], (points + middle) / 2, (points[:1] + middle) / 2])
            polygons.append(points.ravel().tolist())
        found.append(polygons)
    return found


@pytest.mark.parametrize("seed", range(200))
def test_what_is_drawn_in_boxes_is_what_is_drawn_in_whole_images(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2).tolist()
    instances = list(enumerate(outlines(rng, height, width), 1))
    drawn = [(number, plainly(outline, height, width)) for number, outline in instances]
    for (_, outline), (_, inside) in zip(instances, drawn, strict=True):
        assert np.array_equal(whole(region(outline, height, width), height, width), inside)
    expected = np.zeros((height, width), np.uint8)
    for number, inside in sorted(drawn, key=lambda one: -int(one[1].sum())):
        expected[inside] = number
    assert np.array_equal(class_map(instances, height, width), expected)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_instances() -> None:
    side, ring = 400, 10 * np.exp(2j * np.pi * np.arange(20) / 20)
    middles = np.random.default_rng(0).uniform(20, side - 20, (300, 2)) @ (1, 1j)
    instances = [(1, [np.stack([(at + ring).real, (at + ring).imag], 1).ravel().tolist()]) for at in middles]
    tracemalloc.start()
    assert class_map(instances, side, side).mean() > 0.3
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 15 * side**2  # bytes; three hundred truth values a pixel would be twenty times that
