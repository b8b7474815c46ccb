"""Charts of curves as SVG for a page: their text stays text, and their colours are the page's, in light and in dark."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from downstream.reports.curves import Curve, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = 7  # of the page, each solid, dashed and dotted
DASHES = ("-", (0, (3.5, 2.5)), (0, (1, 2)))  # in line widths
# Colours that stand for the page's own, which a style sheet may change
_NAMES = (*(f"c{number}" for number in range(COLOURS)), "paper", "soft", "rule")
STAND_INS = {name: f"#0000{number:02x}" for number, name in enumerate(_NAMES, 1)}

# Pixels; text is as large as that of the page where a drawing is shown at its own width
LEFT, ABOVE, BELOW = 46, 10, 30
FONT, LETTER, LINE = 14, 8.2, 20
STYLE: dict[Any, Any] = {
    "axes.autolimit_mode": "round_numbers",
    "axes.xmargin": 0,
    "axes.ymargin": 0,
    "font.sans-serif": "DejaVu Sans",  # which measures as wide as any; the page's own is written
    "font.size": FONT,
    "svg.fonttype": "none",
    "svg.hashsalt": "ahm",  # the same chart, the same bytes
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Drawing:
    """A chart as it is drawn for windows of one width.

    Attributes:
        kind: `wide` or `narrow`.
        svg: An `<svg>` element.
        area: Where the plot lies in it, a CSS inset: percent from the top, right, bottom and left.
    """

    kind: str
    svg: str
    area: str


# Width in pixels, and how many letters of a name are written at the end of its line
SIZES = {"wide": (560, 22), "narrow": (336, 10)}


@dataclass(frozen=True)
class Chart:
    """Curves, and how they are shown.

    Attributes:
        title: What they show.
        curves: At least one.
        labels: Numbers of labelled images, rising, and how each is written, where they are what the curves run
            against; the axis is then logarithmic, and points are marked. Otherwise curves run against images shown.
        reference: A value to draw a horizontal line at.
        decimals: With which values are written.
        share: Whether values are shares from 0 to 1, in percent in a small chart.
    """

    title: str
    curves: Sequence[Curve]
    labels: Mapping[int, str] = field(default_factory=dict)
    reference: float | None = None
    decimals: int = 2
    share: bool = False

    @property
    def end(self) -> float:
        """The number at the right edge."""
        return float(max(self.labels or (curve.x[-1] for curve in self.curves))) or 1.0

    @property
    def summary(self) -> str:
        """The chart in words, for those who do not see it."""
        if not self.labels:
            ends = "; ".join(f"{curve.name} ends at {self._value(curve.mean[-1])}" for curve in self.curves)
            return f"{self.title}, against images shown: {ends}"
        return f"{self.title}: " + "; ".join(f"{curve.name} {self._points(curve)}" for curve in self.curves)

    def _points(self, curve: Curve) -> str:
        """All points of a curve in words."""
        means = [self._value(mean) for mean in curve.mean]
        if curve.low is not None and curve.high is not None:
            ends = zip(means, curve.low, curve.high, strict=True)
            means = [f"{mean} ({self._value(low)} to {self._value(high)})" for mean, low, high in ends]
        return ", ".join(f"{mean} {self._moment(x)}" for mean, x in zip(means, curve.x, strict=True))

    def _value(self, value: float) -> str:
        return f"{100 * value:.0f} %" if self.share else f"{value:.{self.decimals}f}"

    def _moment(self, x: float) -> str:
        return f"with {self.labels[int(x)]} labels" if self.labels else f"after {x:,.0f} images"

    def place(self, x: npt.ArrayLike) -> Floats:
        """Where numbers lie: percent of the plot, from the left."""
        scale, start = (np.log, float(min(self.labels))) if self.labels else (np.asarray, 0.0)
        return np.asarray(100 * (scale(x) - scale(start)) / (scale(self.end) - scale(start)))

    def numbers(self) -> dict[str, Any]:
        """Collect what the page's script needs to read values off the lines."""
        stops = np.unique(np.concatenate([curve.x for curve in self.curves]))
        return {
            "stops": [[x, round(float(self.place(x)), 2), self._moment(x)] for x in stops.tolist()],
            "decimals": self.decimals,
            "lines": [
                {key: one.tolist() if isinstance(one, np.ndarray) else one for key, one in vars(curve).items()}
                for curve in self.curves
            ],
        }

    def drawings(self) -> list[Drawing]:
        """Draw it for wide and for narrow windows; a small chart is narrow in both."""
        return [self._draw(kind, *SIZES[kind]) for kind in (("narrow",) if self.share else SIZES)]

    def _draw(self, kind: str, width: int, letters: int) -> Drawing:
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        names = [c.name if len(c.name) <= letters else f"{c.name[: letters - 1]}…" for c in self.curves]
        values = [self._value(curve.mean[-1]) for curve in self.curves]
        lengths = [len(name) + 1.2 * len(value) for name, value in zip(names, values, strict=True)]  # values are bold
        right = 28 + LETTER * max(lengths)
        plot = 100 if self.share else 280
        height = plot + ABOVE + BELOW
        file = io.StringIO()
        with rc_context(STYLE):
            figure = Figure((width / 72, height / 72), dpi=72)
            axes = figure.add_axes(
                (LEFT / width, BELOW / height, (width - LEFT - right) / width, plot / height), frame_on=False
            )
            self._set_axes(axes, width - LEFT - right)
            for curve in self.curves:
                self._add_line(axes, curve)
            if self.reference is not None:
                axes.axhline(self.reference, color=STAND_INS["soft"], linestyle=(0, (2, 4)), linewidth=1)
            bottom, top = axes.get_ylim()
            ends = [float((curve.mean[-1] - bottom) / (top - bottom)) for curve in self.curves]
            # columns of names and values beside the plot, each with a line from the end of its curve
            places = spread(ends, LINE / plot)
            pixel = 1 / (width - LEFT - right)
            for curve, name, value, end, place in zip(self.curves, names, values, ends, places, strict=True):
                across = [float(self.place(curve.x[-1])) / 100, 1, 1 + 12 * pixel]
                style: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False, "gid": f"agent-{curve.agent}"}
                axes.plot(across, [end, end, place], color=_colour(curve), linewidth=1, alpha=0.45, **style)
                axes.text(1 + 16 * pixel, place, name, va="center_baseline", **style)
                axes.text(1 + right * pixel, place, value, va="center_baseline", ha="right", weight="bold", **style)
            figure.savefig(
                file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
            )
        area = (ABOVE / height, right / width, BELOW / height, LEFT / width)
        return Drawing(kind, _inlined(file.getvalue()), " ".join(f"{100 * edge:.2f}%" for edge in area))

    def _set_axes(self, axes: "Axes", width: float) -> None:
        """Set scales, marks and rules of a plot so many pixels wide."""
        from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

        axes.tick_params(left=False, bottom=False, pad=8, labelcolor=STAND_INS["soft"])
        axes.grid(axis="y", color=STAND_INS["rule"], linewidth=1)
        axes.yaxis.set_major_locator(MaxNLocator(2 if self.share else 5, steps=[1, 2, 5, 10]))
        if self.share:
            axes.yaxis.set_major_formatter(PercentFormatter(1, 0, " %"))
            axes.set_ylim(0, 1)
        if self.labels:
            shown = self._marks(width)
            axes.set_xscale("log")
            axes.set_xticks(shown, [self.labels[number] for number in shown], minor=False)
            axes.minorticks_off()
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(min(self.labels, default=0), self.end)

    def _marks(self, width: float) -> list[int]:
        """Choose the numbers of labels that fit below the axis; that of all is never left out."""
        shown, edge = list[int](), np.inf
        for number, text in reversed(list(self.labels.items())):
            middle, half = width * float(self.place(number)) / 100, LETTER * len(text) / 2
            if middle + half + LETTER <= edge:
                shown.insert(0, number)
                edge = middle - half
        return shown

    def _add_line(self, axes: "Axes", curve: Curve) -> None:
        """Add a curve with its band."""
        colour, gid, dashes = _colour(curve), f"agent-{curve.agent}", curve.style // COLOURS % len(DASHES)
        if curve.low is not None and curve.high is not None:
            alpha = min(0.16, 0.5 / len(self.curves))
            axes.fill_between(
                curve.x, curve.low, curve.high, color=colour, alpha=alpha, linewidth=0, clip_on=False, gid=gid
            )
        axes.plot(
            curve.x,
            curve.mean,
            color=colour,
            linewidth=2,
            linestyle=DASHES[dashes],
            dash_capstyle="round",
            marker="o" if self.labels or len(curve.x) == 1 else "",
            markerfacecolor=STAND_INS["paper"] if dashes else colour,
            markersize=6,
            clip_on=False,
            gid=gid,
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart so that all are at least `gap` from each other, together as little as can be, within 0 to 1."""
    from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

    order, steps = np.argsort(places, kind="stable"), gap * np.arange(len(places))
    moved = np.empty(len(places))
    # less their steps, places that keep their distance are any that do not fall
    moved[order] = steps + np.clip(isotonic_regression(np.asarray(places)[order] - steps).x, 0, 1 - steps[-1])
    return [float(place) for place in moved]


def _colour(curve: Curve) -> str:
    return STAND_INS[f"c{curve.style % COLOURS}"]


def _inlined(svg: str) -> str:
    """Turn an SVG file into an element of a page: in the page's colours, agents as data, no links to the outside."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r' id="agent-(\d+)"', r' data-agent="\1"', svg)
    svg = re.sub(r' id="[a-zA-Z0-9]+_\d+"', "", svg)
    return re.sub(r"(?<=: )#0000(\w\w)(?=[;\"])", lambda found: f"var(--{_NAMES[int(found[1], 16) - 1]})", svg)
