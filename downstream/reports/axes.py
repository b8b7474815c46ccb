"""Axes of charts: where a value lies, which values are marked, and how they are told."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor, log10

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Of the narrowest plot, pixels: marks that would touch each other there are left out
NARROW, LETTER, GAP = 170, 6.6, 6.0


@dataclass(frozen=True)
class Axis:
    """The horizontal axis of a chart.

    Attributes:
        name: What it counts.
        start: The number at the left edge.
        end: The number at the right edge.
        marks: Number and text of each mark.
        form: How a number is told: a sentence with `{}` for it.
        texts: Numbers that are told by other words than their digits.
        logarithmic: Whether equal distances are equal ratios. Such an axis has few numbers, whose points are marked.
    """

    name: str
    start: float
    end: float
    marks: tuple[tuple[float, str], ...]
    form: str
    texts: Mapping[float, str]
    logarithmic: bool = False

    def place(self, numbers: npt.ArrayLike) -> Floats:
        """Where numbers lie: percent of the plot, from the left."""
        values = np.asarray(numbers, np.float64)
        if self.logarithmic:
            return np.asarray(100 * np.log(values / self.start) / np.log(self.end / self.start))
        return 100 * values / self.end

    def tell(self, number: float) -> str:
        """A number in words."""
        return self.form.format(self.texts.get(number, f"{number:,.0f}"))


def images_shown(end: float) -> Axis:
    """The axis of the course of training, from 0 to `end` images."""
    marks = tuple((value, short(value, end)) for value in nice_ticks(0, end, 4)[0] if value <= end)
    return Axis("images shown", 0, end, marks, "after {} images", {})


def labelled_images(counts: Mapping[int, str]) -> Axis:
    """The axis of two or more numbers of labelled images, logarithmic.

    Args:
        counts: The numbers, rising, and how each is written.
    """
    texts = {float(number): text for number, text in counts.items()}
    axis = Axis("labels", min(texts), max(texts), tuple(texts.items()), "with {} labels", texts, logarithmic=True)
    kept, edge = list[tuple[float, str]](), float("inf")
    for number, text in reversed(axis.marks):  # that of all is never left out
        middle, half = NARROW * float(axis.place(number)) / 100, LETTER * len(text) / 2
        if middle + half + GAP <= edge:
            kept.insert(0, (number, text))
            edge = middle - half
    return Axis(axis.name, axis.start, axis.end, tuple(kept), axis.form, texts, logarithmic=True)


def nice_ticks(low: float, high: float, about: int = 5) -> tuple[list[float], int]:
    """Round numbers that span low to high, and how many decimals they need."""
    if not high - low > 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [float(step * number) for number in range(first, last + 1)], max(0, -floor(log10(step) + 1e-9))


def short(count: float, largest: float) -> str:
    """A number of images on an axis that ends at `largest`: 500 of 3,000, 5k of 20,000, 2M of 10,000,000."""
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if largest >= 10 * unit and count:
            return f"{count / unit:g}{letter}"
    return f"{count:,.0f}"
