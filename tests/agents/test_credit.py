"""What a draw or a bit is credited with, against the gradient of the reward: enumerated, two of four patches hidden."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiBinary
from torch import Tensor
from torch.distributions import Bernoulli

from agents import A3C, A2CSettings, A3CSettings
from agents.a3c import Step
from agents.agent import Problem
from agents.policy.networks import Maps
from agents.policy.subsets import OrderedSubset
from agents.sb3.patch_credit import PatchRolloutBuffer
from ahm_env.masks import mean_over

PLAIN = torch.tensor([0.3, 2.0, 1.1, 0.6], dtype=torch.float64)  # what four patches cost if nothing else is hidden
TOGETHER = torch.tensor([[0, 3, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.float64)
NONE = dict.fromkeys(("own_weight", "to_go_weight", "image_weight"), 0.0)
LOGITS = torch.tensor([0.4, -0.3, 1.0, -0.8], dtype=torch.float64)


def policy_gradient(together: Tensor, **weights: float) -> Tensor:
    """The expected gradient of the policy loss in the four logits, over all twelve ways to draw two of four patches.

    Args:
        together: `(4, 4)` what patch i costs more if j is hidden, too.
        weights: Of own, to_go and image.
    """
    rankings = torch.tensor([order for order in itertools.permutations(range(4)) if order[2] < order[3]])
    logits = LOGITS.repeat(12, 1).requires_grad_()
    policy = OrderedSubset(logits, torch.full((12,), 2))
    hidden = policy.subset(rankings)
    losses = PLAIN + hidden.double() @ together.T
    agent = A3C(Problem(1, 32, 2, (2, 2)), A3CSettings(**{**NONE, **weights}))
    agent.network.double()
    values = torch.tensor([0.7, 1.4, 0.2, 1.0], dtype=torch.float64).repeat(12, 1)  # any will do
    nothing = torch.zeros_like(hidden)
    step = Step(Maps(logits, values, None), policy, rankings, nothing, hidden, None)
    advantages = agent._advantages(step, losses, hidden).detach()
    log_pi = policy.patch_log_prob(rankings)
    odds = log_pi.sum(1).exp().detach()
    assert odds.sum().item() == pytest.approx(1)
    (odds * (advantages * log_pi).sum(1)).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return logits.grad.sum(0)


def gradient_of_the_reward(together: Tensor) -> Tensor:
    """The gradient of the expected mean loss of the two, which all credit should point along."""
    logits = LOGITS.clone().requires_grad_()
    odds, expected = logits.softmax(0), torch.zeros((), dtype=torch.float64)
    for first, second in itertools.permutations(range(4), 2):
        loss = PLAIN[first] + PLAIN[second] + together[first, second] + together[second, first]
        expected = expected + odds[first] * odds[second] / (1 - odds[first]) * loss / 2
    expected.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    return logits.grad


def cosine(together: Tensor, **weights: float) -> float:
    return torch.cosine_similarity(policy_gradient(together, **weights), gradient_of_the_reward(together), 0).item()


@pytest.mark.parametrize(
    "weights", [{"image_weight": 1.0}, {"to_go_weight": 1.0}, {"image_weight": 0.3, "to_go_weight": 2.0}]
)
def test_where_losses_add_up_image_and_to_go_point_along_the_gradient_of_the_reward(weights: Any) -> None:
    assert cosine(torch.zeros_like(TOGETHER), **weights) == pytest.approx(1, abs=1e-6)


def test_where_patches_affect_each_other_only_the_image_s_reward_does() -> None:
    assert cosine(TOGETHER, image_weight=1.0) == pytest.approx(1, abs=1e-6)
    others = {name: cosine(TOGETHER, **{name: 1.0}) for name in ("own_weight", "to_go_weight")}
    assert others == pytest.approx({"own_weight": 0.946, "to_go_weight": 0.994}, abs=1e-3)
    assert cosine(torch.zeros_like(TOGETHER), own_weight=1.0) == pytest.approx(0.938, abs=1e-3)


def gradients_of_draws(together: Tensor, drawn: int, kept: int, **weights: float) -> tuple[Tensor, Tensor]:
    """The expected gradient of so many draws, of what is credited and of the reward itself.

    Of the draws the environment keeps `kept` at random, and hides random patches in place of the others, as it does
    with a range of mask ratios and a share below 1.
    """
    rankings, chosen, hidden, odds = [], [], [], []
    for order in itertools.permutations(range(4)):
        keeps = list(itertools.combinations(order[:drawn], kept))
        for keep in keeps if list(order[drawn:]) == sorted(order[drawn:]) else []:
            fills = list(itertools.combinations(set(range(4)) - set(keep), drawn - kept))
            rankings += [order] * len(fills)
            chosen += [[i in keep for i in range(4)]] * len(fills)
            hidden += [[i in keep or i in fill for i in range(4)] for fill in fills]
            odds += [1 / len(keeps) / len(fills)] * len(fills)
    ranking, mask, count = torch.tensor(rankings), torch.tensor(hidden), len(odds)
    logits = LOGITS.clone().requires_grad_()
    policy = OrderedSubset(logits.repeat(count, 1), torch.full((count,), drawn))
    log_pi = policy.patch_log_prob(ranking)
    chance = torch.tensor(odds, dtype=torch.float64) * log_pi.sum(1).exp()
    assert chance.sum().item() == pytest.approx(1)
    agent = A3C(Problem(1, 32, 2, (drawn, drawn)), A3CSettings(**{**NONE, **weights}))
    agent.network.double()
    values = torch.tensor([0.7, 1.4, 0.2, 1.0], dtype=torch.float64).repeat(count, 1)  # any will do
    maps = Maps(policy.logits, values, None)
    step = Step(maps, policy, ranking, torch.zeros_like(mask), torch.tensor(chosen), None)
    losses = PLAIN + mask.double() @ together.T
    advantages = agent._advantages(step, losses, mask).detach()
    credited = (chance.detach() * mean_over(advantages * log_pi, step.chosen)).sum()
    reward = (chance * mean_over(losses, mask)).sum()
    found = [torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (credited, reward)]
    return found[0], found[1]


@pytest.mark.parametrize(
    ("drawn", "kept", "image", "to_go"), [(3, 3, 1, 1), (3, 2, 0.951, 0.946), (3, 1, 0.871, 0.871)]
)
def test_of_draws_that_are_partly_dropped_credit_points_nearly_along_the_gradient_of_the_reward(
    drawn: int, kept: int, image: float, to_go: float
) -> None:
    for weight, cosine in (("image_weight", image), ("to_go_weight", to_go)):
        found = gradients_of_draws(TOGETHER, drawn, kept, **{weight: 1.0})
        assert torch.cosine_similarity(*found, 0).item() == pytest.approx(cosine, abs=1e-3)


def test_a_draw_is_credited_with_all_that_is_hidden_but_what_was_chosen_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Patches 0, 1 and 2 are drawn in this order; 1 is dropped, and 3 is hidden at random."""
    agent = A3C(Problem(1, 32, 2, (3, 3)), A3CSettings(**{**NONE, "to_go_weight": 1.0}))
    monkeypatch.setattr(agent.network.to_go, "standardise", lambda numbers, counted: numbers)
    policy = OrderedSubset(torch.zeros(1, 4), torch.tensor([3]))
    hidden, chosen = torch.tensor([[True, False, True, True]]), torch.tensor([[True, False, True, False]])
    maps = Maps(policy.logits, torch.ones(1, 4), None)  # of every patch, a loss of 1 is expected
    step = Step(maps, policy, torch.arange(4)[None], torch.zeros_like(hidden), chosen, None)
    credit = agent._advantages(step, torch.tensor([[5.0, 70.0, 11.0, 2.0]]), hidden)
    assert credit[chosen].tolist() == pytest.approx([5 + 11 + 2 - 3, 11 + 2 - 2])


def outcomes() -> list[tuple[list[int], list[int], float]]:
    """All masks of two that the environment makes of four bits: bits, mask and the odds of that mask given the bits."""
    found = []
    for bits in itertools.product((0, 1), repeat=4):
        ones = {i for i in range(4) if bits[i]}
        fitting = [set(two) for two in itertools.combinations(range(4), 2) if ones <= set(two) or set(two) <= ones]
        found += [(list(bits), [int(i in two) for i in range(4)], 1 / len(fitting)) for two in fitting]
    return found


def gradients_of_bits(together: Tensor, **weights: float) -> tuple[Tensor, Tensor]:
    """The expected gradient in the logits of four independent bits, of what is credited and of the reward itself."""
    bits, masks, odds = (torch.tensor(column, dtype=torch.float64) for column in zip(*outcomes(), strict=True))
    logits = LOGITS.clone().requires_grad_()
    log_prob = Bernoulli(logits=logits).log_prob(bits)
    losses = PLAIN + masks @ together.T
    reward = (losses * masks).sum(1) / 2
    final = {"patch_loss": losses.numpy(), "mask": masks.numpy() == 1, "chosen": (masks * bits).numpy() == 1}
    space = Box(0, 255, (1, 2, 2), np.uint8), MultiBinary(4)
    told: Any = {"infos": lambda: {"final_info": final}, "settings": A2CSettings(**weights)}
    buffer = PatchRolloutBuffer(1, *space, n_envs=len(bits), **told)
    flat, shown = torch.zeros(len(bits)), np.zeros((len(bits), 1, 2, 2))
    buffer.add(shown, bits.numpy(), reward.numpy(), flat.numpy(), flat, log_prob.detach())
    buffer.compute_returns_and_advantage(flat, np.ones(len(bits)))
    odds = odds * log_prob.sum(1).exp()
    assert odds.sum().item() == pytest.approx(1)
    credited = (odds.detach() * (torch.from_numpy(buffer.advantages[0]) * log_prob).sum(1)).sum()
    found = [torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (credited, (odds * reward).sum())]
    return found[0], found[1]


@pytest.mark.parametrize("together", [torch.zeros_like(TOGETHER), TOGETHER])
def test_bits_that_share_the_image_s_advantage_point_along_the_gradient_of_the_reward(together: Tensor) -> None:
    found = gradients_of_bits(together, own_weight=0.0, image_weight=1.0)
    assert torch.cosine_similarity(*found, 0).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("together", "image_weight", "draws", "reward"),
    [
        (torch.zeros_like(TOGETHER), 0.0, 0.989, 0.967),
        (TOGETHER, 0.0, 0.619, 0.363),
        (torch.zeros_like(TOGETHER), 2.0, 0.985, 0.997),
        (TOGETHER, 2.0, 0.969, 0.951),
    ],
)
def test_credit_of_bits_points_where_that_of_draws_does(
    together: Tensor, image_weight: float, draws: float, reward: float
) -> None:
    """Where losses add up, nearly; what two patches cost only together, the mean of the image takes off again."""
    weights = {"own_weight": 1.0, "image_weight": image_weight}
    credited, exact = gradients_of_bits(together, **weights)
    found = [torch.cosine_similarity(credited, one, 0).item() for one in (policy_gradient(together, **weights), exact)]
    assert found == pytest.approx([draws, reward], abs=1e-3)
