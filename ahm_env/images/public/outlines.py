"""Masks drawn from outlines as COCO has them: polygons and run lengths."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

FARTHEST = 1e6  # pixels: what lies farther outside changes nothing
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """The pixels of an instance, in a box beyond which it has none.

    Attributes:
        top: The first row of the box.
        left: Its first column.
        inside: Which pixels of the box they are, (rows, columns).
    """

    top: int
    left: int
    inside: Bools

    @property
    def bottom(self) -> int:
        """The row after its last."""
        return self.top + len(self.inside)

    @property
    def right(self) -> int:
        """The column after its last."""
        return self.left + int(self.inside.shape[1])


def class_map(instances: Iterable[tuple[int, Any]], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw class numbers `(H, W)`; of instances that overlap the smaller one is seen, of two of one size the last.

    One instance at a time is drawn, so that memory does not grow with their number.

    Args:
        instances: Class number and outline of each.
        height: H.
        width: W.

    Raises:
        TypeError, ValueError, KeyError, OverflowError, IndexError: An outline makes no sense.
    """
    mask, sizes = np.zeros((height, width), np.uint8), np.full((height, width), height * width, np.int64)
    for number, outline in instances:
        one = region(outline, height, width)
        box = slice(one.top, one.bottom), slice(one.left, one.right)
        size = np.count_nonzero(one.inside)
        seen = one.inside & (size <= sizes[box])
        mask[box][seen], sizes[box][seen] = number, size
    return mask


def is_line(polygon: Any) -> bool:
    """Whether a polygon, a list x, y, x, y, …, has fewer than three points, as some programs write specks."""
    return isinstance(polygon, list) and len(polygon) in (2, 4)


def region(outline: Any, height: int, width: int) -> Region:
    """Draw an instance in an image (H, W): polygons, of which each is a list x, y, x, y, …, or run lengths.

    Raises:
        TypeError, ValueError, KeyError, OverflowError, IndexError: It is neither.
    """
    if isinstance(outline, dict):
        return Region(0, 0, _from_runs(outline, height, width))
    parts = [polygon_region(np.asarray(one, np.float64).reshape(-1, 2), height, width) for one in outline]
    top, left = min(one.top for one in parts), min(one.left for one in parts)
    rows, columns = max(one.bottom for one in parts) - top, max(one.right for one in parts) - left
    inside = np.zeros((rows, columns), bool)
    for one in parts:
        inside[one.top - top : one.bottom - top, one.left - left : one.right - left] |= one.inside
    return Region(top, left, inside)


def polygon_region(points: npt.NDArray[np.float64], height: int, width: int) -> Region:
    """Find the pixels of an image (H, W) whose middles lie in a polygon, by counting the edges to their left.

    Args:
        points: `(P, 2)` x and y of its corners, in pixels; 0, 0 is the outer corner of the first pixel.
        height: H.
        width: W.

    Raises:
        ValueError: There are fewer than three points, or one is not finite.
    """
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError("a polygon needs three points or more, all finite")
    corners = np.clip(points - 0.5, -FARTHEST, FARTHEST)  # middles of pixels are integers
    ends = np.ceil([corners.min(0), corners.max(0)])
    ends[:, 0] += -1, 1  # where an edge is crossed is rounded
    (left, top), (right, bottom) = ends.clip(0, (width, height)).astype(int).tolist()
    odd = np.zeros((bottom - top, right - left + 1), np.uint8)
    for (x, y), (to_x, to_y) in pairwise([*corners, corners[0]]):
        first, last = (int(np.ceil(side)) for side in sorted((y, to_y)))
        rows = np.arange(max(first, top), min(last, bottom))
        if rows.size:
            crossed = np.ceil(x + (rows - y) * (to_x - x) / (to_y - y)).clip(left, right).astype(int)
            np.bitwise_xor.at(odd, (rows - top, crossed - left), 1)
    return Region(top, left, np.bitwise_xor.accumulate(odd[:, :-1], axis=1).astype(bool))


def _from_runs(outline: Mapping[str, Any], height: int, width: int) -> Bools:
    """Decode run lengths `(H, W)`, which go down the columns and begin outside."""
    counts, pixels = outline["counts"], height * width
    runs = np.asarray(_unpacked(counts) if isinstance(counts, str) else counts, np.int64)
    if list(outline["size"]) != [height, width] or not ((runs >= 0) & (runs <= pixels)).all() or runs.sum() != pixels:
        raise ValueError("its run lengths are not of the image's size")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    """Unpack run lengths from characters, which count from 48: five bits of a number, the lowest first, and one more.

    That says whether the number goes on; its highest bit is the sign. From the fourth on, numbers are differences to
    the last but one.
    """
    runs, value, shift = list[int](), 0, 0
    for character in text.encode("ascii"):
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > 60:
            raise ValueError("a run length has too many digits")
        if not bits & 32:
            value -= (bits >> 4 & 1) << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs
