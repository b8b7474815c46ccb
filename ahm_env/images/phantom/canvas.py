"""A canvas for drawing phantoms: smooth noise, soft edges, colours laid over each other.

Everything is measured in half image widths (x and y run from -1 to 1), so that a scene is the same at any
resolution.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env.images.pixels.opencv import cv2

Field = npt.NDArray[np.floating[Any]]
Colour = Sequence[float] | Field

ENLARGEMENT = 4


class Canvas:
    """An RGB picture under way, with the generator that decides about it.

    Attributes:
        resolution: R, width and height in pixels.
        rgb: (3, R, R) float32, 0..255.
        x: (R, R) float32, from -1 (left) to 1.
        y: (R, R) float32, from -1 (top) to 1.
    """

    def __init__(self, resolution: int, rng: np.random.Generator) -> None:
        self.resolution = resolution
        self.rng = rng
        self.x, self.y = _coordinates(resolution)
        self.rgb: Field = np.zeros((3, resolution, resolution), np.float32)

    def noise(self, cells: int) -> Field:
        """Smooth noise of about unit std, with `cells` bumps across: (R, R)."""
        # Drawn at a fixed size and then enlarged: the scene must not depend on the resolution.
        coarse = self.rng.standard_normal((cells + 3, cells + 3), dtype=np.float32)
        return np.asarray(cv2.resize(coarse, (self.resolution,) * 2, interpolation=cv2.INTER_CUBIC))

    def fractal(self, cells: int, octaves: int = 3) -> Field:
        """Noise with detail at several scales, each half as strong as the one before: (R, R)."""
        layers = [self.noise(cells * 2**k) * np.float32(0.5**k) for k in range(octaves)]
        return np.asarray(np.sum(layers, axis=0))

    def lay(self, colour: Colour, alpha: Field) -> None:
        """Lay a colour over the picture, (R, R) alpha 0..1."""
        self.rgb += alpha * (np.asarray(colour, np.float32)[:, None, None] - self.rgb)

    def shade(self, factor: Field) -> None:
        """Make the picture lighter (factor > 1) or darker; the factor is (R, R)."""
        self.rgb *= factor

    def dots(self, points: Field, radii: Field) -> Field:
        """Draw filled circles at (N, 2) points (x, y) with (N,) radii; return their (R, R) coverage 0..1."""
        cover = np.zeros((self.resolution, self.resolution), np.uint8)
        for (x, y), radius in zip(self._fixed(points), np.maximum(radii * self.resolution / 2, 0.7), strict=True):
            cv2.circle(cover, (int(x), int(y)), int(radius * 16), 255, -1, cv2.LINE_AA, shift=4)
        return cover.astype(np.float32) / 255

    def lines(self, curves: Sequence[Field], width: float) -> Field:
        """Curves, each of (N, 2) points (x, y): (R, R) coverage 0..1."""
        # Enlarged, because the smooth lines of OpenCV are wider than asked for, and none is below one pixel.
        large = self.resolution * ENLARGEMENT
        cover = np.zeros((large, large), np.uint8)
        points = [np.round((curve + 1) * (large / 2) - 0.5).astype(np.int32)[:, None] for curve in curves]
        cv2.polylines(cover, points, False, 255, max(1, round(width * large / 2)))
        small = cv2.resize(cover, (self.resolution,) * 2, interpolation=cv2.INTER_AREA)
        return small.astype(np.float32) / 255

    def _fixed(self, points: Field) -> npt.NDArray[np.int32]:
        return np.round(((points + 1) * self.resolution / 2 - 0.5) * 16).astype(np.int32)


def smoothstep(values: Field, low: float, high: float) -> Field:
    """0 below `low`, 1 above `high`, smooth between; falling where `low` > `high`."""
    t: Field = np.clip((values - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=2)
def _coordinates(resolution: int) -> tuple[Field, Field]:
    axis = ((np.arange(resolution, dtype=np.float32) + 0.5) * (2 / resolution)) - 1
    x, y = np.meshgrid(axis, axis)
    x.flags.writeable = y.flags.writeable = False
    return x, y
