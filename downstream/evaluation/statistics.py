"""How sure a mean or a difference is: one paired bootstrap over pretraining runs, draws of labels, and patients.

All trials of an experiment are tested on the same patients, those with the same draw learned from the same labelled
images, and those with the same run began with the same seed. So a resample takes runs, draws and patients, the same
for both sides of a difference, and pairs stay pairs (the pigeonhole bootstrap: Owen, Ann. Appl. Stat. 2007). Of n
runs, draws or patients a resample takes n - 1, which makes the variance of a mean unbiased for small n (Rao, Wu, J.
Am. Stat. Assoc. 1988).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import numpy.typing as npt

from ahm_env import RunError

Floats = npt.NDArray[np.float64]
Trial = tuple[int | None, int | None]  # pretraining run and draw; None where there is no such thing

RESAMPLES = 10_000
CHUNK = 1000  # resamples at once


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval; NaN ends where there is nothing to resample."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """How one arm differs from another.

    Attributes:
        interval: The mean difference, with its interval.
        p: Two-sided, of the same bootstrap: how often a resample lies on the other side of 0. NaN where all are equal.
        pairs: How many pairs of trials there are.
    """

    interval: Interval
    p: float
    pairs: int


@dataclass(frozen=True)
class Scores:
    """What the trials of one arm came to, patient by patient: a mean is the sum of `sums` over the sum of `counts`.

    Attributes:
        trials: Run and draw of each of T trials.
        patients: What each of U patients is known by: the names of the images that were tested, in order.
        sums: `(T, U)`, such as the sum of the Dice of a patient's images.
        counts: `(T, U)`, such as the number of these images.
    """

    trials: tuple[Trial, ...]
    patients: tuple[tuple[str, ...], ...]
    sums: Floats
    counts: Floats

    @property
    def mean(self) -> Interval:
        """The mean over trials and patients, with its interval."""
        found = _resampled(self.trials, [(self.sums, self.counts)])
        return _interval(float(self.sums.sum() / self.counts.sum()), found)

    def minus(self, base: "Scores") -> Contrast | None:
        """How these scores differ from others; None where no trial can be paired.

        A trial that was not pretrained, or knows no draw, is paired with all that have the same draw, or run.

        Raises:
            RunError: The two were tested on different images.
        """
        if self.patients != base.patients:
            raise RunError("two arms were tested on different images; compare them anew in another --out")
        pairs = [
            (i, j)
            for i, one in enumerate(self.trials)
            for j, other in enumerate(base.trials)
            if all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))
        ]
        if not pairs:
            return None
        ours, theirs = (list(side) for side in zip(*pairs, strict=True))
        trials = tuple(
            (first(self.trials[i][0], base.trials[j][0]), first(self.trials[i][1], base.trials[j][1])) for i, j in pairs
        )
        sides = [(one.sums[rows], one.counts[rows]) for one, rows in ((self, ours), (base, theirs))]
        left, right = (float(sums.sum() / counts.sum()) for sums, counts in sides)
        found = _resampled(trials, sides)
        equal = all(np.allclose(a, b) for a, b in zip(*sides, strict=True))
        return Contrast(_interval(left - right, found), nan if equal else _p(found), len(pairs))


def first(one: int | None, other: int | None) -> int | None:
    """The one that is not None."""
    return other if one is None else one


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of p values for their number; NaN is no test and stays NaN."""
    order = [index for index in np.argsort(ps, kind="stable") if not np.isnan(ps[index])]
    corrected, largest = [nan] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def _resampled(trials: Sequence[Trial], sides: Sequence[tuple[Floats, Floats]]) -> Floats:
    """The mean of one side, or the difference of two, in each resample; none where nothing can be resampled.

    Args:
        trials: Run and draw of T trials, or pairs of trials.
        sides: Of each side sums and counts, `(T, U)`.
    """
    runs, draws = ([trial[place] for trial in trials] for place in (0, 1))
    if None not in runs and len(set(trials)) == len(set(runs)) == len(set(draws)):
        runs = [None] * len(runs)  # each run has a draw of its own: the two vary as one
    patients = list(range(sides[0][0].shape[1]))
    if all(len(set(one)) < 2 for one in (runs, draws, patients)):
        return np.zeros(0)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES // CHUNK):
        of_trials = _weights(runs, generator) * _weights(draws, generator)
        of_patients = _weights(patients, generator)
        means = []
        for side in sides:
            sums, counts = (np.einsum("rt,tu,ru->r", of_trials, one, of_patients, optimize=True) for one in side)
            with np.errstate(invalid="ignore", divide="ignore"):  # of few trials, a resample may take none
                means.append(sums / counts)
        found.append(means[0] if len(means) == 1 else means[0] - means[1])
    values = np.concatenate(found)
    finite: Floats = values[np.isfinite(values)]
    return finite


def _weights(names: Sequence[int | None], generator: np.random.Generator) -> Floats:
    """How often each of these is taken in each resample, `(CHUNK, len(names))`; the same name, the same weight."""
    levels, place = np.unique([-1 if name is None else name for name in names], return_inverse=True)
    count = len(levels)
    if count < 2:
        return np.ones((CHUNK, len(names)))
    taken: Floats = generator.multinomial(count - 1, np.full(count, 1 / count), CHUNK).astype(np.float64)
    return taken[:, place]


def _interval(mean: float, found: Floats) -> Interval:
    low, high = np.quantile(found, (0.025, 0.975)).tolist() if found.size else (nan, nan)
    return Interval(mean, low, high)


def _p(found: Floats) -> float:
    """Two-sided; never 0, since there are only so many resamples."""
    if not found.size:
        return nan
    least = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return min(1.0, 2 * (1 + least) / (1 + len(found)))
