"""Agents that do not learn."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from agents import FrozenAgent, Problem
from agents.agent import Update
from agents.baselines import RandomAgent
from ahm_env import ImageSet, PatchMaskVectorEnv, Reconstructor

Toy = Any  # the class ToyEnv of conftest.py
Pixels = npt.NDArray[np.uint8]


def costs(kinds: Any, masks: Any) -> Any:
    return np.broadcast_to(1 + np.arange(16) / 4, masks.shape)


@pytest.fixture(params=[RandomAgent, FrozenAgent])
def kind(request: pytest.FixtureRequest) -> Any:
    """Each agent that does not learn."""
    return request.param


@pytest.mark.parametrize(("quota", "share"), [(1, 1.0), (6, 1.0), (15, 1.0), (8, 0.5), (8, 0.0)])
@pytest.mark.parametrize("horizon", [1, 4])
def test_every_step_has_exactly_the_ones_that_may_be_chosen(
    toy_env: Toy, textures: Pixels, kind: Any, quota: int, share: float, horizon: int
) -> None:
    env = toy_env(textures, costs, quota=quota, horizon=min(horizon, quota), chosen_share=share)
    kind(env).learn(env, 24)
    assert all(masks.sum(1).tolist() == [quota] * 8 for masks in env.masks)
    per_episode = np.sum(env.actions, axis=(0, 2)) / len(env.masks)
    assert per_episode.tolist() == [round(share * quota)] * 8


def test_random_masks_hide_every_patch_equally_often(toy_env: Toy, textures: Pixels) -> None:
    agent = RandomAgent(toy_env(textures, costs, quota=6))
    masks = agent.act(np.repeat(textures[:1], 8000, 0)).astype(float)
    assert np.abs(masks.mean(0) - 6 / 16).max() < 4.5 * np.sqrt(6 / 16 * 10 / 16 / 8000)
    together = masks.T @ masks / len(masks)
    expected = 6 / 16 * 5 / 15
    assert np.abs(together[~np.eye(16, dtype=bool)] - expected).max() < 5 * np.sqrt(expected / 8000)


def test_random_sizes_are_uniform_between_the_smallest_and_the_largest(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, costs, quota=(4, 8), num_envs=500)
    agent = RandomAgent(env)
    agent.learn(env, 4000)
    for masks in (np.concatenate(env.masks), agent.act(np.repeat(textures[:1], 4000, 0))):
        seen = np.bincount(masks.sum(1), minlength=17)
        assert seen[4:9].sum() == 4000
        assert np.abs(seen[4:9] - 800).max() < 4.5 * np.sqrt(4000 * 0.2 * 0.8)


def test_random_sizes_hold_over_several_steps(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, costs, quota=(4, 8), horizon=3, num_envs=100)
    RandomAgent(env).learn(env, 400)
    sizes = np.concatenate(env.masks).sum(1)
    assert set(sizes.tolist()) == {4, 5, 6, 7, 8}
    assert np.mean(sizes) == pytest.approx(6, abs=0.35)


def test_the_frozen_policy_is_an_a3c_that_is_nearly_uniform(toy_env: Toy, textures: Pixels) -> None:
    agent = FrozenAgent(toy_env(textures, costs, quota=6))
    masks = agent.act(np.repeat(textures[:1], 4000, 0))
    assert np.abs(masks.mean(0) - 6 / 16).max() < 0.03
    assert np.ptp(agent.maps(textures)[0]) > 0  # nearly: it is a policy all the same


def test_frozen_weights_never_move(toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, costs, quota=(4, 8))
    agent = FrozenAgent(env)
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    agent.learn(env, 80)
    changed = [name for name, tensor in agent.state().items() if not torch.equal(tensor, before[name])]
    assert changed == ["generator"]


def test_a_flat_policy_map_and_no_value_map_is_what_random_masks_have(textures: Pixels) -> None:
    policy, values = RandomAgent(Problem(1, 32, 4, (8, 8))).maps(textures)
    assert policy.shape == (2, 16)
    assert np.ptp(policy) == 0
    assert values is None


def test_they_play_the_images_asked_for_and_report_each_batch(
    phantoms: ImageSet, reconstructor: Reconstructor, kind: Any
) -> None:
    env = PatchMaskVectorEnv(4, data=phantoms, unet=reconstructor, mask_ratio=0.5, horizon=2, chosen_share=0.5)
    found: list[Update] = []
    kind(env).learn(env, 10, lambda update: found.append(update) is None)
    assert [update.images for update in found] == [4, 4, 4]
    assert all(update.reward > 0 for update in found)
    kind(env).learn(env, 100, lambda update: found.append(update) is not None)
    assert len(found) == 4


def test_the_same_seed_gives_the_same_masks(kind: Any, textures: Pixels) -> None:
    problem, images = Problem(1, 32, 4, (4, 12)), np.repeat(textures, 20, 0)
    masks = [kind(problem, seed=seed).act(images) for seed in (1, 1, 2)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


def test_the_global_generator_of_torch_is_left_alone(kind: Any, toy_env: Toy, textures: Pixels) -> None:
    env = toy_env(textures, costs, quota=(4, 12))
    agent = kind(env)
    before = torch.get_rng_state()
    agent.learn(env, 24)
    agent.act(textures)
    assert torch.equal(torch.get_rng_state(), before)
