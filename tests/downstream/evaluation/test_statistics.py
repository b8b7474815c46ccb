"""The bootstrap of an experiment and Holm's correction, by hand, by published numbers and by simulation."""

from math import isnan, nan, sqrt

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from ahm_env import RunError
from downstream.evaluation.statistics import (
    Interval,
    Scores,
    Trial,
    holm,
    interquartile_mean,
    probability_of_improvement,
)


def scores(values: npt.ArrayLike, trials: list[Trial] | None = None, counts: npt.ArrayLike | None = None) -> Scores:
    """Of values `(T, U)`; without trials, each is a draw of its own."""
    sums = np.array(values, np.float64)
    each = np.ones_like(sums) if counts is None else np.array(counts, np.float64)
    names = tuple((f"image{number}",) for number in range(sums.shape[1]))
    return Scores(tuple(trials or [(None, draw) for draw in range(len(sums))]), names, sums, each)


# Means and their intervals


def test_an_interval_that_is_not_known_is_left_out():
    assert Interval(0.5, nan, nan).text() == "0.500"
    assert Interval(0.02, -0.01, 0.05).text(sign=True) == "+0.020 (-0.010 to +0.050)"


def test_a_mean_is_the_ratio_of_sums():
    found = scores([[2, 4], [4, 6]], counts=[[1, 1], [2, 4]]).mean
    assert found.mean == 16 / 8
    assert found.low < found.mean < found.high


def test_without_variation_there_is_no_width_and_of_one_nothing_is_known():
    for same in (np.full((3, 5), 0.25), [[0.25]]):
        found = scores(same).mean
        assert found.mean == pytest.approx(0.25)
        assert isnan(found.low)
        assert isnan(found.high)


@pytest.mark.parametrize("count", [2, 3, 5, 400])
def test_over_patients_it_is_student_s_interval(count: int):
    values = np.random.default_rng(0).normal(size=(1, count))
    found = scores(values).mean
    half = student.ppf(0.975, count - 1) * values.std(ddof=1) / sqrt(count)
    assert found.high - found.mean == pytest.approx(half, rel=0.05)
    assert found.mean - found.low == pytest.approx(half, rel=0.05)


@pytest.mark.parametrize("which", ["draws", "runs"])
def test_draws_and_runs_vary_as_patients_do(which: str):
    levels = np.random.default_rng(0).normal(5, 1, (8, 1))
    trials: list[Trial] = [(None, one) if which == "draws" else (one, None) for one in range(8)]
    found = scores(np.repeat(levels, 50, axis=1), trials).mean
    half = student.ppf(0.975, 7) * levels.std(ddof=1) / sqrt(8)  # the patients are all alike
    assert found.high - found.mean == pytest.approx(half, rel=0.05)


def test_crossed_runs_and_draws_both_count_by_their_part_in_the_variance():
    rng = np.random.default_rng(1)
    runs, draws = rng.normal(0, 1, 4), rng.normal(0, 1, 12)
    trials: list[Trial] = [(run, draw) for run in range(4) for draw in range(12)]
    both = scores([[runs[run] + draws[draw]] for run, draw in trials], trials).mean
    of_runs, of_draws = runs.var(ddof=1) / 4, draws.var(ddof=1) / 12
    freedom = (of_runs + of_draws) ** 2 / (of_runs**2 / 3 + of_draws**2 / 11)
    half = student.ppf(0.975, freedom) * sqrt(of_runs + of_draws)
    assert both.high - both.mean == pytest.approx(half, rel=0.05)


def test_runs_that_have_a_draw_of_their_own_vary_with_it_as_one():
    values = np.random.default_rng(2).normal(0, 1, (20, 1))
    as_one = scores(values, [(number, number) for number in range(20)]).mean
    draws = scores(values).mean
    assert (as_one.low, as_one.high) == (draws.low, draws.high)


def test_trials_that_are_not_done_yet_are_left_out():
    trials: list[Trial] = [(0, 0), (1, 1), (0, 2)]
    found = scores([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], trials).mean
    assert found.mean == pytest.approx(0.35)
    assert found.low < found.mean < found.high


@pytest.mark.slow
@pytest.mark.parametrize(("draws", "patients"), [(3, 1), (3, 40), (8, 40)])
def test_intervals_cover_the_truth_about_as_often_as_they_say(draws: int, patients: int):
    rng, inside = np.random.default_rng(3), 0
    for _ in range(100):
        level, each = rng.normal(0, 0.5, (draws, 1)), rng.normal(0, 1, (1, patients))
        found = scores(level + (patients > 1) * each + rng.normal(0, 0.3, (draws, patients))).mean
        inside += found.low <= 0 <= found.high
    assert 0.88 <= inside / 100 <= 1


# Differences


def test_pairs_stay_pairs():
    hard = np.random.default_rng(0).lognormal(0, 1, (4, 60))
    better = hard + np.random.default_rng(1).normal(0.1, 0.001, (4, 60))
    gap = scores(better).minus(scores(hard))
    assert gap is not None
    assert (gap.interval.low, gap.interval.mean, gap.interval.high) == pytest.approx((0.1, 0.1, 0.1), abs=1e-3)
    assert gap.pairs == 4
    own = scores(hard).mean
    assert own.high - own.low > 0.5  # patients and draws differ a lot, the pairs do not


@pytest.mark.parametrize(("runs", "draws", "known"), [(1, 5, False), (5, 1, False), (2, 2, True), (None, 2, True)])
def test_one_run_or_one_draw_has_no_p(runs: int | None, draws: int, known: bool):
    """Its luck is the same in all pairs, and would be taken for a difference."""
    trials: list[Trial] = [(run, draw) for run in range(runs or 1) for draw in range(draws)]
    trials = [(None, draw) for _, draw in trials] if runs is None else trials
    values = np.random.default_rng(0).normal(0, 1, (2, len(trials), 40))
    gap = scores(values[0], trials).minus(scores(values[1], trials))
    assert gap is not None
    assert isnan(gap.p) != known
    assert gap.interval.low < gap.interval.mean < gap.interval.high


def test_only_what_both_have_is_compared():
    one, base = scores([[0.5], [0.7], [0.9]], [(None, 0), (None, 1), (None, 2)]), scores([[0.4]], [(None, 1)])
    gap = one.minus(base)
    assert gap is not None
    assert (gap.pairs, gap.interval.mean) == (1, pytest.approx(0.3))
    assert one.minus(scores([[0.4]], [(None, 7)])) is None


def test_every_run_is_compared_with_scratch_on_the_same_draw_and_with_the_same_run_of_another_agent():
    scratch = scores([[0.1], [0.2]])
    trials: list[Trial] = [(0, 0), (1, 0), (0, 1), (1, 1)]
    a3c = scores([[0.2], [0.4], [0.5], [0.7]], trials)
    gap = a3c.minus(scratch)
    assert gap is not None
    assert (gap.pairs, gap.interval.mean) == (4, pytest.approx((0.1 + 0.3 + 0.3 + 0.5) / 4))
    random = scores([[0.1], [0.1], [0.1], [0.1]], trials[::-1])
    other = a3c.minus(random)
    assert other is not None
    assert (other.pairs, other.interval.mean) == (4, pytest.approx(0.35))


def test_arms_that_were_tested_on_different_images_are_refused():
    other = Scores(((None, 0),), (("elsewhere",),), np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(RunError, match="tested on different images"):
        scores([[0.5]]).minus(other)


def test_p_is_small_where_the_interval_is_far_from_zero_and_alike_in_both_directions():
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.2, (6, 50))
    better, alike = base + rng.normal(0.2, 0.1, (6, 50)), base + rng.normal(0, 0.1, (6, 50))
    gaps = [scores(one).minus(scores(other)) for one, other in ((better, base), (base, better), (alike, base))]
    ps = [gap.p for gap in gaps if gap is not None]
    assert ps[0] == ps[1] < 1e-4
    assert 0.05 < ps[2] <= 1
    nothing = scores(base).minus(scores(base))
    assert nothing is not None
    assert isnan(nothing.p)


def test_two_draws_of_one_sign_prove_little():
    gap = scores([[0.61], [0.63]]).minus(scores([[0.6], [0.6]]))
    assert gap is not None
    assert gap.interval.low < 0 < gap.interval.high
    assert gap.p == pytest.approx(2 * student.sf(0.02 / (sqrt(2e-4) / sqrt(2)), 1), rel=0.05)
    alone = scores([[0.61]]).minus(scores([[0.6]]))
    assert alone is not None
    assert isnan(alone.p)


def test_p_below_five_per_cent_means_an_interval_without_zero():
    rng = np.random.default_rng(5)
    for shift in np.linspace(0, 0.12, 7):
        base = rng.normal(0.5, 0.2, (5, 40))
        gap = scores(base + rng.normal(shift, 0.2, (5, 40))).minus(scores(base))
        assert gap is not None
        assert (gap.p < 0.05) == (gap.interval.low > 0 or gap.interval.high < 0)


# Runs


def test_a_run_is_the_ratio_of_its_own_sums():
    found = scores([[2, 4], [4, 6], [1, 1]], [(7, 0), (7, 1), (3, 0)], [[1, 1], [2, 4], [1, 0]])
    assert found.of_runs.tolist() == [16 / 8, 2]


def test_the_interquartile_mean_is_that_of_the_middle_half():
    assert interquartile_mean(np.array([100.0, 1, 2, 3])).mean == 2.5
    assert interquartile_mean(np.array([-50.0, 1, 2, 3, 4, 5, 6, 700])).mean == 3.5
    winsorised = np.array([2, 2, 2, 3, 4, 5, 5, 5])  # the two least and the two largest drawn in
    half = student.ppf(0.975, 3) * winsorised.std(ddof=1) / (0.5 * sqrt(8))
    found = interquartile_mean(np.array([-50.0, 1, 2, 3, 4, 5, 6, 700]))
    assert (found.low, found.high) == pytest.approx((3.5 - half, 3.5 + half))


def test_the_probability_of_improvement_by_hand():
    """The ends solve (true - found)^2 = 1.96^2 true (1 - true) (...) / (4 x 4), with pencil and Newton."""
    one = np.arange(4.0)
    assert probability_of_improvement(np.array([2.0, 0]), np.array([1.0, 2])).mean == (1 + 0.5) / 4
    clear, reverse = probability_of_improvement(one + 9, one), probability_of_improvement(one, one + 9)
    assert (clear.mean, clear.high, reverse.mean, reverse.low) == (1, 1, 0, 0)
    assert clear.low == pytest.approx(1 - reverse.high, abs=1e-3)
    low = clear.low
    variance = low * (1 - low) * (1 + 3 * ((1 - low) / (2 - low) + low / (1 + low))) / 16
    assert (1 - low) ** 2 == pytest.approx(1.96**2 * variance, abs=1e-3)
    alike = probability_of_improvement(one, one)
    assert (alike.mean, alike.low) == (0.5, pytest.approx(1 - alike.high))


@pytest.mark.slow
@pytest.mark.parametrize("runs", [4, 5, 10])
def test_intervals_of_runs_cover_the_truth_about_as_often_as_they_say(runs: int):
    rng = np.random.default_rng(6)
    means, better = [], []
    for shift in (0, 1, 2.5):
        truth = norm.cdf(shift / sqrt(2))
        for _ in range(400):
            ours, theirs = rng.normal(shift, 1, runs), rng.normal(0, 1, runs)
            mean, larger = interquartile_mean(ours), probability_of_improvement(ours, theirs)
            means.append(mean.low <= shift <= mean.high)
            better.append(larger.low <= truth <= larger.high)
    assert 0.9 <= np.mean(means) <= 0.98
    assert 0.92 <= np.mean(better) <= 0.98


# Holm's correction


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x 0.01, 2 x 0.03, and not below that
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_what_was_not_tested_does_not_count() -> None:
    corrected = holm([nan, 0.01, 0.04])
    assert isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.02, 0.04])
    assert all(isnan(one) for one in holm([nan, nan]))


def test_holm_as_in_the_tests_of_statsmodels() -> None:
    """P values of statsmodels' `test_multi.py`, with what R's multtest makes of them."""
    ps = [0.838541367553, 0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238]
    ps += [0.177096952723, 5.23656777208e-5, 0.0202732688798, 0.00028140506198, 0.0149877310796]
    published = [1, 1, 1, 1, 1, 1, 5.2365677720800005e-4, 1.4191288215860001e-1, 2.5326455578199999e-3]
    assert holm(ps) == pytest.approx([*published, 1.1990184863680001e-1], rel=1e-9)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_only_makes_larger_and_keeps_the_order(ps: list[float]) -> None:
    corrected = holm(ps)
    assert all(one <= after <= 1 for one, after in zip(ps, corrected, strict=True))
    assert all(after <= min(1, len(ps) * one) for one, after in zip(ps, corrected, strict=True))
    order = np.argsort(ps, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()
