"""Curves: means and bands over seeds, and where their lines and labels lie in a chart that stretches with the page.

Places are percentages of the plot, from its top left corner. The SVG holds only what may be stretched, lines and
areas; all text is HTML beside it, so that it stays legible at every width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from downstream.reports.axes import Axis, Floats, images_shown, nice_ticks

Points = tuple[Floats, Floats]  # x and y, x rising

LABEL_HEIGHT = 18  # pixels that a label at the end of a line needs
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


@dataclass(frozen=True)
class Line:
    """A curve as it is drawn: SVG path data, the place of its end, and its label at the right with a leader to it."""

    curve: Curve
    path: str
    dots: str
    band: str
    leader: str
    end_top: float
    label: str
    label_top: float


@dataclass(frozen=True)
class Chart:
    """A chart as it is drawn.

    Attributes:
        title: What it shows.
        axis: What it is shown against.
        lines: Its lines.
        x_ticks: Place and text of each.
        y_ticks: Place and text of each.
        reference: Place of a horizontal line for comparison, None without one.
        gutter: Room that the labels need at the right, rem.
        height: Of the plot, pixels.
        decimals: With which values are told.
    """

    title: str
    axis: Axis
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    reference: float | None
    gutter: float
    height: int
    decimals: int

    @property
    def summary(self) -> str:
        """The chart in words, for those who do not see it."""
        if not self.axis.logarithmic:
            ends = "; ".join(f"{line.curve.name} ends at {line.label}" for line in self.lines)
            return f"{self.title}, against {self.axis.name}: {ends}"
        return f"{self.title}: " + "; ".join(f"{line.curve.name} {self._points(line.curve)}" for line in self.lines)

    def _points(self, curve: Curve) -> str:
        """All points of a curve in words."""
        means = [f"{value:.{self.decimals}f}" for value in curve.mean]
        if curve.low is not None and curve.high is not None:
            pairs = zip(means, curve.low, curve.high, strict=True)
            means = [f"{mean} ({low:.{self.decimals}f} to {high:.{self.decimals}f})" for mean, low, high in pairs]
        return ", ".join(f"{mean} {self.axis.tell(x)}" for mean, x in zip(means, curve.x.tolist(), strict=True))

    def numbers(self) -> dict[str, Any]:
        """What the page's script needs to read values off the lines."""
        stops = np.unique(np.concatenate([line.curve.x for line in self.lines]))
        places = self.axis.place(stops).tolist()
        return {
            "stops": [[x, round(place, 2), self.axis.tell(x)] for x, place in zip(stops.tolist(), places, strict=True)],
            "decimals": self.decimals,
            "lines": [
                {
                    "agent": line.curve.agent,
                    "name": line.curve.name,
                    "style": line.curve.style,
                    "x": line.curve.x.tolist(),
                    "mean": _rounded(line.curve.mean),
                    "low": _rounded(line.curve.low),
                    "high": _rounded(line.curve.high),
                }
                for line in self.lines
            ],
        }


def over_seeds(name: str, style: int, agent: int, seeds: Sequence[Points]) -> Curve | None:
    """The mean of several seeds' points, as far as all of them go, interpolated where their x differ.

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
    """A 95 % percentile bootstrap interval of the mean over seeds (Efron 1979); the same values give the same band.

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


def draw(
    title: str,
    curves: Sequence[Curve | None],
    height: int = 300,
    span: tuple[float, float] | None = None,
    reference: float | None = None,
    percent: bool = False,
    ticks: int = 5,
    axis: Axis | None = None,
    decimals: int = 2,
) -> Chart | None:
    """Lay out a chart.

    Args:
        title: What it shows.
        curves: Its curves; None is skipped.
        height: Of the plot, pixels; labels at line ends keep their distance at this height.
        span: The least and the largest value of y; by default what the curves and the reference need.
        reference: A value to draw a horizontal line at.
        percent: Whether values are shares, to be written in percent.
        ticks: About how many ticks y has.
        axis: That of x; by default images shown.
        decimals: With which values are told.

    Returns:
        The chart, None without curves.
    """
    drawn = [curve for curve in curves if curve is not None]
    if not drawn:
        return None
    axis = axis or images_shown(max(float(curve.x[-1]) for curve in drawn) or 1.0)
    if span is None:
        values = [part for curve in drawn for part in (curve.mean, curve.low, curve.high) if part is not None]
        known = np.concatenate([*values, [] if reference is None else [reference]])
        span = float(known.min()), float(known.max())
    y_values, y_decimals = nice_ticks(*span, ticks)
    bottom, top = min(span[0], y_values[0]), max(span[1], y_values[-1])

    def place(x: Any, y: Any) -> list[tuple[float, float]]:
        down = 100 * (top - np.asarray(y)) / (top - bottom)
        return list(zip(axis.place(x).tolist(), down.tolist(), strict=True))

    def text(value: float) -> str:
        return f"{100 * value:.0f} %" if percent else f"{value:.{decimals}f}"

    ends = [place(curve.x[-1:], curve.mean[-1:])[0] for curve in drawn]
    tops = spread([down for _, down in ends], 100 * LABEL_HEIGHT / height)
    lines = []
    for curve, (across, down), label_top in zip(drawn, ends, tops, strict=True):
        band = ""
        if curve.low is not None and curve.high is not None:
            band = _path(place(curve.x, curve.high) + place(curve.x, curve.low)[::-1]) + "Z"
        leader = _path([(across, down), (100, down)]) if across < 99 else ""
        points = place(curve.x, curve.mean)
        dots = "".join(_path([point]) for point in points) if axis.logarithmic else ""
        lines.append(Line(curve, _path(points), dots, band, leader, down, text(float(curve.mean[-1])), label_top))
    widest = max(len(f"{line.curve.name} {line.label}") for line in lines)
    downs = [100 * (top - value) / (top - bottom) for value in y_values]
    return Chart(
        title,
        axis,
        tuple(lines),
        tuple((float(axis.place(value)), words) for value, words in axis.marks),
        tuple(
            (down, f"{100 * value:.0f} %" if percent else f"{value:.{y_decimals}f}")
            for down, value in zip(downs, y_values, strict=True)
        ),
        None if reference is None else 100 * (top - reference) / (top - bottom),
        round(min(10.0, 2.6 + 0.46 * widest), 2),
        height,
        decimals,
    )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places, percentages, apart so that all are at least `gap` from each other, and each stays near its own.

    Groups of places that touch are centred on the mean of what they wanted; the whole stays within 0 to 100 where it
    fits.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    groups: list[tuple[list[int], float]] = []
    for index in order:
        members, centre = [index], places[index]
        while groups and centre - groups[-1][1] < gap * (len(members) + len(groups[-1][0])) / 2:
            earlier, _ = groups.pop()
            members = earlier + members
            half = gap * (len(members) - 1) / 2
            wanted = sum(places[member] for member in members) / len(members)
            centre = max(half, min(100 - half, wanted))
        groups.append((members, centre))
    moved = [0.0] * len(places)
    for members, centre in groups:
        for rank, member in enumerate(members):
            moved[member] = centre + gap * (rank - (len(members) - 1) / 2)
    return moved


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points) + ("h0" if len(points) == 1 else "")


def _rounded(values: Floats | None) -> list[float] | None:
    return None if values is None else [float(f"{value:.4g}") for value in values]
