"""Curves: means over seeds, and how sure they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Points = tuple[Floats, Floats]  # x and y, x rising

DRAWS = 2000  # resamples of the bootstrap


@dataclass(frozen=True)
class Curve:
    """A line, and how sure we are of it.

    Attributes:
        name: What it is called at its end.
        style: Which of the page's line styles it has.
        agent: Number of the agent that it belongs to.
        x: `(T,)` rising, such as images shown.
        mean: `(T,)` mean over seeds.
        low: `(T,)` lower end of the band, None without one.
        high: `(T,)` upper end.
    """

    name: str
    style: int
    agent: int
    x: Floats
    mean: Floats
    low: Floats | None = None
    high: Floats | None = None


def over_seeds(name: str, style: int, agent: int, seeds: Sequence[Points]) -> Curve | None:
    """Average the points of several seeds, as far as all of them go, interpolated where their x differ.

    Args:
        name: Name of the curve.
        style: Its line style.
        agent: Number of its agent.
        seeds: Points of each seed; those whose y is not finite are skipped, and so are seeds without any.

    Returns:
        The curve, with a 95 % band where there are two seeds or more; None where no x is covered by all.
    """
    clean = [(x[np.isfinite(y)], y[np.isfinite(y)]) for x, y in seeds]
    clean = [(x, y) for x, y in clean if len(x)]
    if not clean:
        return None
    start, end = max(x[0] for x, _ in clean), min(x[-1] for x, _ in clean)
    grid = np.unique(np.concatenate([x for x, _ in clean]))
    grid = grid[(grid >= start) & (grid <= end)]
    if not len(grid):
        return None
    values = np.stack([np.interp(grid, x, y) for x, y in clean])
    band = bootstrap_band(values) if len(values) > 1 else (None, None)
    return Curve(name, style, agent, grid, values.mean(0), *band)


def bootstrap_band(values: Floats, draws: int = DRAWS) -> tuple[Floats, Floats]:
    """Compute a 95 % percentile bootstrap interval of the mean over seeds (Efron 1979), the same for the same values.

    Args:
        values: `(seeds, T)`.
        draws: Resamples.

    Returns:
        Its lower and its upper end, `(T,)` each.
    """
    chosen = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
    means = values[chosen].mean(1)
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    return low, high
