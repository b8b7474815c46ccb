"""SB3's A2C and PPO behind the protocol: they learn, repeat, stop, go on, and leave the rest of the world alone."""

import random
from collections import Counter
from dataclasses import replace
from math import log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as checked
from hypothesis import strategies as st
from torch import Tensor

from agents import Problem, load_agent, make_agent, save_agent
from agents.agent import Update, play
from agents.sb3.agent import A2CAgent, PPOAgent, SB3Agent
from agents.sb3.policy import MapsPolicy
from ahm_env import ImageSet, PatchMaskVectorEnv, Reconstructor, SettingsError, TrainingError, load_images
from ahm_env.files import load_tensors, save_tensors
from ahm_env.masks import fill_quota
from tests.agents.toys import HARD, assert_same, hard_three_times, snapshot, updates

Toy = Any  # the class ToyEnv of conftest.py
Pixels = npt.NDArray[np.uint8]

# two images of 4 x 4 patches, and larger ones for the policy that needs them
IMAGES: Pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16), dtype=np.uint8)
LARGER: Pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 40, 40), dtype=np.uint8)
SHOWN = {"maps": IMAGES, "cnn": LARGER}
N_STEPS = {"a2c": 5, "ppo": 16}  # where a test does not say otherwise

both_algorithms = pytest.mark.parametrize("name", ["a2c", "ppo"])
both_policies = pytest.mark.parametrize("policy", ["maps", "cnn"])


def noisy(kinds: Any, masks: Any) -> Any:
    return hard_three_times(kinds, masks) * (1 + (masks.sum() * 7 + np.arange(16)) % 5 / 10)


def make(name: str, env: Any, seed: int = 0, **settings: Any) -> SB3Agent:
    made = make_agent(name, env, seed, **{"n_steps": N_STEPS[name], "ent_coef": 0.0, **settings})
    assert isinstance(made, SB3Agent)
    return made


def moved(agent: SB3Agent, before: dict[str, Tensor]) -> list[str]:
    """Weights that are no longer what they were."""
    after = agent.state()
    return [name for name in before if name.startswith("policy.") and not torch.equal(after[name], before[name])]


def sharpen(agent: SB3Agent, images: Pixels) -> None:
    """Bring the policy map far from uniform, but not all to one side."""
    network = getattr(agent.policy, "network", None)
    last: Any = agent.policy.action_net if network is None else network.policy
    if network is not None:
        agent.policy.settings = replace(agent.settings, bound=None)
    last.weight.data.div_(float(agent.maps(images)[0].std()))
    last.bias.data.sub_(float(agent.maps(images)[0].mean()))


def hardness(agent: SB3Agent, toy_env: Toy, images: Pixels) -> float:
    """Mean reward of sampled masks; random masks of 4 of 16 patches, of which 4 cost three times as much, earn 1.5."""
    env = toy_env(images, hard_three_times, num_envs=64, seed=9)
    play(agent, env, 512)
    return float(np.mean(env.rewards)) / 1.5


# ---------------------------------------------------------------- learning


@both_algorithms
@both_policies
def test_one_rollout_gives_every_weight_a_finite_gradient_and_moves_it(toy_env: Toy, name: str, policy: str) -> None:
    env = toy_env(SHOWN[policy], noisy)
    agent = make(name, env, policy=policy, target_kl=None) if name == "ppo" else make(name, env, policy=policy)
    before = snapshot(agent)
    agent.learn(env, 8 * (N_STEPS[name] + 1))
    weights = dict(agent.policy.named_parameters())
    assert len(weights) >= 8
    for key, weight in weights.items():
        assert weight.grad is not None, key
        assert torch.isfinite(weight.grad).all(), key
        assert weight.grad.abs().max() > 0, key
        assert not torch.equal(weight, before[f"policy.{key}"]), key


@both_algorithms
def test_a_rollout_that_ends_with_the_last_image_is_learned_from_too(toy_env: Toy, name: str) -> None:
    env = toy_env(IMAGES, noisy)
    agent = make(name, env)
    before = snapshot(agent)
    found = updates(agent, env, 8 * N_STEPS[name])
    assert moved(agent, before)
    assert found[-1].resumable
    assert np.isfinite(found[-1].policy_loss)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "policy", "rate", "batches"),
    [("a2c", "maps", 4e-3, 100), ("ppo", "maps", 4e-3, 144), ("a2c", "cnn", 2e-3, 120), ("ppo", "cnn", 2e-3, 192)],
)
def test_learning_makes_masks_harder(toy_env: Toy, name: str, policy: str, rate: float, batches: int) -> None:
    env = toy_env(SHOWN[policy], hard_three_times, num_envs=16)
    agent = make(name, env, policy=policy, learning_rate=rate)
    assert hardness(agent, toy_env, SHOWN[policy]) == pytest.approx(1, abs=0.08)
    agent.learn(env, 16 * batches)
    assert hardness(agent, toy_env, SHOWN[policy]) > 1.3
    policy_map, _ = agent.maps(SHOWN[policy])
    assert policy_map[HARD].mean() > policy_map[~HARD].mean() + 1
    assert (agent.predict(SHOWN[policy], deterministic=True).astype(bool) & HARD).sum() >= 6  # of eight


@pytest.mark.slow
@both_algorithms
def test_learning_finds_masks_that_pay_only_after_the_second_step(toy_env: Toy, name: str) -> None:
    def hard_at_some_places(kinds: Any, masks: Any) -> Any:
        return np.broadcast_to(np.where(HARD[0], 3.0, 1.0), masks.shape)

    env = toy_env(IMAGES, hard_at_some_places, num_envs=16, horizon=2)
    make(name, env, learning_rate=4e-3, n_steps=4 if name == "a2c" else 8).learn(env, 16 * 80)
    assert np.mean(env.rewards[:2]) / 1.5 == pytest.approx(1, abs=0.15)
    assert np.mean(env.rewards[-20:]) / 1.5 > 1.25
    assert all((masks.sum(1) == 4).all() for masks in env.masks)


@pytest.mark.slow
@both_algorithms
def test_with_a_range_the_number_of_ones_is_learned_too(toy_env: Toy, name: str) -> None:
    """Every hidden patch costs the less, the more are hidden."""
    env = toy_env(IMAGES[:1], lambda _, masks: masks * (8 / masks.sum(1, keepdims=True)), quota=(2, 12), num_envs=16)
    make(name, env, learning_rate=2e-3).learn(env, 16 * 96)
    sizes = [masks.sum(1) for masks in env.masks]
    assert np.mean(sizes[:2]) > 4.5
    assert np.mean(sizes[-5:]) < 3.5
    assert set(np.concatenate(sizes).tolist()) <= set(range(2, 13))
    asked = [actions.sum(1).clip(2, 12) for actions in env.actions]
    assert np.array_equal(sizes, asked)


@pytest.mark.parametrize("quota", [4, 8, 12])
def test_a_policy_of_maps_begins_with_too_few_ones_rather_than_too_many(toy_env: Toy, quota: int) -> None:
    agent = make("a2c", toy_env(IMAGES, hard_three_times, quota=quota))
    ones = torch.from_numpy(agent.maps(IMAGES)[0]).sigmoid().sum(1).mean().item()
    assert quota / 3 < ones < quota


# ---------------------------------------------------------------- repeatable, and alone in the world


def world() -> list[Any]:
    kind, keys, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), kind, np.asarray(keys).tolist(), *rest, random.getstate()]


@pytest.mark.slow
@both_algorithms
@both_policies
def test_the_same_seed_gives_the_same_weights_bit_for_bit(toy_env: Toy, name: str, policy: str) -> None:
    found = []
    for number, seed in enumerate((1, 1, 2)):
        torch.manual_seed(number)  # nothing of the world outside gets in
        np.random.seed(number)
        env = toy_env(SHOWN[policy], noisy)
        agent = make(name, env, seed, policy=policy)
        reports = updates(agent, env, 8 * 33)
        found.append((snapshot(agent), [report.reward for report in reports]))
    assert_same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert moved(agent, found[0][0])
    assert found[0][1] != found[2][1]


@both_algorithms
@both_policies
def test_global_generators_are_as_they_were(toy_env: Toy, name: str, policy: str) -> None:
    env = toy_env(SHOWN[policy], noisy)
    agent = make(name, env, policy=policy)
    before = world()
    seen: list[bool] = []
    agent.learn(env, 8 * 20, lambda update: seen.append(not update.resumable or world() == before) is None)
    agent.predict(SHOWN[policy])
    agent.maps(SHOWN[policy])
    assert all(seen)
    assert world() == before


@both_algorithms
def test_an_error_in_the_middle_gives_the_global_generators_back(toy_env: Toy, name: str) -> None:
    env = toy_env(IMAGES, noisy)
    agent = make(name, env)
    before = world()

    def fail(update: Update) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agent.learn(env, 800, fail)
    assert world() == before


def test_the_generator_of_another_device_is_lent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A made-up device: SB3 draws masks where the policy is, by the one generator that this device has."""
    made, theirs = torch.Generator, torch.Generator().manual_seed(99)
    module = SimpleNamespace(
        get_rng_state=lambda _: theirs.get_state(), set_rng_state=lambda state, _: theirs.set_state(state)
    )
    agents, before, drawn = [make("a2c", Problem(1, 16, 4, (4, 4)), seed) for seed in (1, 1, 2)], theirs.get_state(), []
    monkeypatch.setattr(torch, "get_device_module", lambda _: module)
    monkeypatch.setattr(torch, "Generator", lambda _: made())
    for agent in agents:
        agent.device = torch.device("cuda", 1)
        for _ in range(2):
            with agent._randomness():
                drawn.append(torch.rand((), generator=theirs).item())
            assert torch.equal(theirs.get_state(), before)
    assert drawn[:2] == drawn[2:4]
    assert len(set(drawn)) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_on_a_gpu_the_same_seed_draws_the_same_masks_and_leaves_its_generator_alone(toy_env: Toy) -> None:
    found = []
    for number in range(2):
        torch.cuda.manual_seed(number)
        before, env = torch.cuda.get_rng_state(), toy_env(IMAGES, noisy)
        make_agent("a2c", env, device="cuda").learn(env, 8 * 4)
        assert torch.equal(torch.cuda.get_rng_state(), before)
        found.append(env.actions[0])
    assert np.array_equal(*found)


def test_masks_drawn_with_a_generator_repeat_and_leave_the_agent_s_own_alone() -> None:
    agent = make("ppo", Problem(1, 16, 4, (8, 8)))
    images, before = np.repeat(IMAGES, 20, 0), agent.generator.get_state()
    first, again, other = (agent.predict(images, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(agent.generator.get_state(), before)
    agent.predict(images)
    assert not torch.equal(agent.generator.get_state(), before)


@pytest.mark.slow
def test_sampled_masks_are_the_policy_s_bits_as_the_environment_fills_them_up(toy_env: Toy) -> None:
    agent = make("a2c", toy_env(IMAGES, hard_three_times))
    quota, rng = np.full(4000, agent.problem.quotas[1]), np.random.default_rng(0)
    sharpen(agent, IMAGES)
    odds = torch.from_numpy(agent.maps(IMAGES)[0]).sigmoid().numpy()
    assert np.ptp(odds) > 0.1
    for image, expected in zip(IMAGES, odds, strict=True):
        bits = rng.random((4000, len(expected))) < expected
        noise = rng.random((4000, 2, len(expected)))
        filled, _ = fill_quota(bits, np.zeros_like(bits), quota, quota, noise)
        found = agent.predict(np.repeat(image[None], 4000, 0))
        assert (found.sum(1) == quota).all()
        assert np.abs(found.mean(0) - filled.mean(0)).max() < 4.5 * np.sqrt(2 * 0.25 / 4000)


# ---------------------------------------------------------------- reports


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "horizon", "batches", "whole"),
    [
        ("a2c", 1, 12, [4, 9]),  # rollouts of 5 steps end with the 5th and the 10th batch
        ("a2c", 2, 12, [4, 9]),  # of two steps each: the rollouts between end in the middle of a batch
        ("a2c", 3, 11, [4, 9]),
        ("ppo", 1, 20, [15]),
        ("ppo", 2, 20, [7, 15]),
        ("ppo", 3, 20, [15]),
        ("ppo", 1, 3, []),
    ],
)
def test_every_batch_is_reported_once_and_only_ends_of_rollouts_are_resumable(
    toy_env: Toy, name: str, horizon: int, batches: int, whole: list[int]
) -> None:
    env = toy_env(IMAGES, noisy, quota=6, num_envs=4, horizon=horizon)
    found = updates(make(name, env), env, 4 * batches - 1)  # rounded up to whole batches
    assert [update.images for update in found] == [4] * batches
    assert len(env.actions) == batches * horizon
    assert [update.reward for update in found] == pytest.approx([rewards.mean() for rewards in env.rewards], rel=1e-5)
    assert [update.unet_loss for update in found] == pytest.approx([update.reward for update in found], rel=1e-5)
    assert [number for number, update in enumerate(found) if update.resumable] == whole
    for update in found:
        assert np.isfinite([update.policy_loss, update.value_loss, update.entropy]).all() == update.resumable
        assert bool(update.extras) == update.resumable


@pytest.mark.slow
@both_algorithms
def test_the_state_is_whole_when_a_resumable_update_is_reported(toy_env: Toy, name: str) -> None:
    """The policy has learned from the rollout by then, and does not move before the next one is full."""
    env = toy_env(IMAGES, noisy)
    agent = make(name, env)
    states: list[Tensor] = []

    def after(_: Update) -> bool:
        states.append(torch.cat([weight.detach().flatten() for weight in agent.policy.parameters()]))
        return True

    first = torch.cat([weight.detach().flatten() for weight in agent.policy.parameters()])
    agent.learn(env, 8 * (2 * N_STEPS[name] + 1), after)
    changes = [not torch.equal(one, other) for one, other in zip([first, *states], states, strict=False)]
    expected = [number in (N_STEPS[name], 2 * N_STEPS[name]) for number in range(1, len(states) + 1)]
    assert changes == expected


def test_entropy_is_that_of_the_bits_over_the_largest_possible(toy_env: Toy) -> None:
    env = toy_env(IMAGES[:1], hard_three_times, quota=12)
    agent = make("a2c", env)
    odds = torch.from_numpy(agent.maps(IMAGES[:1])[0]).double().sigmoid()
    bits = -(odds * odds.log() + (1 - odds) * (1 - odds).log()) / log(2)
    [update] = [update for update in updates(agent, env, 8 * 6) if update.resumable]
    assert update.entropy == pytest.approx(bits.mean().item(), rel=1e-5)
    assert 0.5 < update.entropy < 0.99


def test_numbers_that_sb3_has_and_we_have_no_word_for_are_extras(toy_env: Toy) -> None:
    env = toy_env(IMAGES, noisy)
    update = next(update for update in updates(make("ppo", env), env, 8 * 17) if update.resumable)
    assert {"train/approx_kl", "train/clip_fraction", "train/explained_variance"} <= update.extras.keys()
    assert not {"train/entropy_loss", "train/value_loss", "train/policy_gradient_loss"} & update.extras.keys()
    assert all(isinstance(value, float) and np.isfinite(value) for value in update.extras.values())
    assert update.extras["train/approx_kl"] > 0


def test_the_value_loss_of_the_first_update_is_that_of_the_map_s_mean(toy_env: Toy) -> None:
    """With one step an episode the return is the reward: A2C's value loss is the mean of (r − V̄)²."""
    env = toy_env(IMAGES[:1], noisy)
    agent = make("a2c", env, scale_reward=False)
    values = agent.maps(IMAGES[:1])[1]
    assert values is not None
    [update] = [update for update in updates(agent, env, 8 * 6) if update.resumable]
    expected = np.square(np.concatenate(env.rewards[:5]) - (values.mean() - 1)).mean()  # an untrained map means 1
    assert update.value_loss == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------- what SB3 is paid


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """SB3's models, as they are made; each with the `paid` rewards `(steps, envs)` of its rollouts."""
    made: list[Any] = []

    def recording(kind: type[Any]) -> type[Any]:
        class Recording(kind):  # type: ignore[misc]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.paid: list[Any] = []
                made.append(self)

            def train(self) -> None:
                self.paid.append(self.rollout_buffer.rewards.copy())
                super().train()

        return Recording

    for kind in (A2CAgent, PPOAgent):
        monkeypatch.setattr(kind, "algorithm", recording(kind.algorithm))
    return made


@both_algorithms
@pytest.mark.parametrize("horizon", [1, 2])
def test_without_scaling_the_reward_is_paid_as_it_is(toy_env: Toy, models: list[Any], name: str, horizon: int) -> None:
    env = toy_env(IMAGES, noisy, horizon=horizon)
    make(name, env, scale_reward=False, n_steps=4).learn(env, 8 * 5)
    paid = np.concatenate(models[0].paid)
    assert np.allclose(paid[horizon - 1 :: horizon], env.rewards[: len(paid) // horizon])
    assert horizon == 1 or not paid[::2].any()


@pytest.mark.slow
@both_algorithms
@pytest.mark.parametrize("horizon", [1, 2])
def test_the_logarithm_of_the_reward_is_paid_standardised_over_the_run(
    toy_env: Toy, models: list[Any], name: str, horizon: int
) -> None:
    """Running mean and variance: of all batches at first, and later moved a hundredth of the way with each."""
    env = toy_env(IMAGES, noisy, horizon=horizon)
    agent = make(name, env, n_steps=4)
    agent.learn(env, 8 * 5)
    paid = np.concatenate(models[0].paid)
    earned = np.log(env.rewards)
    mean = variance = 0.0
    for batch, logs in enumerate(earned):
        weight = max(0.01, 1 / (batch + 1))
        mean += weight * (logs.mean() - mean)
        variance += weight * (np.square(logs - mean).mean() - variance)
        if batch < len(paid) // horizon:
            assert np.allclose(paid[(batch + 1) * horizon - 1], (logs - mean) / np.sqrt(variance), atol=1e-3)
    assert horizon == 1 or not paid[::2].any()
    state = agent.state()
    assert state["reward.mean"].item() == pytest.approx(mean, rel=1e-4)
    assert state["reward.variance"].item() == pytest.approx(variance, rel=1e-4)


def test_pay_does_not_depend_on_the_unit_of_the_loss_and_survives_zeros(toy_env: Toy, models: list[Any]) -> None:
    for unit in (1.0, 1000.0):
        env = toy_env(IMAGES, lambda kinds, masks, unit=unit: unit * noisy(kinds, masks))
        make("a2c", env).learn(env, 8 * 6)
    assert np.allclose(models[0].paid, models[1].paid, atol=1e-3)
    env = toy_env(IMAGES, lambda kinds, masks: np.zeros(masks.shape))
    agent = make("a2c", env)
    agent.learn(env, 8 * 11)
    assert all(torch.isfinite(tensor).all() for key, tensor in agent.state().items() if key != "generator")


@both_algorithms
def test_rewards_without_a_logarithm_are_refused(toy_env: Toy, name: str) -> None:
    env = toy_env(IMAGES, lambda kinds, masks: -noisy(kinds, masks))
    with pytest.raises(SettingsError, match=r"the reward -\d.* has no logarithm: --set scale_reward=false"):
        make(name, env).learn(env, 8)
    make(name, env, scale_reward=False).learn(env, 8)


@both_algorithms
def test_one_image_at_a_time_is_paid_for_too(toy_env: Toy, models: list[Any], name: str) -> None:
    env = toy_env(IMAGES, noisy, num_envs=1)
    make(name, env, n_steps=8).learn(env, 17)
    assert len(np.unique(np.round(env.rewards, 3))) > 4
    assert np.std(models[0].paid) > 0.1


@pytest.mark.parametrize("scale", [False, True])
def test_reports_are_of_the_reward_as_it_is(toy_env: Toy, scale: bool) -> None:
    env = toy_env(IMAGES, noisy)
    found = updates(make("a2c", env, scale_reward=scale), env, 8 * 12)
    assert [update.reward for update in found] == pytest.approx([rewards.mean() for rewards in env.rewards], rel=1e-5)


# ---------------------------------------------------------------- the end of learning


@both_algorithms
@pytest.mark.parametrize("at", [1, 4, 5])
def test_false_ends_learning_as_soon_as_the_state_is_whole(toy_env: Toy, name: str, at: int) -> None:
    env = toy_env(IMAGES, noisy, num_envs=4)
    agent = make(name, env)
    before, found = snapshot(agent), list[Update]()
    agent.learn(env, 4 * 100, lambda update: found.append(update) is None and len(found) != at)
    assert len(found) == len(env.actions) == N_STEPS[name]
    assert [update.resumable for update in found] == [False] * (N_STEPS[name] - 1) + [True]
    assert moved(agent, before)


@pytest.mark.parametrize(("horizon", "ends"), [(2, [2, 4]), (3, [3])])
def test_false_ends_learning_with_the_rollout_though_that_ends_within_an_episode(
    toy_env: Toy, horizon: int, ends: list[int]
) -> None:
    env = toy_env(IMAGES, noisy, num_envs=4, horizon=horizon)
    agent, found = make("a2c", env), list[int]()
    before = snapshot(agent)
    agent.learn(env, 4 * 100, lambda _: found.append(len(env.actions)) is not None)
    assert (len(env.actions), found) == (5, ends)
    assert moved(agent, before)


def test_episodes_that_are_cut_short_count_and_end(toy_env: Toy) -> None:
    env = toy_env(IMAGES, noisy, num_envs=4, horizon=2, truncate_after=1)
    found = updates(make("a2c", env), env, 4 * 7)
    assert [update.images for update in found] == [4] * 7
    assert [update.reward for update in found] == [0.0] * 7


# ---------------------------------------------------------------- acting


MASKS = st.lists(st.booleans(), min_size=16, max_size=16)


@pytest.fixture(scope="module")
def sharp() -> dict[str, SB3Agent]:
    """Agents whose policy maps differ clearly from patch to patch and from image to image."""
    made = {}
    for policy, images in SHOWN.items():
        made[policy] = make("ppo", Problem(1, images.shape[2], 4, (8, 8)), policy=policy)
        sharpen(made[policy], images)
    return made


@both_policies
@checked(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hidden=MASKS, choosable=st.integers(0, 16))
def test_the_likeliest_mask_is_what_may_be_chosen_of_the_best_visible_patches(
    sharp: dict[str, SB3Agent], policy: str, hidden: list[bool], choosable: int
) -> None:
    agent, before = sharp[policy], np.array([hidden, hidden])
    count = min(choosable, 16 - sum(hidden))
    infos = {"mask": before.reshape(2, 4, 4), "choosable": np.array([count, count])}
    masks = agent.predict(SHOWN[policy], deterministic=True, infos=infos).astype(bool)
    assert masks.sum(1).tolist() == [min(8, count) if not any(hidden) else count] * 2
    assert not (masks & before).any()
    scores = agent.maps(SHOWN[policy])[0]
    for mask, score in zip(masks, scores, strict=True):
        others = ~mask & ~before[0]
        assert not mask.any() or not others.any() or score[mask].min() >= score[others].max()


@both_policies
def test_the_likeliest_mask_of_a_fresh_image_holds_the_quota_and_repeats(
    sharp: dict[str, SB3Agent], policy: str
) -> None:
    agent = sharp[policy]
    masks = agent.predict(SHOWN[policy], deterministic=True)
    assert masks.dtype == np.int8
    assert masks.sum(1).tolist() == [8, 8]
    assert np.array_equal(masks, agent.predict(SHOWN[policy], deterministic=True))
    assert not np.array_equal(masks[0], masks[1])


@both_policies
@pytest.mark.parametrize(("likely", "size"), [(0, 3), (3, 3), (7, 7), (12, 12), (15, 12)])
def test_of_a_range_the_likeliest_mask_hides_as_many_as_bits_are_likelier_one(
    monkeypatch: pytest.MonkeyPatch, policy: str, likely: int, size: int
) -> None:
    """The mode of independent bits, where the environment leaves it as it is."""
    images = SHOWN[policy]
    agent = make("ppo", Problem(1, images.shape[2], 4, (3, 12)), policy=policy)
    logits = torch.linspace(1, 2, 16) - (torch.arange(16) >= likely) * 3.0
    monkeypatch.setattr(agent, "_logits", lambda shown: logits.repeat(len(shown), 1))
    best = set(logits.argsort(descending=True)[:size].tolist())
    fresh = {"mask": np.zeros((2, 4, 4), bool), "choosable": np.array([12, 12])}
    for infos in (None, fresh):
        for mask in agent.predict(images, deterministic=True, infos=infos):
            assert set(np.flatnonzero(mask).tolist()) == best
    later = {"mask": fresh["mask"] | (np.arange(16) == 15).reshape(4, 4), "choosable": np.array([2, 5])}
    assert agent.predict(images, deterministic=True, infos=later).sum(1).tolist() == [2, 5]


@pytest.mark.slow
@both_algorithms
@pytest.mark.parametrize(("ratio", "horizon", "share"), [(0.5, 2, 1.0), (0.5, 2, 0.5), ("0.25:0.75", 3, 1.0)])
def test_the_likeliest_masks_are_done_as_they_are(
    phantoms: ImageSet, reconstructor: Reconstructor, name: str, ratio: Any, horizon: int, share: float
) -> None:
    settings = {"mask_ratio": ratio, "horizon": horizon, "agent_share": share}
    env = PatchMaskVectorEnv(4, data=phantoms, unet=reconstructor, **settings)
    agent = make(name, env)
    observations, infos = env.reset(seed=1)
    wanted = np.zeros((4, 16), bool)
    for _ in range(horizon):
        action = agent.predict(observations, deterministic=True, infos=infos)
        decides_size = ratio != 0.5 and not infos["mask"].any()
        likely = (agent.maps(observations)[0] > 0).sum(1).clip(4, 12)
        assert action.sum(1).tolist() == (likely if decides_size else infos["choosable"]).tolist()
        assert not (action.astype(bool) & infos["mask"].reshape(4, 16)).any()
        wanted |= action.astype(bool)
        observations, _, _, _, infos = env.step(action)
    chosen = infos["final_info"]["chosen"].reshape(4, 16)
    assert not (chosen & ~wanted).any()
    if ratio == 0.5:
        assert chosen.sum(1).tolist() == [round(8 * share)] * 4
        assert np.array_equal(chosen, wanted)


@both_policies
def test_only_maps_have_a_value_map(sharp: dict[str, SB3Agent], policy: str) -> None:
    policy_map, values = sharp[policy].maps(SHOWN[policy])
    assert policy_map.shape == (2, 16)
    assert policy_map.dtype == np.float32
    if policy == "cnn":
        assert values is None
    else:
        assert values is not None
        assert values.shape == (2, 16)


def test_what_sb3_is_told_is_the_maps(toy_env: Toy) -> None:
    """Log-probabilities, values and entropies are those of N independent bits, written out."""
    agent = make("ppo", toy_env(IMAGES, noisy))
    agent.policy.network.policy.weight.data.mul_(300)  # type: ignore[union-attr, operator]
    assert isinstance(agent.policy, MapsPolicy)
    observations = torch.from_numpy(IMAGES)
    logits, values = (torch.from_numpy(np.asarray(one)) for one in agent.maps(IMAGES))
    with torch.no_grad():
        actions, value, log_prob = agent.policy(observations)
        again, evaluated, entropy = agent.policy.evaluate_actions(observations, actions)
        assert torch.equal(agent.policy.predict_values(observations), value)
    assert set(actions.unique().tolist()) == {0.0, 1.0}
    odds = logits.sigmoid()
    expected = torch.where(actions == 1, odds, 1 - odds).log().sum(1)
    assert torch.allclose(log_prob, expected, atol=1e-4)
    assert torch.equal(evaluated, log_prob)
    assert torch.allclose(value, values.mean(1, keepdim=True) - 1, atol=1e-6)  # an untrained map means 1
    assert torch.equal(again, value)
    assert entropy is not None
    assert torch.allclose(entropy, -(odds * odds.log() + (1 - odds) * (1 - odds).log()).sum(1), atol=1e-4)
    assert 1 < logits.abs().max() <= 2


# ---------------------------------------------------------------- files and states


@pytest.mark.slow
@both_algorithms
@both_policies
def test_a_saved_agent_comes_back_as_it_was(toy_env: Toy, tmp_path: Path, name: str, policy: str) -> None:
    env = toy_env(SHOWN[policy], noisy)
    agent = make(name, env, seed=5, policy=policy, gamma=0.5)
    agent.learn(env, 8 * 18)
    save_agent(agent, tmp_path)
    loaded = load_agent(tmp_path)
    assert isinstance(loaded, A2CAgent if name == "a2c" else PPOAgent)
    assert (loaded.problem, loaded.settings) == (agent.problem, agent.settings)
    for one, other in zip(agent.maps(SHOWN[policy]), loaded.maps(SHOWN[policy]), strict=True):
        assert np.array_equal(one, other) if one is not None and other is not None else one is other
    assert np.array_equal(
        agent.predict(SHOWN[policy], deterministic=True), loaded.predict(SHOWN[policy], deterministic=True)
    )
    many = np.repeat(SHOWN[policy], 20, 0)
    assert np.array_equal(agent.predict(many), loaded.predict(many))  # its generator as well
    assert updates(loaded, env, 8 * 6)  # and goes on


@both_algorithms
@both_policies
def test_the_file_holds_every_weight_once_and_no_moments(toy_env: Toy, tmp_path: Path, name: str, policy: str) -> None:
    """Of SB3's CnnPolicy, three modules share one feature extractor."""
    env = toy_env(SHOWN[policy], noisy)
    agent = make(name, env, policy=policy)
    agent.learn(env, 8 * 18)
    save_agent(agent, tmp_path)
    tensors, about = load_tensors(tmp_path / "agent.safetensors")
    assert about["agent"] == name
    weights = [tensor for key, tensor in tensors.items() if key.startswith("policy.") and tensor.is_floating_point()]
    own = {weight.data_ptr(): weight for weight in (*agent.policy.parameters(), *agent.policy.buffers())}
    own_floats = [weight for weight in own.values() if weight.is_floating_point()]
    assert Counter(tuple(w.shape) for w in weights) == Counter(tuple(w.shape) for w in own_floats)
    assert not [key for key in tensors if key.startswith("optimiser.")]
    assert {key.partition(".")[0] for key in tensors} == {"policy", "reward", "generator"}


@pytest.mark.slow
@both_algorithms
@both_policies
def test_a_state_that_is_restored_is_the_same_with_its_moments(toy_env: Toy, name: str, policy: str) -> None:
    env = toy_env(SHOWN[policy], noisy)
    agent = make(name, env, policy=policy)
    fresh = snapshot(agent)
    assert not [key for key in fresh if key.startswith("optimiser.")]  # SB3's optimisers have none before a step
    agent.learn(env, 8 * (2 * N_STEPS[name] + 1))
    state = snapshot(agent)
    moments = {"a2c": {"step", "square_avg"}, "ppo": {"step", "exp_avg", "exp_avg_sq"}}[name]
    assert {key.rpartition(".")[2] for key in state if key.startswith("optimiser.")} == moments
    other = make(name, env, seed=9, policy=policy)
    kept = {key: tensor.clone() for key, tensor in state.items()}
    other.restore(state)
    assert_same(other.state(), state)
    other.learn(env, 8 * (N_STEPS[name] + 1))
    assert_same(state, kept)  # what was handed in is not what is learned on
    other.restore(fresh)
    assert_same(other.state(), fresh)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Twenty images of 40 px."""
    return load_images("phantom:20:0", 40, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.mark.slow
@both_algorithms
@pytest.mark.parametrize(("policy", "horizon"), [("maps", 1), ("maps", 2), ("cnn", 1)])
def test_going_on_from_the_end_of_a_rollout_is_as_if_there_had_been_no_break(
    tmp_path: Path, phantoms: ImageSet, larger: ImageSet, name: str, policy: str, horizon: int
) -> None:
    """With a file in between, U-Net, environment and all; the U-Net learns too."""
    shown, patch = (phantoms, 8) if policy == "maps" else (larger, 10)
    stop_at, batches = 4 // horizon, 9 // horizon + 1

    def begin() -> tuple[PatchMaskVectorEnv, SB3Agent]:
        unet = {"unet": "new", "width": 2, "co_train": True, "image_size": shown.image_size, "patch_size": patch}
        env = PatchMaskVectorEnv(3, data=shown, horizon=horizon, **unet)
        env.reset(seed=2)
        return env, make(name, env, seed=3, policy=policy, n_steps=4)

    env, agent = begin()
    agent.learn(env, 3 * batches)
    whole, unet = snapshot(agent), {key: tensor.clone() for key, tensor in env.episodes.reconstructor.state().items()}

    env, agent = begin()
    seen: list[Update] = []
    agent.learn(env, 3 * batches, lambda update: seen.append(update) is None and len(seen) < stop_at)
    assert len(seen) == stop_at
    assert seen[-1].resumable
    save_tensors(tmp_path / "agent", agent.state(), {"env": env.episodes.state()})
    save_tensors(tmp_path / "unet", env.episodes.reconstructor.state(), {})

    env, agent = begin()
    tensors, about = load_tensors(tmp_path / "agent")
    agent.restore(tensors)
    env.episodes.restore(about["env"])
    env.episodes.reconstructor.restore(load_tensors(tmp_path / "unet")[0])
    agent.learn(env, 3 * (batches - stop_at))
    assert_same(whole, agent.state())
    assert_same(unet, env.episodes.reconstructor.state())


# ---------------------------------------------------------------- settings


def test_settings_reach_sb3(toy_env: Toy, models: list[Any]) -> None:
    common: dict[str, Any] = {"learning_rate": 3e-4, "n_steps": 6, "gamma": 0.7, "gae_lambda": 0.8}
    common |= {"ent_coef": 0.03, "vf_coef": 0.2, "max_grad_norm": 0.4}
    env = toy_env(IMAGES, noisy)
    ppo = {"n_epochs": 4, "minibatches": 3, "clip_range": 0.1, "target_kl": 0.5}
    for name, special in (("a2c", {"normalize_advantage": False}), ("ppo", ppo)):
        agent = make(name, env, **common, **special)
        agent.learn(env, 8 * 7)
        model = models[-1]
        assert model.policy is agent.policy
        assert (model.n_steps, model.gamma, model.gae_lambda) == (6, 0.7, 0.8)
        assert (model.ent_coef, model.vf_coef, model.max_grad_norm) == (0.03, 0.2, 0.4)
        assert [group["lr"] for group in agent.policy.optimizer.param_groups] == [3e-4]
    a2c, ppo_model = models
    assert a2c.normalize_advantage is False
    assert isinstance(a2c.policy.optimizer, torch.optim.RMSprop)
    assert isinstance(ppo_model.policy.optimizer, torch.optim.Adam)
    assert (ppo_model.n_epochs, ppo_model.batch_size, ppo_model.target_kl) == (4, 16, 0.5)
    assert ppo_model.clip_range(1) == 0.1


@both_algorithms
def test_what_changes_over_a_run_changes_between_rollouts(toy_env: Toy, models: list[Any], name: str) -> None:
    """32 batches in four rollouts, in each of which the policy that learns is the one that acted."""
    env = toy_env(IMAGES, noisy)
    ppo = {"n_epochs": 1, "minibatches": 1} if name == "ppo" else {}
    agent = make(name, env, n_steps=8, ent_coef="0.4:0", bound="0.5:4", temperature="1:0.2", learning_rate=1e-8, **ppo)
    agent.policy.network.policy.weight.data.mul_(1e6)  # type: ignore[union-attr, operator]
    found: list[tuple[float, float]] = []

    def after(update: Update) -> bool:
        acting: Any = agent.policy.get_distribution(torch.from_numpy(IMAGES)).distribution
        found.append((models[0].ent_coef, acting.logits.abs().max().item()))
        agent.progress = len(found) / 32
        agent.maps(IMAGES)  # which is of this moment, and changes nothing
        assert update.extras.get("train/approx_kl", 0.0) == pytest.approx(0, abs=1e-6)
        return True

    agent.learn(env, 8 * 32, after)
    expected = [(0.4, 0.5 / 1), (0.3, 1.375 / 0.8), (0.2, 2.25 / 0.6), (0.1, 3.125 / 0.4)]
    assert np.array(found) == pytest.approx(np.repeat(expected, 8, 0), rel=1e-5)


@both_algorithms
@pytest.mark.parametrize(("progress", "bound", "temperature"), [(0.0, 2.0, 1.0), (0.5, 3.5, 0.75), (1.0, 5.0, 0.5)])
def test_an_agent_that_was_saved_within_a_run_stays_as_it_was(
    tmp_path: Path, name: str, progress: float, bound: float, temperature: float
) -> None:
    agent = make(name, Problem(1, 16, 4, (8, 8)), bound="2:5", temperature="1:0.5")
    sharpen(agent, IMAGES)
    free = agent.maps(IMAGES)[0] * agent.settings.temperature.at(agent.progress)
    agent.policy.settings, agent.progress = agent.settings, progress
    save_agent(agent, tmp_path)
    found = load_agent(tmp_path).maps(IMAGES)[0]
    assert found == pytest.approx(bound * np.tanh(free / bound) / temperature, rel=1e-4)


@pytest.mark.slow
def test_the_bound_holds_the_policy_map_and_none_lets_it_go(toy_env: Toy) -> None:
    largest = []
    for bound in (0.5, None):
        env = toy_env(IMAGES, hard_three_times)
        agent = make("a2c", env, bound=bound, learning_rate=0.01)
        agent.learn(env, 8 * 40)
        largest.append(float(np.abs(agent.maps(IMAGES)[0]).max()))
    assert largest[0] <= 0.5
    assert largest[1] > 1


@pytest.mark.parametrize(
    ("name", "settings", "num_envs", "text"),
    [
        ("ppo", {"policy": "mlp"}, 8, r"policy 'mlp' is unknown; choose maps or cnn"),
        ("a2c", {"n_steps": 0}, 8, r"--set n_steps 0 must be 1 or more"),
        ("ppo", {"n_steps": 10}, 8, r"minibatches 4 must divide n_steps 10"),
        ("ppo", {"minibatches": 0}, 8, r"--set minibatches 0 must be 1 or more"),
        ("ppo", {"n_steps": 4, "minibatches": 4}, 1, r"2 images or more a minibatch; raise --batch-size"),
        ("ppo", {"n_epochs": 0}, 8, r"--set n_epochs 0 must be 1 or more"),
        ("a2c", {"n_steps": 1}, 1, r"2 images or more an update.*raise --batch-size"),
        ("a2c", {"backbone": "resnet"}, 8, r"backbone 'resnet' is unknown"),
        ("a2c", {"n_steps": 1, "own_weight": 1.0}, 1, r"2 images or more an update.*raise --batch-size"),
        ("ppo", {"image_weight": 2.0}, 8, r"image_weight 2 counts beside own_weight only"),
        ("ppo", {"policy": "cnn", "own_weight": 1.0}, 8, r"own_weight needs .*: --set policy=maps"),
        ("a2c", {"policy": "cnn", "bound": "2:5"}, 8, r"bound needs .*: --set policy=maps"),
        ("a2c", {"ent_coef": "high"}, 8, r"--set ent_coef high is not a number, or START:END"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_with_a_remedy(
    toy_env: Toy, name: str, settings: dict[str, Any], num_envs: int, text: str
) -> None:
    env = toy_env(IMAGES, noisy, num_envs=num_envs)
    with pytest.raises(SettingsError, match=text) as caught:
        make(name, env, **settings).learn(env, 8 * 17)
    assert "\n" not in str(caught.value)


@both_algorithms
def test_images_too_small_for_the_cnn_policy_are_refused_with_a_remedy(name: str) -> None:
    with pytest.raises(SettingsError, match=r"36 px.*--set policy=maps"):
        make(name, Problem(1, 35, 5, (8, 8)), policy="cnn")
    assert make(name, Problem(1, 36, 6, (8, 8)), policy="cnn").maps(np.zeros((1, 1, 36, 36), np.uint8))[0].shape == (
        1,
        36,
    )


def test_a_single_image_an_update_is_enough_where_advantages_are_left_as_they_are(toy_env: Toy) -> None:
    env = toy_env(IMAGES, noisy, num_envs=1)
    agent = make("a2c", env, n_steps=1, normalize_advantage=False)
    before = snapshot(agent)
    assert len(updates(agent, env, 3)) == 3
    assert moved(agent, before)


@pytest.mark.slow
@both_algorithms
@pytest.mark.parametrize("rate", [1e30, 1e37])
def test_a_policy_that_is_no_longer_finite_ends_in_a_sentence(toy_env: Toy, name: str, rate: float) -> None:
    """With the first of the two, weights stay finite, but no longer what is computed with them."""
    env = toy_env(IMAGES, noisy)
    agent = make(name, env, learning_rate=rate)
    before = world()
    with pytest.raises(TrainingError, match=rf"{name} is no longer finite.*--agent-learning-rate"):
        agent.learn(env, 8 * 100)
    assert world() == before


@both_algorithms
def test_an_error_of_the_environment_is_passed_on(toy_env: Toy, name: str) -> None:
    def refuse(_: Any) -> None:
        raise ValueError("not this one")

    env = toy_env(IMAGES, noisy)
    env.on_step = refuse
    with pytest.raises(ValueError, match="not this one"):
        make(name, env).learn(env, 80)


@both_algorithms
def test_they_train_in_one_process_and_say_so(name: str) -> None:
    assert make(name, Problem(1, 16, 4, (8, 8))).parallel is False
