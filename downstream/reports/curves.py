"""Curves: means over seeds, and how sure they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Points = tuple[Floats, Floats]  # x and y, x rising


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
    ends = band(values) if len(values) > 1 else (None, None)
    return Curve(name, style, agent, grid, values.mean(0), *ends)


def band(values: Floats) -> tuple[Floats, Floats]:
    """Compute Student's 95 % interval of the mean over seeds, which holds for few of them.

    Args:
        values: `(seeds, T)`.

    Returns:
        Its lower and its upper end, `(T,)` each.
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]

    count, mean = len(values), values.mean(0)
    half = student.ppf(0.975, count - 1) * values.std(0, ddof=1) / np.sqrt(count)
    return mean - half, mean + half
