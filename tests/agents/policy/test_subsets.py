"""The exactly-k subset distribution against arithmetic done by hand and by enumeration."""

from itertools import permutations
from math import factorial, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from agents.policy.subsets import OrderedSubset

LOGITS = torch.tensor([0.3, -1.2, 2.0, 0.0, 0.9], dtype=torch.float64)
REWARDS = torch.tensor([1.0, 3.0, -0.5, 2.0, 0.7], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rankings(patches: int, count: int) -> Tensor:
    """One ranking for each ordered subset: the subset, then what remains."""
    rows = [[*first, *(i for i in range(patches) if i not in first)] for first in permutations(range(patches), count)]
    return torch.tensor(rows)


def every(logits: Tensor, count: int) -> tuple[OrderedSubset, Tensor]:
    """The distribution once for each of its ordered subsets, and these."""
    ranking = rankings(len(logits), count)
    return OrderedSubset(logits.expand(len(ranking), -1), torch.full((len(ranking),), count)), ranking


def sequential_softmax(logits: list[float], first: list[int]) -> list[float]:
    """Log-probability of each draw, the plain way."""
    remaining = list(range(len(logits)))
    steps = []
    for patch in first:
        weights = np.exp(np.asarray(logits)[remaining])
        steps.append(log(float(np.exp(logits[patch]) / weights.sum())))
        remaining.remove(patch)
    return steps


def central_difference(function: object, logits: Tensor, step: float = 1e-5) -> Tensor:
    gradient = torch.zeros_like(logits)
    for i in range(len(logits)):
        up, down = logits.clone(), logits.clone()
        up[i] += step
        down[i] -= step
        gradient[i] = (function(up) - function(down)) / (2 * step)  # type: ignore[operator]
    return gradient


@st.composite
def problems(draw: st.DrawFn, far: float = 200) -> tuple[Tensor, Tensor, Tensor, int]:
    patches, batch = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    number = st.floats(-far, far, width=32)
    logits = [draw(st.lists(number, min_size=patches, max_size=patches)) for _ in range(batch)]
    excluded = [draw(st.lists(st.booleans(), min_size=patches, max_size=patches)) for _ in range(batch)]
    counts = [draw(st.integers(0, patches - sum(row))) for row in excluded]
    return torch.tensor(logits), torch.tensor(counts), torch.tensor(excluded), draw(st.integers(0, 2**31))


@pytest.mark.slow
@given(problems() | problems(far=200_000))  # as logits over a small temperature are
@settings(max_examples=100)
def test_a_draw_has_exactly_k_ones_and_none_that_is_excluded(problem: tuple[Tensor, Tensor, Tensor, int]) -> None:
    logits, count, excluded, seed = problem
    subset = OrderedSubset(logits, count, excluded)
    for ranking in (subset.sample(generator=generator(seed)), subset.mode):
        mask = subset.subset(ranking)
        assert mask.dtype == torch.bool
        assert mask.sum(1).tolist() == count.tolist()
        assert not (mask & excluded).any()
        assert ranking.sort(1).values.tolist() == [list(range(logits.shape[1]))] * len(logits)


@pytest.mark.slow
@given(problems())
@settings(max_examples=100)
def test_log_probabilities_are_finite_and_at_most_0_and_only_where_a_patch_was_drawn(
    problem: tuple[Tensor, Tensor, Tensor, int],
) -> None:
    logits, count, excluded, seed = problem
    logits.requires_grad_()
    subset = OrderedSubset(logits, count, excluded)
    ranking = subset.sample(generator=generator(seed))
    steps = subset.patch_log_prob(ranking)
    assert torch.isfinite(steps).all()
    assert (steps <= 1e-4).all()
    assert (steps[~subset.subset(ranking)] == 0).all()
    torch.testing.assert_close(steps.sum(1), subset.log_prob(ranking))
    for number in (subset.log_prob(ranking), subset.entropy(ranking)):
        (gradient,) = torch.autograd.grad(number.sum(), logits, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert (gradient[excluded] == 0).all()
    assert (subset.entropy(ranking) >= -0.1).all()  # of logits in the hundreds, in single precision
    assert (subset.entropy(ranking) <= subset.largest_entropy() + 0.1).all()


def test_log_prob_is_the_product_of_sequential_softmaxes() -> None:
    subset = OrderedSubset(LOGITS[None], torch.tensor([3]))
    by_hand = sequential_softmax(LOGITS.tolist(), [3, 0, 4])
    ranking = torch.tensor([[3, 0, 4, 1, 2]])
    assert subset.log_prob(ranking).item() == pytest.approx(sum(by_hand), abs=1e-12)
    expected = [by_hand[1], 0.0, 0.0, by_hand[0], by_hand[2]]  # each at the place of its own patch
    assert subset.patch_log_prob(ranking)[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_log_prob_of_a_case_small_enough_for_paper() -> None:
    subset = OrderedSubset(torch.tensor([[0.0, log(2.0), log(3.0)]]), torch.tensor([2]))
    assert subset.log_prob(torch.tensor([[2, 0, 1]])).exp().item() == pytest.approx(3 / 6 * 1 / 3, abs=1e-6)
    assert subset.log_prob(torch.tensor([[0, 2, 1]])).exp().item() == pytest.approx(1 / 6 * 3 / 5, abs=1e-6)


def test_log_prob_with_excluded_patches_is_that_of_the_smaller_problem() -> None:
    excluded = torch.tensor([[False, True, False, False, True]])
    subset = OrderedSubset(LOGITS[None], torch.tensor([2]), excluded)
    by_hand = sequential_softmax(LOGITS[[0, 2, 3]].tolist(), [2, 0])  # patches 3 and 0 of the five
    assert subset.log_prob(torch.tensor([[3, 0, 2, 1, 4]])).item() == pytest.approx(sum(by_hand), abs=1e-12)


def test_what_ranks_after_the_subset_does_not_matter() -> None:
    subset = OrderedSubset(LOGITS.expand(2, -1), torch.tensor([2, 2]))
    ranking = torch.tensor([[3, 0, 4, 1, 2], [3, 0, 1, 2, 4]])
    values = REWARDS.expand(2, -1)
    for rows in (subset.log_prob(ranking), subset.subset(ranking), subset.patch_expectation(values, ranking)):
        assert torch.allclose(rows[0].double(), rows[1].double())


def test_rows_of_a_batch_have_their_own_counts() -> None:
    subset = OrderedSubset(LOGITS.expand(3, -1), torch.tensor([0, 1, 4]))
    ranking = torch.tensor([[3, 0, 4, 1, 2]]).expand(3, -1)
    assert subset.subset(ranking).int().tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [1, 1, 0, 1, 1]]
    by_hand = sequential_softmax(LOGITS.tolist(), [3, 0, 4, 1])
    assert subset.log_prob(ranking).tolist() == pytest.approx([0.0, by_hand[0], sum(by_hand)], abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_probabilities_of_all_ordered_subsets_sum_to_1(count: int) -> None:
    subset, ranking = every(LOGITS, count)
    assert len(ranking) == factorial(5) // factorial(5 - count)
    assert subset.log_prob(ranking).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("excluded", [None, [False, False, True, False, False]])
def test_draws_come_as_often_as_their_log_prob_says(excluded: list[bool] | None) -> None:
    count, draws = 2, 20_000
    barred = None if excluded is None else torch.tensor([excluded])
    sampled = OrderedSubset(LOGITS.repeat(draws, 1), torch.tensor([count]), barred).sample(generator(1))
    subset, ranking = every(LOGITS, count)
    if barred is not None:
        subset = OrderedSubset(LOGITS.expand(len(ranking), -1), subset.count, barred.expand(len(ranking), -1))
        kept = ~barred[0][ranking[:, :count]].any(1)
    else:
        kept = torch.ones(len(ranking), dtype=torch.bool)
    expected = draws * subset.log_prob(ranking).exp()
    code = sampled[:, 0] * 5 + sampled[:, 1]
    seen = torch.stack([(code == first * 5 + second).sum() for first, second in ranking[:, :2].tolist()])
    assert seen[~kept].sum() == 0
    chi_square = ((seen - expected).square() / expected)[kept].sum().item()
    assert expected[kept].min() > 5
    assert chi_square < {20: 52.4, 12: 39.1}[int(kept.sum())]  # 19 and 11 degrees of freedom, p = 0.00005


def test_gradient_of_log_prob_agrees_with_finite_differences() -> None:
    ranking, count = torch.tensor([[3, 0, 4, 1, 2]]), torch.tensor([3])
    excluded = torch.tensor([[False, False, False, True, False]])
    for barred, row in ((None, ranking), (excluded, torch.tensor([[0, 4, 2, 1, 3]]))):
        logits = LOGITS.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(OrderedSubset(logits[None], count, barred).log_prob(row).sum(), logits)
        numeric = central_difference(
            lambda moved, barred=barred, row=row: OrderedSubset(moved[None], count, barred).log_prob(row)[0], LOGITS
        )
        torch.testing.assert_close(gradient, numeric, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_expected_score_is_0(count: int) -> None:
    logits = LOGITS.clone().requires_grad_()
    subset, ranking = every(logits, count)
    log_prob = subset.log_prob(ranking)
    (score,) = torch.autograd.grad((log_prob.detach().exp() * log_prob).sum(), logits)
    torch.testing.assert_close(score, torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_policy_gradient_is_the_gradient_of_the_expected_reward(count: int) -> None:
    """A reward of the set as a whole, with a bonus for a pair, so that it is no sum over patches."""

    def reward(subset: OrderedSubset, ranking: Tensor) -> Tensor:
        mask = subset.subset(ranking).double()
        return mask @ REWARDS + 4 * mask[:, 0] * mask[:, 1]

    def expected_reward(moved: Tensor) -> Tensor:
        subset, ranking = every(moved, count)
        return (subset.log_prob(ranking).exp() * reward(subset, ranking)).sum()

    logits = LOGITS.clone().requires_grad_()
    subset, ranking = every(logits, count)
    log_prob = subset.log_prob(ranking)
    surrogate = (log_prob.detach().exp() * reward(subset, ranking) * log_prob).sum()
    (policy_gradient,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(policy_gradient, central_difference(expected_reward, LOGITS), atol=1e-8, rtol=1e-6)


def test_scoring_a_mask_by_independent_coins_would_not_give_that_gradient() -> None:
    """What a published code does: the same rewards, scored by something else than was sampled."""
    logits = LOGITS.clone().requires_grad_()
    subset, ranking = every(logits, 2)
    mask = subset.subset(ranking).double()
    probability, reward = subset.log_prob(ranking).exp().detach(), mask @ REWARDS
    coins = (mask * logits.sigmoid().log() + (1 - mask) * (1 - logits.sigmoid()).log()).sum(1)
    (biased,) = torch.autograd.grad((probability * reward * coins).sum(), logits)
    (right,) = torch.autograd.grad((probability * reward * subset.log_prob(ranking)).sum(), logits)
    assert (biased - right).abs().max() > 0.05


def test_patch_expectation_is_the_brute_force_mean_over_what_remained() -> None:
    subset = OrderedSubset(LOGITS[None], torch.tensor([3]))
    expected = torch.zeros(5, dtype=torch.float64)
    remaining = [0, 1, 2, 3, 4]
    for patch in (3, 0, 4):
        weights = LOGITS[remaining].exp()
        expected[patch] = (weights * REWARDS[remaining]).sum() / weights.sum()
        remaining.remove(patch)
    found = subset.patch_expectation(REWARDS[None], torch.tensor([[3, 0, 4, 1, 2]]))[0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_patch_expectation_does_not_depend_on_what_was_drawn_at_that_step() -> None:
    subset = OrderedSubset(LOGITS.expand(3, -1), torch.tensor([2, 2, 2]))
    ranking = torch.tensor([[3, 0, 1, 2, 4], [3, 1, 0, 2, 4], [3, 4, 0, 1, 2]])
    found = subset.patch_expectation(REWARDS.expand(3, -1), ranking)
    second = found.gather(1, ranking[:, 1:2])[:, 0]
    assert second.tolist() == pytest.approx([second[0].item()] * 3, abs=1e-12)


def test_patch_expectation_skips_excluded_patches() -> None:
    excluded = torch.tensor([[False, False, True, False, False]])
    subset = OrderedSubset(LOGITS[None], torch.tensor([1]), excluded)
    weights = LOGITS[[0, 1, 3, 4]].exp()
    expected = (weights * REWARDS[[0, 1, 3, 4]]).sum() / weights.sum()
    found = subset.patch_expectation(REWARDS[None], torch.tensor([[3, 0, 1, 4, 2]]))[0]
    torch.testing.assert_close(found[3], expected, atol=1e-12, rtol=0)


def test_sum_before_adds_up_what_was_drawn_before() -> None:
    subset = OrderedSubset(LOGITS.expand(2, -1), torch.tensor([3, 1]))
    ranking = torch.tensor([[3, 0, 4, 1, 2], [3, 0, 4, 1, 2]])
    found = subset.sum_before(REWARDS.expand(2, -1), ranking)
    first, second = REWARDS[3].item(), (REWARDS[3] + REWARDS[0]).item()
    expected = torch.tensor([[first, 0, 0, 0, second], [0, 0, 0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_as_a_baseline_it_leaves_the_policy_gradient_unbiased() -> None:
    logits = LOGITS.clone().requires_grad_()
    subset, ranking = every(logits, 3)
    steps, probability = subset.patch_log_prob(ranking), subset.log_prob(ranking).exp().detach()
    baseline = subset.patch_expectation(REWARDS.expand(len(ranking), -1), ranking)
    assert not baseline.requires_grad
    (gradient,) = torch.autograd.grad((probability[:, None] * baseline * steps).sum(), logits)
    torch.testing.assert_close(gradient, torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.slow
@given(problems())
@settings(max_examples=100)
def test_patch_expectation_lies_among_the_values_that_remained(problem: tuple[Tensor, Tensor, Tensor, int]) -> None:
    """For any logits: an agent without a bound may have such."""
    logits, count, excluded, seed = problem
    subset = OrderedSubset(logits, count, excluded)
    ranking = subset.sample(generator=generator(seed))
    values = 5 + torch.rand(logits.shape, generator=generator(seed))
    found = subset.patch_expectation(values, ranking)
    drawn = subset.subset(ranking)
    assert (found[~drawn] == 0).all()
    for row in range(len(logits)):
        for place in range(int(count[row])):
            open_to_draw = [i for i in ranking[row, place:].tolist() if not excluded[row, i]]
            remaining = values[row, open_to_draw]
            assert remaining.min() - 1e-3 <= found[row, ranking[row, place]] <= remaining.max() + 1e-3


def whole_entropy(logits: Tensor, count: int) -> Tensor:
    """Entropy of the ordered subsets, by their definition."""
    subset, ranking = every(logits, count)
    log_prob = subset.log_prob(ranking)
    return -(log_prob.exp() * log_prob).sum()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_entropy_is_on_average_that_of_the_whole_draw(count: int) -> None:
    subset, ranking = every(LOGITS, count)
    expected = (subset.log_prob(ranking).exp() * subset.entropy(ranking)).sum().item()
    assert expected == pytest.approx(whole_entropy(LOGITS, count).item(), abs=1e-12)


def test_entropy_along_a_ranking_is_that_of_its_draws() -> None:
    total, left = 0.0, [0, 1, 2, 3, 4]
    for patch in (3, 0, 4):
        odds = LOGITS[left].softmax(0)
        total -= (odds * odds.log()).sum().item()
        left.remove(patch)
    found = OrderedSubset(LOGITS[None], torch.tensor([3])).entropy(torch.tensor([[3, 0, 4, 1, 2]]))
    assert found.item() == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize(("patches", "count", "cosine"), [(4, 1, 1.0), (4, 2, 0.995), (5, 3, 0.988)])
def test_gradient_of_entropy_is_that_along_the_ranking_and_points_nearly_where_the_exact_one_does(
    patches: int, count: int, cosine: float
) -> None:
    """What a draw takes from the entropy of later ones is left out; for single draws there is no such thing."""
    logits = LOGITS[:patches].clone().requires_grad_()
    subset, ranking = every(logits, count)
    odds = subset.log_prob(ranking).exp().detach()

    def along(moved: Tensor) -> Tensor:
        return (odds * every(moved, count)[0].entropy(ranking)).sum()

    (gradient,) = torch.autograd.grad(along(logits), logits)
    torch.testing.assert_close(gradient, central_difference(along, LOGITS[:patches]), atol=1e-8, rtol=1e-6)
    exact = central_difference(lambda moved: whole_entropy(moved, count), LOGITS[:patches])
    assert torch.cosine_similarity(gradient, exact, 0).item() == pytest.approx(cosine, abs=1e-3)


def test_entropy_of_a_flat_map_is_the_largest() -> None:
    excluded = torch.tensor([[False] * 8, [True] * 3 + [False] * 5])
    subset = OrderedSubset(torch.full((2, 8), 1.7), torch.tensor([2, 2]), excluded)
    expected = pytest.approx([log(8 * 7), log(5 * 4)], abs=1e-5)
    assert subset.entropy(subset.sample(generator=generator())).tolist() == expected
    assert subset.largest_entropy().tolist() == expected


def test_mode_is_the_likeliest_ordered_subset() -> None:
    subset, ranking = every(LOGITS, 3)
    likeliest = ranking[subset.log_prob(ranking).argmax(), :3]
    assert OrderedSubset(LOGITS[None], torch.tensor([3])).mode[0, :3].tolist() == likeliest.tolist() == [2, 4, 0]


def test_a_generator_makes_draws_reproducible_and_torch_s_own_stays_as_it_is() -> None:
    subset = OrderedSubset(LOGITS.expand(50, -1), torch.full((50,), 3))
    before = torch.get_rng_state()
    draws = [subset.sample(generator=generator(seed)) for seed in (4, 4, 5)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_two_draws_of_one_generator_differ() -> None:
    subset, source = OrderedSubset(LOGITS.expand(50, -1), torch.full((50,), 3)), generator()
    assert not torch.equal(subset.sample(generator=source), subset.sample(generator=source))


def test_drawing_carries_no_gradient_and_scoring_does() -> None:
    logits = LOGITS.clone().requires_grad_()
    subset = OrderedSubset(logits[None], torch.tensor([2]))
    ranking = subset.sample(generator=generator())
    assert not ranking.requires_grad
    assert subset.log_prob(ranking).requires_grad
