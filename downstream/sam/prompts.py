"""What Segment Anything is asked: the centre, a box, a grid of points, or points of a CSV file."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.formats.files import image_stem
from ahm_env.images.formats.labels import table_lines
from ahm_env.images.source import SPLITS, DatasetIndex
from ahm_env.masks import Floats, Ints

ALL = "all"  # splits
MARGIN = 0.1  # of each side, outside the box
GRID = 4  # points a side
COLUMNS = "image", "x", "y"
COVERAGE = 0.01, 0.8  # a proposal of the grid that covers less is a speck, one that covers more the background


@dataclass(frozen=True)
class Prompt:
    """What SAM is asked to segment; each of P questions gives a few proposals, of which one becomes the mask.

    Attributes:
        points: `(P, N, 2)` x and y in pixels of the original image, or None.
        labels: `(P, N)` 1 for a point of the object, 0 for one outside of it, or None.
        boxes: `(P, 4)` left, top, right and bottom in pixels of the original image, or None.
        coverage: Least and largest share of the image that the mask should cover.
    """

    points: Floats | None = None
    labels: Ints | None = None
    boxes: Floats | None = None
    coverage: tuple[float, float] = (0.0, 1.0)


def points_prompt(points: npt.ArrayLike, labels: npt.ArrayLike) -> Prompt:
    """One question with `(N, 2)` points, x and y in pixels, and their `(N,)` labels, 1 (object) or 0."""
    return Prompt(np.asarray(points, np.float64)[None], np.asarray(labels, np.int64)[None])


def centre_prompt(height: int, width: int) -> Prompt:
    """Ask for what is in the centre of the image."""
    return points_prompt([[width / 2, height / 2]], [1])


def box_prompt(height: int, width: int) -> Prompt:
    """Ask for what is in a box that leaves a margin of 10 % of each side."""
    corners = np.array([MARGIN, MARGIN, 1 - MARGIN, 1 - MARGIN]) * (width, height, width, height)
    return Prompt(boxes=corners[None])


def grid_prompt(height: int, width: int) -> Prompt:
    """Ask for what is at each of 4 x 4 points, and use the best that is neither a speck nor nearly the whole image."""
    places = (np.arange(GRID) + 0.5) / GRID
    points = np.stack(np.meshgrid(places * width, places * height), axis=-1).reshape(-1, 1, 2)
    return Prompt(points, np.ones(points.shape[:2], np.int64), coverage=COVERAGE)


PROMPTS = {"center": centre_prompt, "box": box_prompt, "grid": grid_prompt}
Prompts = Callable[[str, int, int], Prompt]  # name, height and width of an image to its prompt


class PointTable:
    """Prompts of a CSV file: `image,x,y[,label]`, a line a point; several lines of one image make one prompt.

    Images are named with or without extension; x and y are pixels of the original image, from its top left; label is 1
    for the object (the default) or 0 for what is not. Commas, semicolons or tabs separate.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            ImageError: It cannot be read, a column is missing, or a cell is no number.
        """
        self._path = path
        self._points: dict[str, list[tuple[int, float, float, int]]] = {}
        for line, cells in table_lines(path, COLUMNS, "line 1: needs the columns image,x,y and may have label"):
            try:
                point = line, float(cells["x"]), float(cells["y"]), int(cells.get("label") or 1)
            except ValueError:
                point = line, math.nan, math.nan, 1
            if not math.isfinite(point[1] + point[2]) or point[3] not in (0, 1):
                raise ImageError(f"{path}: line {line}: x and y must be pixels, label 1 or 0; correct the line")
            self._points.setdefault(cells["image"], []).append(point)

    def __call__(self, name: str, height: int, width: int) -> Prompt:
        """Make the prompt of an image.

        Raises:
            ImageError: It has no line, or a point outside of it.
        """
        found = sorted(point for spelling in {name, image_stem(name)} for point in self._points.get(spelling, ()))
        if not found:
            raise ImageError(f"{self._path}: no line names {name}; add one, or take the image out")
        for line, x, y, _ in found:
            if not (0 <= x < width and 0 <= y < height):
                raise ImageError(
                    f"{self._path}: line {line}: ({x:g}, {y:g}) is outside {name}, {width}x{height}; correct the line"
                )
        return points_prompt([(x, y) for _, x, y, _ in found], [label for *_, label in found])

    def check(self, index: DatasetIndex, split: str) -> None:
        """Read the images of the split once, so that no mistake in the file shows up hours later.

        Where an image cannot be read, lines that name no known image are accepted: they may be of that image.

        Raises:
            ImageError: An image of the split has no line, a point is outside its image, or a line names no image.
        """
        unnamed, bad = set(self._points), bool(index.problems)
        for entry in index.samples:
            unnamed -= {entry.name, image_stem(entry.name)}
            if split not in (ALL, SPLITS[entry.split]):
                continue
            try:
                sample = entry()
            except ImageError:
                bad = True
                continue
            if sample is not None:
                self(sample.name, *sample.image.shape[:2])
        if unnamed and not bad:
            line, name = min((self._points[name][0][0], name) for name in unnamed)
            raise ImageError(f"{self._path}: line {line} names {name!r}, which is not there; correct or delete it")


def find_prompts(name: str) -> Prompts:
    """From `center`, `box`, `grid` or the name of a CSV file to what gives each image its prompt.

    Raises:
        SettingsError: None of these.
        ImageError: The CSV file cannot be used.
    """
    if name in PROMPTS:
        return lambda _, height, width: PROMPTS[name](height, width)
    if name.lower().endswith(".csv"):
        return PointTable(Path(name))
    raise SettingsError(f"--prompt {name} is unknown; choose one of: {', '.join(PROMPTS)}, or a .csv file with points")
