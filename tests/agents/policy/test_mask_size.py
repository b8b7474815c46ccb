"""The choice of a mask size: drawn, explored, and its loss by hand. What is learned by it is in test_a3c.py."""

from math import exp, log

import pytest
import torch

from agents.policy.mask_size import SizeChoice, SizeHead

QUOTAS = torch.tensor([4, 8, 12])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_sizes_are_drawn_by_their_odds_or_the_likeliest() -> None:
    logits = torch.tensor([[0.0, log(3.0), -1e4]]).expand(4000, -1)
    drawn = SizeHead(2, QUOTAS).draw(logits, generator())
    assert drawn.bincount(minlength=3).tolist() == [pytest.approx(1000, abs=120), pytest.approx(3000, abs=120), 0]
    assert SizeHead(2, QUOTAS).draw(logits, generator(), deterministic=True).unique().tolist() == [1]


def test_exploration_takes_its_share_and_prefers_no_size() -> None:
    logits = torch.tensor([[0.0, 0.0, 1e4]]).expand(6000, -1)
    choice = SizeHead(2, QUOTAS).explore(logits, 0.25, generator())
    assert choice.explores.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert choice.size[~choice.explores].unique().tolist() == [2]
    counts = choice.size[choice.explores].bincount(minlength=3)
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.05)


def test_running_means_are_of_those_that_explore_alone() -> None:
    head, logits = SizeHead(2, QUOTAS), torch.zeros(3, 3)
    choice = SizeChoice(logits, torch.tensor([0, 0, 2]), torch.tensor([True, False, True]))
    head.observe(choice, torch.tensor([2.0, 9.0, 5.0]))
    assert head.random_reward.tolist() == [2.0, 0.0, 5.0]  # the first is taken as it is
    head.observe(choice, torch.tensor([4.0, 9.0, 5.0]))
    assert head.random_reward.tolist() == pytest.approx([2.1, 0.0, 5.0])


def test_the_loss_by_hand() -> None:
    """Rewards over random ones 3 and 1, their mean 2; who explores, and a size of which nothing is known, stay out."""
    head = SizeHead(2, QUOTAS)
    head.random_reward.copy_(torch.tensor([1.0, 2.0, 0.0]))
    logits = torch.tensor([[1.0, 0.0, 0.0]] * 4)
    choice = SizeChoice(logits.log_softmax(-1), torch.tensor([0, 1, 0, 2]), torch.tensor([False, False, True, False]))
    log_pi = [1 - log(exp(1) + 2), -log(exp(1) + 2)]
    loss = head.loss(choice, torch.tensor([3.0, 2.0, 100.0, 100.0]))
    assert loss.item() == pytest.approx(-(1 * log_pi[0] - 1 * log_pi[1]) / 4)


def test_the_entropy_of_even_odds_is_the_largest() -> None:
    choice = SizeChoice(torch.zeros(2, 3).log_softmax(-1), torch.zeros(2), torch.zeros(2))
    assert choice.entropy().item() == pytest.approx(log(3))
