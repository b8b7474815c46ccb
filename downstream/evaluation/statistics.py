"""How sure a mean or a difference is: one paired bootstrap over pretraining runs, draws of labels, and patients.

All trials of an experiment are tested on the same patients, those with the same draw learned from the same labelled
images, and those with the same run began with the same seed. So a resample takes runs, draws and patients, the same
for both sides of a difference, and pairs stay pairs (the pigeonhole bootstrap: Owen, Ann. Appl. Stat. 2007). Of n
runs, draws or patients a resample takes n - 1, which makes the variance of a mean unbiased for small n (Rao, Wu, J.
Am. Stat. Assoc. 1988). Where masks are evaluated, the reference U-Nets stand for draws: each run meets each of them.

Few runs or draws tell little of how much they vary: intervals and p are Student's, with the bootstrap's standard error
and the degrees of freedom of its parts, runs, draws and patients (Welch, Satterthwaite: Biometrics 1946).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt

import numpy as np
import numpy.typing as npt

from ahm_env import RunError

Floats = npt.NDArray[np.float64]
Trial = tuple[int | None, int | None]  # pretraining run, and draw or reference U-Net; None: there is no such thing

RESAMPLES = 4000
SAME = 1e-12  # nothing but rounding


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; NaN ends where there is nothing to resample."""

    mean: float
    low: float
    high: float

    def text(self, sign: bool = False) -> str:
        """Format it for people, such as `0.812 (0.790 to 0.834)`."""
        form = "+.3f" if sign else ".3f"
        between = "" if isnan(self.low) else f" ({self.low:{form}} to {self.high:{form}})"
        return f"{self.mean:{form}}{between}"


@dataclass(frozen=True)
class Contrast:
    """How one arm differs from another.

    Attributes:
        interval: The mean difference, with its interval.
        p: Two-sided, that there is no difference. NaN where all are equal, nothing can be resampled, or there is one
            run or one draw, whose luck the difference may be.
        pairs: How many pairs of trials there are.
    """

    interval: Interval
    p: float
    pairs: int


@dataclass(frozen=True)
class Scores:
    """What the trials of one arm came to, patient by patient: a mean is the sum of `sums` over the sum of `counts`.

    Attributes:
        trials: Run, and draw or reference U-Net, of each of T trials.
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
        spread = Spread.of(self.trials, [(self.sums, self.counts)])
        return spread.interval(float(self.sums.sum() / self.counts.sum()))

    @property
    def of_runs(self) -> Floats:
        """`(runs,)` mean of each run, over all draws or reference U-Nets and all patients."""
        runs = np.array([run for run, _ in self.trials])
        return np.array([self.sums[runs == run].sum() / self.counts[runs == run].sum() for run in dict.fromkeys(runs)])

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
        known = [(self.trials[i], base.trials[j]) for i, j in pairs]
        trials = tuple((_first(one[0], other[0]), _first(one[1], other[1])) for one, other in known)
        leaks = [(one.sums[rows], one.counts[rows]) for one, rows in ((self, ours), (base, theirs))]
        left, right = (float(sums.sum() / counts.sum()) for sums, counts in leaks)
        spread = Spread.of(trials, leaks)
        lucky = any(len(set(levels)) == 1 and levels[0] is not None for levels in zip(*trials, strict=True))
        return Contrast(spread.interval(left - right), nan if lucky else spread.p(left - right), len(pairs))


def _first(one: int | None, other: int | None) -> int | None:
    """Return the first number, or the other where the first is None."""
    return other if one is None else one


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of p values for their number; NaN is no test and stays NaN."""
    order = [index for index in np.argsort(ps, kind="stable") if not np.isnan(ps[index])]
    corrected, largest = [nan] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def p_text(p: float) -> str:
    """Format a p value for people."""
    return "–" if isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def interquartile_mean(values: Floats) -> Interval:
    """Mean of the middle half, from four values on, with Student's interval of a trimmed mean.

    The interval is that of Tukey and McLaughlin (Sankhya A 1963), from the winsorised variance.
    """
    from scipy.stats import mstats, trim_mean  # type: ignore[import-untyped]

    low, high = mstats.trimmed_mean_ci(values, (0.25, 0.25))
    return Interval(float(trim_mean(values, 0.25)), float(low), float(high))


def probability_of_improvement(ours: Floats, theirs: Floats) -> Interval:
    """Probability that one of ours is larger than one of theirs, over all pairs; of equal ones, a half (Mann, Whitney).

    Agarwal et al. (NeurIPS 2021) compare agents so. The interval is Newcombe's fifth (Statistics in Medicine 2006),
    which is no point even where all pairs say the same.
    """
    larger = float(np.mean(np.sign(ours[:, None] - theirs[None]) + 1) / 2)
    true = np.linspace(0, 1, 10_001)
    few = (len(ours) + len(theirs)) / 2 - 1
    variance = true * (1 - true) * (1 + few * ((1 - true) / (2 - true) + true / (1 + true))) / (len(ours) * len(theirs))
    likely = true[(true - larger) ** 2 <= 1.96**2 * variance + SAME]
    return Interval(larger, float(likely[0]), float(likely[-1]))


@dataclass(frozen=True)
class Spread:
    """How much a mean, or a difference, varies.

    Attributes:
        error: Its standard error; NaN where nothing varies: what is the same in a few need not be so in others.
        freedom: Degrees of freedom of that.
    """

    error: float
    freedom: float

    @classmethod
    def of(cls, trials: Sequence[Trial], leaks: Sequence[tuple[Floats, Floats]]) -> "Spread":
        """Compute the spread of the mean of one side, or of the difference of two.

        Args:
            trials: Run and draw of T trials, or pairs of trials.
            leaks: Of each side sums and counts, `(T, U)`.
        """
        runs, draws = ([trial[place] for trial in trials] for place in (0, 1))
        if None not in runs and len(set(trials)) == len(set(runs)) == len(set(draws)):
            runs = [None] * len(runs)  # each run has a draw of its own: the two vary as one
        factors: dict[str, Sequence[int | None]] = {
            "run": runs,
            "draw": draws,
            "patient": list(range(leaks[0][0].shape[1])),
        }
        varying = {name: len(set(levels)) - 1 for name, levels in factors.items() if len(set(levels)) > 1}
        if not varying:
            return cls(nan, nan)
        alone = {name: _variance(factors, {name}, leaks) for name in varying}
        whole = _variance(factors, set(varying), leaks) if len(varying) > 1 else next(iter(alone.values()))
        below = sum(alone[name] ** 2 / freedom for name, freedom in varying.items())
        freedom = sum(alone.values()) ** 2 / below if below > 0 else float(min(varying.values()))
        return cls(sqrt(whole) if sqrt(whole) > SAME else nan, freedom)

    def interval(self, mean: float) -> Interval:
        """Of 95 % about a mean; NaN ends where nothing varies."""
        from scipy.stats import t as student

        half = float(student.ppf(0.975, self.freedom)) * self.error
        return Interval(mean, mean - half, mean + half)

    def p(self, difference: float) -> float:
        """Two-sided p that there is no difference; NaN where nothing varies."""
        from scipy.stats import t as student

        return float(2 * student.sf(abs(difference) / self.error, self.freedom))


def _variance(
    factors: Mapping[str, Sequence[int | None]], resampled: set[str], leaks: Sequence[tuple[Floats, Floats]]
) -> float:
    """Estimate the variance of the mean, or of the difference, when only these factors are resampled."""
    generator = np.random.default_rng(0)
    weights = {
        name: _weights(levels, generator) if name in resampled else np.ones((RESAMPLES, len(levels)))
        for name, levels in factors.items()
    }
    means = []
    for sums, counts in leaks:
        both = [
            np.einsum("rt,tu,ru->r", weights["run"] * weights["draw"], one, weights["patient"], optimize=True)
            for one in (sums, counts)
        ]
        with np.errstate(invalid="ignore", divide="ignore"):  # of few trials, a resample may take none
            means.append(both[0] / both[1])
    values = means[0] if len(means) == 1 else means[0] - means[1]
    return float(np.var(values[np.isfinite(values)]))


def _weights(names: Sequence[int | None], generator: np.random.Generator) -> Floats:
    """How often each of these is taken in each resample, `(RESAMPLES, len(names))`; the same name, the same weight."""
    levels, place = np.unique([-1 if name is None else name for name in names], return_inverse=True)
    count = len(levels)
    taken: Floats = generator.multinomial(count - 1, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
    return taken[:, place]
