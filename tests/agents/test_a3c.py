"""A3C: gradients, credit, returns, sizes, and that it learns what it should, on problems made up for the purpose."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

import agents.a3c
from agents import A3C, A3CSettings
from agents.agent import Update
from agents.baselines import UntrainedAgent
from agents.pretraining.hardness import measure
from ahm_env import (
    ImageSet,
    MaskRatio,
    PatchMaskEnv,
    PatchMaskVectorEnv,
    Reconstructor,
    SettingsError,
    TrainingError,
)
from tests.agents.toys import HARD, hard_three_times, snapshot, updates

Pixels = npt.NDArray[np.uint8]
Toy = Any  # the class ToyEnv of conftest.py
Losses = Callable[[Any, Any], Any]


class noisy:  # noqa: N801 (reads as a function)
    """The same losses, each up to a fifth larger or smaller."""

    def __init__(self, losses: Losses, seed: int = 1) -> None:
        self.losses, self.rng = losses, np.random.default_rng(seed)

    def __call__(self, kinds: Any, masks: Any) -> Any:
        return self.losses(kinds, masks) * self.rng.uniform(0.8, 1.2, masks.shape)


def equal_losses(kinds: Any, masks: Any) -> Any:
    return np.ones(masks.shape)


def weights(agent: A3C) -> Tensor:
    return torch.cat([weight.flatten() for weight in agent.network.parameters()]).detach().clone()


def policy_of(agent: A3C, images: Pixels) -> Tensor:
    return torch.from_numpy(agent.maps(images)[0])


def size_odds(agent: A3C, images: Pixels) -> Tensor:
    with torch.no_grad():
        sizes = agent.network(torch.from_numpy(images).float()).sizes
    assert sizes is not None
    return sizes.softmax(1)


def value_map_of_one(agent: A3C) -> None:
    """Make V exactly 1 everywhere, so that losses can be computed by hand."""
    torch.nn.init.zeros_(agent.network.value.weight)
    assert agent.network.value.bias is not None
    torch.nn.init.zeros_(agent.network.value.bias)


def sharpen(agent: A3C, images: Pixels) -> None:
    """Bring the policy map far from uniform."""
    agent.settings = replace(agent.settings, bound=None)
    agent.network.policy.weight.data.div_(policy_of(agent, images).std())


# ---------------------------------------------------------------- gradients reach the networks


@pytest.mark.parametrize("quota", [4, (4, 12)])
def test_one_update_gives_every_network_a_gradient_and_moves_it(toy_env: Toy, textures: Pixels, quota: Any) -> None:
    env = toy_env(textures, noisy(hard_three_times), quota=quota, num_envs=16)
    agent = A3C(env, A3CSettings(ent_coef=0.0))  # which would reach the policy by another way
    before = {name: weight.detach().clone() for name, weight in agent.network.named_parameters()}
    agent.learn(env, 16)
    assert {name.partition(".")[0] for name in before} >= {"phi", "policy", "value"} | (
        set() if isinstance(quota, int) else {"size"}
    )
    for name, weight in agent.network.named_parameters():
        if name in ("policy.bias",):  # the same for every patch: a softmax does not see it
            continue
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name
        assert weight.grad.abs().max() > 0, name
        assert not torch.equal(weight, before[name]), name


def test_without_anything_to_choose_the_value_map_still_learns(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, hard_three_times, agent_share=0.0)
    agent = A3C(env)
    value = agent.network.value.weight.detach().clone()
    reports = updates(agent, env, 16)
    assert [report.policy_loss for report in reports] == [0.0, 0.0]
    assert torch.isfinite(weights(agent)).all()
    assert not torch.equal(agent.network.value.weight, value)
    assert not np.any(env.actions)


def test_the_gradient_is_shortened_to_the_largest_norm(toy_env: Toy, textures: Pixels) -> None:
    norms = []
    for largest in (1e9, 1e-3):
        env = toy_env(textures, noisy(hard_three_times))
        agent = A3C(env, A3CSettings(max_grad_norm=largest))
        agent.learn(env, 8)
        norms.append(torch.nn.utils.get_total_norm([w.grad for w in agent.network.parameters() if w.grad is not None]))
    assert norms[0] > 2e-3
    assert norms[1].item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.slow
def test_the_step_size_does_not_change_by_itself(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, hard_three_times)
    agent = A3C(env, A3CSettings(learning_rate=3e-4))
    agent.learn(env, 8 * 20)
    assert [group["lr"] for group in agent.optimiser.param_groups] == [3e-4]


# ---------------------------------------------------------------- actions


@dataclass
class Recorded:
    """A step of an environment: how many ones were called for, the action, and what was hidden by choice in it."""

    choosable: npt.NDArray[np.int64]
    action: npt.NDArray[np.int8]
    hidden_before: npt.NDArray[np.bool_]
    newly_chosen: npt.NDArray[np.bool_]


class RecordingEnv(PatchMaskVectorEnv):
    """The product's environment, which writes down what happens in it."""

    def reset(self, **kwargs: Any) -> Any:
        observations, self.infos = super().reset(**kwargs)
        self.record: list[Recorded] = []
        return observations, self.infos

    def step(self, actions: Any) -> Any:
        before = self.infos
        outcome = super().step(actions)
        self.infos = outcome[4]
        last = self.infos.get("final_info", self.infos)
        chosen = (last["chosen"] & ~before["chosen"]).reshape(self.num_envs, -1)
        hidden = before["mask"].reshape(self.num_envs, -1)
        self.record.append(Recorded(before["choosable"], actions.copy(), hidden, chosen))
        return outcome


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_an_action_has_as_many_ones_as_may_be_chosen_and_all_are_hidden(
    phantoms: ImageSet, reconstructor: Reconstructor, horizon: int, share: float
) -> None:
    env = RecordingEnv(4, data=phantoms, unet=reconstructor, mask_ratio=0.5, horizon=horizon, agent_share=share)
    A3C(env).learn(env, 8)
    assert len(env.record) == 2 * horizon
    for step in env.record:
        assert step.action.sum(1).tolist() == step.choosable.tolist()
        assert not (step.action.astype(bool) & step.hidden_before).any()
        assert np.array_equal(step.action.astype(bool), step.newly_chosen)
    assert sum(step.action.sum() for step in env.record) == 8 * round(share * 8)


def test_a_change_of_the_chosen_share_does_not_part_the_action_from_what_is_done(
    phantoms: ImageSet, reconstructor: Reconstructor
) -> None:
    env = RecordingEnv(4, data=phantoms, unet=reconstructor, mask_ratio=0.5, agent_share=0.0)
    shares = iter([0.5, 1.0, 0.25, 0.75, 0.0, 1.0])

    def after(_: Update) -> bool:
        env.agent_share = next(shares)
        return True

    A3C(env).learn(env, 4 * 6, after)
    assert len({int(step.choosable[0]) for step in env.record}) > 3
    for step in env.record:
        assert np.array_equal(step.action.astype(bool), step.newly_chosen)


def test_with_a_ratio_range_an_action_has_one_of_the_sizes(phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    env = RecordingEnv(8, data=phantoms, unet=reconstructor, mask_ratio="0.25:0.75")
    agent = A3C(env, A3CSettings(sizes=3))
    assert agent.network.size.quotas.tolist() == [4, 8, 12]
    agent.learn(env, 64)
    assert {int(count) for step in env.record for count in step.action.sum(1)} == {4, 8, 12}
    assert all(np.array_equal(step.action.astype(bool), step.newly_chosen) for step in env.record)


def test_the_likeliest_mask_is_the_top_k_of_the_policy_map(toy_env: Toy, textures: Pixels) -> None:
    agent = A3C(toy_env(textures, equal_losses))
    top = policy_of(agent, textures).topk(4).indices.sort(1).values
    masks = agent.predict(textures, deterministic=True)
    assert masks.dtype == np.int8
    assert [np.flatnonzero(mask).tolist() for mask in masks] == top.tolist()


def test_the_likeliest_size_is_that_of_the_size_head(toy_env: Toy, textures: Pixels) -> None:
    agent = A3C(toy_env(textures, equal_losses, quota=(4, 12)), A3CSettings(sizes=3))
    assert agent.network.size is not None
    for preferred, ones in ((0, 4), (1, 8), (2, 12)):
        torch.nn.init.zeros_(agent.network.size.bias)
        agent.network.size.bias.data[preferred] = 5.0
        assert agent.predict(textures, deterministic=True).sum(1).tolist() == [ones, ones]


@pytest.mark.slow
def test_sampled_masks_vary_and_hide_each_patch_as_often_as_its_odds_say(toy_env: Toy, textures: Pixels) -> None:
    agent = A3C(toy_env(textures, equal_losses, quota=1))
    sharpen(agent, textures[:1])
    odds = policy_of(agent, textures[:1]).softmax(1)[0].numpy()
    masks = agent.predict(np.repeat(textures[:1], 4000, 0))
    assert odds.max() > 2 * odds.min()
    assert np.abs(masks.mean(0) - odds).max() < 4 * np.sqrt(odds.max() / 4000)


def test_act_hides_what_is_choosable_and_never_what_is_hidden(toy_env: Toy, textures: Pixels) -> None:
    agent = A3C(toy_env(textures, equal_losses, quota=8, horizon=2))
    hidden = np.zeros((2, 4, 4), bool)
    hidden[0, :2], hidden[1, :, 3] = True, True
    infos = {"mask": hidden, "choosable": np.array([3, 0])}
    for deterministic in (False, True):
        for _ in range(20):
            masks = agent.predict(textures, deterministic, infos)
            assert masks.sum(1).tolist() == [3, 0]
            assert not (masks.astype(bool) & hidden.reshape(2, -1)).any()


def test_act_with_a_generator_leaves_the_agent_s_own_as_it_is(toy_env: Toy, textures: Pixels) -> None:
    agent = A3C(toy_env(textures, equal_losses, quota=(4, 12)))
    before, torch_before = agent.generator.get_state(), torch.get_rng_state()
    masks = [agent.predict(textures, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert np.array_equal(*masks)
    agent.predict(textures, deterministic=True)
    assert torch.equal(agent.generator.get_state(), before)
    agent.predict(textures)
    assert not torch.equal(agent.generator.get_state(), before)
    assert torch.equal(torch.get_rng_state(), torch_before)


# ---------------------------------------------------------------- credit


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 2])
def test_what_visible_patches_cost_changes_nothing_and_what_hidden_ones_cost_does(
    toy_env: Toy, textures: Pixels, horizon: int
) -> None:
    def learned(visible: float, hidden: float) -> Tensor:
        def losses(kinds: Any, masks: Any) -> Any:
            pattern = np.arange(16) % 5
            return np.where(masks, 1 + hidden * pattern, visible * (7 - pattern))

        env = toy_env(textures, losses, horizon=horizon, agent_share=0.75)
        agent = A3C(env)
        agent.learn(env, 8 * 5)
        return weights(agent)

    assert torch.equal(learned(visible=0.0, hidden=1.0), learned(visible=9.0, hidden=1.0))
    assert not torch.equal(learned(visible=0.0, hidden=1.0), learned(visible=0.0, hidden=-0.2))


def test_randomly_hidden_patches_get_no_policy_credit(toy_env: Toy, textures: Pixels) -> None:
    """The same losses over a mask, of which none or all was chosen: without a choice the policy head stays."""
    for share, moves in ((0.0, False), (1.0, True)):
        env = toy_env(textures, noisy(hard_three_times), agent_share=share)
        agent = A3C(env, A3CSettings(ent_coef=0.0))
        before = agent.network.policy.weight.detach().clone()
        agent.learn(env, 8)
        assert torch.equal(agent.network.policy.weight, before) is not moves


def test_the_policy_loss_scores_what_was_drawn_in_the_order_in_which_it_was_drawn(
    toy_env: Toy, textures: Pixels
) -> None:
    """One image, V = 1: −mean over the four drawn of (r̂_i − b) · log p(i | drawn before), computed in NumPy."""
    costs = np.random.default_rng(3).uniform(0.5, 3, 16)
    env = toy_env(textures[:1], lambda kinds, masks: np.broadcast_to(costs, masks.shape), num_envs=1)
    agent = A3C(env)
    value_map_of_one(agent)
    sharpen(agent, textures[:1])
    logits = policy_of(agent, textures[:1])[0].double().numpy()
    (report,) = updates(agent, env, 1)

    drawn = np.flatnonzero(env.actions[0][0])
    earned = costs[drawn] / costs[drawn].mean()
    advantage = dict(zip(drawn.tolist(), (earned - 1) / earned.std(), strict=True))
    by_order = set()
    for order in _orders(drawn.tolist()):
        left, total = list(range(16)), 0.0
        for patch in order:
            log_prob = logits[patch] - np.log(np.exp(logits[left]).sum())
            total -= advantage[patch] * log_prob / len(drawn)
            left.remove(patch)
        by_order.add(round(total, 4))
    assert len(by_order) > 12  # the order matters
    assert min(abs(report.policy_loss - total) for total in by_order) < 2e-4


def _orders(patches: list[int]) -> list[list[int]]:
    if not patches:
        return [[]]
    return [[first, *rest] for first in patches for rest in _orders([p for p in patches if p != first])]


def test_the_image_s_reward_is_compared_with_that_of_the_other_images(toy_env: Toy, textures: Pixels) -> None:
    """One patch is hidden, V = 1: with weight λ the policy loss grows by −λ · mean of z · log p, z standardised."""
    costs, found = np.random.default_rng(3).uniform(0.5, 3, 16), {}
    for weight in (0.0, 2.0):
        env = toy_env(textures, lambda kinds, masks: np.broadcast_to(costs, masks.shape), quota=1, num_envs=6)
        agent = A3C(env, A3CSettings(image_weight=weight))
        value_map_of_one(agent)
        sharpen(agent, textures)
        log_odds = policy_of(agent, textures).log_softmax(1).double().numpy()
        (report,) = updates(agent, env, 6)
        found[weight] = report.policy_loss
    drawn = env.masks[0].argmax(1)
    z = (costs[drawn] - costs[drawn].mean()) / costs[drawn].std()
    expected = -2.0 * (z * log_odds[env.kinds[0], drawn]).mean()
    assert abs(expected) > 0.1
    assert found[2.0] - found[0.0] == pytest.approx(expected, rel=0.02)


def test_every_step_of_an_episode_is_paid_what_its_end_cost(toy_env: Toy, textures: Pixels) -> None:
    """Every patch costs 2; V = 1.5 in units of the mean loss: at each of three steps the error is 1 - 1.5."""
    env = toy_env(textures, lambda kinds, masks: 2 * np.ones(masks.shape), quota=6, horizon=3)
    agent = A3C(env, A3CSettings(vf_coef=0.5))
    value_map_of_one(agent)
    torch.nn.init.constant_(agent.network.value.bias, 0.5)
    (report,) = updates(agent, env, 8)
    assert report.value_loss == pytest.approx(0.5 * 0.5**2, rel=1e-4)
    assert report.reward == pytest.approx(2.0)


def test_the_value_loss_counts_hidden_patches_only(toy_env: Toy, textures: Pixels) -> None:
    costs = np.arange(1.0, 17.0)
    env = toy_env(textures[:1], lambda kinds, masks: np.broadcast_to(costs, masks.shape), num_envs=1)
    agent = A3C(env, A3CSettings(vf_coef=0.5))
    value_map_of_one(agent)
    (report,) = updates(agent, env, 1)
    hidden = costs[env.masks[0][0]]
    assert report.value_loss == pytest.approx(0.5 * np.square(hidden / hidden.mean() - 1).mean(), rel=1e-4)


@pytest.mark.parametrize(("progress", "bound", "temperature"), [(0.0, 2.0, 1.0), (0.5, 3.5, 0.75), (1.0, 5.0, 0.5)])
def test_bound_and_temperature_change_over_a_run(
    toy_env: Toy, textures: Pixels, progress: float, bound: float, temperature: float
) -> None:
    env = toy_env(textures, equal_losses)
    agent, plain = A3C(env, A3CSettings(bound="2:5", temperature="1:0.5")), A3C(env, A3CSettings(bound=None))
    for one in (agent, plain):
        one.network.policy.weight.data.mul_(3000)
    agent.progress = progress
    free = policy_of(plain, textures)
    torch.testing.assert_close(policy_of(agent, textures), bound * torch.tanh(free / bound) / temperature)


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.8), (0.5, 0.5), (1.0, 0.2)])
def test_the_entropy_term_is_the_mean_entropy_of_a_draw_and_its_weight_changes_over_a_run(
    toy_env: Toy, textures: Pixels, progress: float, weight: float
) -> None:
    """A flat map of 16 patches, of which 4 are drawn: (log 16 + log 15 + log 14 + log 13) / 4 nats."""
    env = toy_env(textures, equal_losses)
    agent = A3C(env, A3CSettings(ent_coef="0.8:0.2"))
    agent.progress = progress
    torch.nn.init.zeros_(agent.network.policy.weight)
    found: list[dict[str, Tensor]] = []
    agent._losses, losses = lambda *args: found.append(losses(*args)) or found[-1], agent._losses
    (report,) = updates(agent, env, 8)
    assert found[0]["entropy"].item() == pytest.approx(-weight * np.log([16, 15, 14, 13]).mean(), rel=1e-5)
    assert report.entropy == pytest.approx(1, abs=1e-5)


# ---------------------------------------------------------------- what it learns


@dataclass
class Lesson:
    """An agent after it has learned, and the problem it learned on."""

    agent: A3C
    env: Any
    reports: list[Update]


@pytest.fixture(scope="module")
def lesson(toy_env: Toy, textures: Pixels) -> Lesson:
    """Own credit only, a strong entropy: with a patch's own value as baseline nothing is left to hold the policy."""
    env = toy_env(textures, noisy(hard_three_times))
    agent = A3C(env, A3CSettings(image_weight=0.0, ent_coef=0.05))
    return Lesson(agent, env, updates(agent, env, 8 * 250))


def hardness(env: Any, first: int, last: int) -> float:
    """Mean reward of these batches over that of random masks, of which a quarter of the patches are hard."""
    return float(np.mean(env.rewards[first:last]) / 1.5)


@pytest.mark.slow
def test_it_learns_to_hide_what_is_hard_and_goes_on_hiding_it(lesson: Lesson) -> None:
    assert hardness(lesson.env, 0, 5) < 1.2
    assert hardness(lesson.env, 100, 150) > 1.6
    assert hardness(lesson.env, 200, 250) > 1.6  # as its values become right, the advantages must not become noise


@pytest.mark.slow
def test_the_policy_map_is_high_where_patches_are_hard(lesson: Lesson, textures: Pixels) -> None:
    logits = lesson.agent.maps(textures)[0]
    assert logits[HARD].min() > logits[~HARD].max()
    for kind in (0, 1):
        mask = lesson.agent.predict(textures[kind : kind + 1], deterministic=True)[0]
        assert np.array_equal(mask.astype(bool), HARD[kind])  # 1 hides


@pytest.mark.slow
def test_policy_maps_of_different_images_differ(lesson: Lesson, textures: Pixels) -> None:
    logits = lesson.agent.maps(textures)[0]
    assert np.corrcoef(logits)[0, 1] < 0.2


@pytest.mark.slow
def test_the_value_map_tells_what_a_patch_costs_if_it_is_hidden(lesson: Lesson, textures: Pixels) -> None:
    values = lesson.agent.maps(textures)[1]
    assert values[HARD].mean() > 2 * values[~HARD].mean()
    costs = lesson.agent.network.mean_loss.item() * values
    assert costs[HARD] == pytest.approx(3.0, rel=0.3)


@pytest.mark.slow
def test_reported_entropy_is_a_share_of_the_largest(lesson: Lesson) -> None:
    entropies = [report.entropy for report in lesson.reports]
    assert 0 <= min(entropies) < 0.9
    assert 0.99 < max(entropies) <= 1 + 1e-6


@pytest.mark.slow
def test_reported_numbers_are_finite(lesson: Lesson) -> None:
    for report in lesson.reports:
        assert report.images == 8
        assert np.isfinite([report.reward, report.unet_loss, report.policy_loss, report.value_loss]).all()


@pytest.mark.slow
def test_without_any_difference_between_patches_the_policy_stays_varied(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, noisy(equal_losses))
    agent = A3C(env)
    reports = updates(agent, env, 8 * 150)
    assert reports[-1].entropy > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("ent_coef", "low", "high"), [(0.0, 0.0, 0.85), (5.0, 0.95, 1.01)])
def test_the_entropy_term_keeps_masks_varied(
    toy_env: Toy, textures: Pixels, ent_coef: float, low: float, high: float
) -> None:
    env = toy_env(textures, noisy(hard_three_times))
    agent = A3C(env, A3CSettings(ent_coef=ent_coef))
    assert low <= updates(agent, env, 8 * 100)[-1].entropy <= high


PAIRS = np.array([[5, 6], [2, 13]])


@pytest.mark.slow
@pytest.mark.parametrize("num_envs", [8, 1])
def test_it_hides_two_patches_together_if_only_together_they_are_hard(
    toy_env: Toy, textures: Pixels, num_envs: int
) -> None:
    """A pair, another in each kind of image, of which one costs little while the other is to be seen."""

    def losses(kinds: Any, masks: Any) -> Any:
        rows, costs = np.arange(len(kinds))[:, None], np.ones(masks.shape)
        both = masks[rows, PAIRS[kinds]].all(1, keepdims=True)
        costs[rows, PAIRS[kinds]] = np.where(both, 4.0, 0.5)
        return costs

    env = toy_env(textures, noisy(losses), quota=8, num_envs=num_envs)
    A3C(env, A3CSettings(image_weight=1.0)).learn(env, 8 * 150)
    masks, kinds = np.concatenate(env.masks), np.concatenate(env.kinds)
    together = masks[np.arange(len(masks))[:, None], PAIRS[kinds]].all(1)
    assert together[:40].mean() < 0.5  # 8 · 7 / (16 · 15) by chance
    assert together[-160:].mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [2, 3])
def test_it_learns_over_several_steps(toy_env: Toy, textures: Pixels, horizon: int) -> None:
    env = toy_env(textures, noisy(hard_three_times), quota=6, horizon=horizon)
    agent = A3C(env, A3CSettings(image_weight=0.5))
    agent.learn(env, 8 * 120)
    assert hardness(env, 100, 120) > 1.3  # 1.56 is the most
    assert torch.isfinite(weights(agent)).all()


@pytest.mark.slow
@pytest.mark.parametrize("credit", ["own_weight", "to_go_weight", "image_weight"])
def test_it_learns_from_each_kind_of_credit_alone(toy_env: Toy, textures: Pixels, credit: str) -> None:
    nothing = dict.fromkeys(("own_weight", "to_go_weight", "image_weight"), 0.0)
    env = toy_env(textures, noisy(hard_three_times))
    A3C(env, A3CSettings(**{**nothing, credit: 1.0})).learn(env, 8 * 200)
    masks, kinds = np.concatenate(env.masks), np.concatenate(env.kinds)
    found = (masks & HARD[kinds]).sum(1)
    assert found[:40].mean() < 1.5  # 1 of 4 by chance
    assert found[-160:].mean() > 2


@pytest.mark.slow
def test_it_learns_to_hide_a_single_patch_and_goes_on(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, noisy(hard_three_times), quota=1)
    agent = A3C(env)
    reports = updates(agent, env, 8 * 200)
    assert hardness(env, 150, 200) > 1.6  # 2 is the most
    assert max(abs(report.policy_loss) for report in reports) < 1000  # a spread of 0 must not be divided by


def test_where_all_patches_cost_the_same_the_update_stays_small(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, equal_losses)
    reports = updates(A3C(env), env, 8 * 3)
    assert max(abs(report.policy_loss) for report in reports) < 100


@pytest.mark.slow
def test_hardness_on_held_out_images_rises_above_1_and_that_of_a_frozen_policy_does_not(
    phantoms: ImageSet, reconstructor: Reconstructor
) -> None:
    shown, held_out = np.arange(28), np.arange(28, 40)
    found = {}
    for kind in (A3C, UntrainedAgent):
        env = PatchMaskVectorEnv(8, data=phantoms, indices=shown.tolist(), unet=reconstructor, mask_ratio=0.25)
        env.reset(seed=0)
        agent = kind(env)
        agent.learn(env, 8 * 120)
        measured = measure(agent, reconstructor, phantoms, held_out, MaskRatio.parse(0.25), draws=20).sampled
        found[kind.name] = measured.hardness
    assert found["a3c"] > 1.25
    assert found["untrained"] == pytest.approx(1, abs=0.1)


# ---------------------------------------------------------------- mask sizes


@pytest.mark.slow
def test_it_learns_the_size_at_which_it_beats_random_masks_most(toy_env: Toy, textures: Pixels) -> None:
    """Four patches are hard. To hide just them earns 5 where random masks earn 2; larger masks earn more, but
    random masks of their size do so as well.
    """

    def losses(kinds: Any, masks: Any) -> Any:
        return np.where(HARD[kinds], 5.0, 1.0) * masks.sum(1, keepdims=True)

    env = toy_env(textures, noisy(losses), quota=(4, 12))
    agent = A3C(env, A3CSettings(sizes=3))
    assert size_odds(agent, textures).max() < 0.36
    agent.learn(env, 8 * 250)
    assert size_odds(agent, textures)[:, 0].min() > 0.6


@pytest.mark.slow
def test_a_loss_that_only_grows_with_the_size_of_the_mask_teaches_no_size(toy_env: Toy, textures: Pixels) -> None:
    """At every size the agent earns what random masks earn: no size is to be preferred, the largest least of all."""
    env = toy_env(textures, noisy(lambda kinds, masks: masks.sum(1, keepdims=True) * np.ones(masks.shape)), (4, 12))
    agent = A3C(env, A3CSettings(sizes=3))
    for _ in range(3):
        agent.learn(env, 8 * 50)
        assert size_odds(agent, textures).max() < 0.8


@pytest.mark.slow
def test_it_knows_what_random_masks_of_each_size_earn(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, lambda kinds, masks: masks.sum(1, keepdims=True) * np.ones(masks.shape), (4, 12))
    agent = A3C(env, A3CSettings(sizes=3, explore=0.5))
    agent.learn(env, 8 * 100)
    assert agent.network.size.random_reward.tolist() == pytest.approx([4.0, 8.0, 12.0], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 2])
def test_what_random_masks_earn_is_not_measured_with_the_agent_s_own(
    toy_env: Toy, textures: Pixels, horizon: int
) -> None:
    """Random masks earn 2 whatever their size; the agent's are better and must not count."""

    def losses(kinds: Any, masks: Any) -> Any:
        return np.where(HARD[kinds], 5.0, 1.0)

    env = toy_env(textures, losses, quota=(4, 12), horizon=horizon)
    agent = A3C(env, A3CSettings(sizes=3, explore=0.25))
    agent.learn(env, 8 * 150)
    assert agent.network.size.random_reward.tolist() == pytest.approx([2.0, 2.0, 2.0], rel=0.2)


@pytest.mark.slow
def test_over_several_steps_it_knows_it_too(toy_env: Toy, textures: Pixels) -> None:
    """The first action says how much is hidden in all; what later actions hold says nothing of it."""
    env = toy_env(textures, lambda kinds, masks: masks.sum(1, keepdims=True) * np.ones(masks.shape), (4, 12), horizon=2)
    agent = A3C(env, A3CSettings(sizes=3, explore=0.5))
    agent.learn(env, 8 * 100)
    assert agent.network.size.random_reward.tolist() == pytest.approx([4.0, 8.0, 12.0], rel=0.05)


# ---------------------------------------------------------------- asynchronous, deterministic, resumable


def test_gradients_of_the_copy_are_applied_to_the_shared_weights(toy_env: Toy, textures: Pixels) -> None:
    """Another worker moves the shared weights by 1 while this one plays: its gradient belongs to the old ones."""
    settings = A3CSettings(learning_rate=1e-3)
    alone_env, env = (toy_env(textures, noisy(hard_three_times)) for _ in range(2))
    alone, agent = A3C(alone_env, settings), A3C(env, settings)
    before = weights(alone)
    undisturbed = updates(alone, alone_env, 8)

    def another_worker(_: Any) -> None:
        with torch.no_grad():
            for weight in agent.network.parameters():
                weight.add_(1.0)

    env.on_step = another_worker
    disturbed = updates(agent, env, 8)
    assert disturbed == undisturbed
    step = weights(alone) - before
    assert 0 < step.abs().max() <= 1.001e-3
    torch.testing.assert_close(weights(agent), before + 1.0 + step, atol=1e-6, rtol=0)


def test_every_rollout_begins_with_the_shared_weights_as_they_are(toy_env: Toy, textures: Pixels) -> None:
    """Between two rollouts another worker sets V to 6; where losses are 1, the next value loss is ½(1 − 6)²."""
    env = toy_env(textures, equal_losses)
    agent = A3C(env, A3CSettings(vf_coef=0.5, learning_rate=1e-9))
    value_map_of_one(agent)
    value_losses = []

    def after(update: Update) -> bool:
        value_losses.append(update.value_loss)
        assert agent.network.value.bias is not None
        agent.network.value.bias.data.fill_(5.0)
        return True

    agent.learn(env, 16, after)
    assert value_losses == pytest.approx([0.0, 12.5], abs=1e-4)


def test_shared_memory_holds_weights_and_moments(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, noisy(hard_three_times), quota=(4, 12))
    agent = A3C(env)
    agent.share_memory()
    tensors = {name: tensor for name, tensor in agent.state().items() if name != "generator"}
    assert any(name.startswith("optimiser.") for name in tensors)
    assert all(tensor.is_shared() for tensor in tensors.values())
    before = weights(agent)
    agent.learn(env, 8)
    assert not torch.equal(weights(agent), before)
    assert all(tensor.is_shared() for name, tensor in agent.state().items() if name != "generator")


def test_learning_moves_the_very_tensors_that_are_shared(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, noisy(hard_three_times), quota=(4, 12))
    agent = A3C(env)
    addresses = {name: tensor.data_ptr() for name, tensor in agent.state().items() if name != "generator"}
    before = snapshot(agent)
    agent.learn(env, 24)
    assert {name: agent.state()[name].data_ptr() for name in addresses} == addresses
    for part in ("network.phi", "network.mean_loss", "network.size.random_reward", "optimiser."):
        assert any(not torch.equal(agent.state()[name], before[name]) for name in before if name.startswith(part)), part


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 2])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(
    phantoms: ImageSet, reconstructor: Reconstructor, horizon: int
) -> None:
    found = []
    for seed, elsewhere in ((0, 1), (0, 2), (3, 1)):
        torch.manual_seed(elsewhere)
        np.random.seed(elsewhere)
        env = PatchMaskVectorEnv(
            4,
            data=phantoms,
            unet=deepcopy(reconstructor),
            mask_ratio=0.5,
            horizon=horizon,
            agent_share=0.5,
            co_train=True,
        )
        env.reset(seed=0)
        agent = A3C(env, seed=seed)
        agent.learn(env, 20)
        found.append(agent.state())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["network.policy.weight"], found[2]["network.policy.weight"])


@pytest.mark.slow
def test_restored_it_goes_on_bit_for_bit_as_if_it_had_not_stopped(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, noisy(hard_three_times), quota=(4, 12), agent_share=0.5)
    agent = A3C(env, seed=0)
    agent.learn(env, 40)
    state, rest = snapshot(agent), deepcopy(env)
    agent.learn(env, 40)

    other = A3C(rest, seed=99)
    other.learn(toy_env(textures, equal_losses, quota=(4, 12)), 16)
    other.restore(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state().items())
    other.learn(rest, 40)
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in agent.state().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_training_and_leaves_the_weights(
    toy_env: Toy, textures: Pixels, value: float
) -> None:
    costs = [1.0, 1.0, value]
    env = toy_env(textures, lambda kinds, masks: np.full(masks.shape, costs[len(env.masks)]))
    agent = A3C(env)
    seen: list[dict[str, Tensor]] = []
    with pytest.raises(TrainingError, match=r"no longer finite.*--agent-learning-rate"):
        agent.learn(env, 80, lambda _: seen.append(snapshot(agent)) is None)
    assert len(seen) == 2
    changed = [
        name
        for name, tensor in agent.state().items()
        if name != "generator" and not torch.equal(tensor, seen[-1][name])
    ]
    assert changed == []  # the running means as well: a checkpoint, and other workers, read them


# ---------------------------------------------------------------- environments


def test_it_plays_whole_batches_and_stops_when_told(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, noisy(hard_three_times))
    agent = A3C(env)
    assert len(updates(agent, env, 17)) == 3
    assert len(env.rewards) == 3
    agent.learn(env, 800, lambda _: False)
    assert len(env.rewards) == 4


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_environments_that_do_not_start_again_in_the_same_step_are_refused(
    toy_env: Toy, textures: Pixels, mode: AutoresetMode
) -> None:
    env = toy_env(textures, hard_three_times)
    env.metadata = {"autoreset_mode": mode}
    with pytest.raises(SettingsError, match="SAME_STEP"):
        A3C(env).learn(env, 8)


def test_episodes_that_are_cut_short_do_no_harm(toy_env: Toy, textures: Pixels) -> None:
    """Truncated after the first of two steps, before anything is reconstructed: there is no loss to divide by."""
    env = toy_env(textures, noisy(hard_three_times), horizon=2, truncate_after=1)
    agent = A3C(env)
    agent.learn(env, 8)
    assert all(torch.isfinite(tensor).all() for name, tensor in agent.state().items() if name != "generator")


@pytest.mark.slow
@pytest.mark.parametrize(("horizon", "ratio"), [(1, "0.5"), (2, "0.25:0.75")])
def test_it_learns_alike_in_gymnasium_s_own_vector_environment(
    phantoms: ImageSet, reconstructor: Reconstructor, horizon: int, ratio: str
) -> None:
    settings: dict[str, Any] = {"data": phantoms, "unet": reconstructor, "mask_ratio": ratio, "horizon": horizon}
    sync = SyncVectorEnv([lambda: PatchMaskEnv(**settings)] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    native = PatchMaskVectorEnv(4, **settings)
    found = []
    for env in (sync, native):
        env.reset(seed=0)
        agent = A3C(env)
        reports = updates(agent, env, 20)
        found.append((weights(agent), [report.reward for report in reports]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=5e-3, rtol=0)  # batched convolutions round otherwise
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-3)


def test_the_algorithm_is_short_enough_to_be_read() -> None:
    assert len(Path(agents.a3c.__file__).read_text(encoding="utf-8").splitlines()) <= 300
