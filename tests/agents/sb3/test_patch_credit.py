"""SB3's algorithms with credit for each patch: what they are told, computed by hand."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from agents import make_agent
from agents.sb3.patch_credit import own_advantage
from ahm_env import SettingsError

Toy = Any  # the class ToyEnv of conftest.py
IMAGES: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (2, 1, 16, 16), dtype=np.uint8)
COSTS = np.random.default_rng(1).uniform(0.5, 3, 16)
HARD = np.isin(np.arange(16), [0, 5, 10, 15])

both_algorithms = pytest.mark.parametrize("name", ["a2c", "ppo"])


def costs(kinds: Any, masks: Any) -> Any:
    return np.broadcast_to(COSTS, masks.shape)


def same_odds(agent: Any) -> float:
    """Give all bits the same odds; these."""
    agent.policy.network.policy.weight.data.zero_()
    return torch.from_numpy(agent.maps(IMAGES)[0]).sigmoid()[0, 0].item()


def test_an_advantage_is_the_loss_above_that_of_the_hidden_patches() -> None:
    losses = np.array([[[1.0, 3.0], [9.0, 2.0]]])
    final = {"patch_loss": losses, "mask": np.array([[[True, True], [False, True]]])}
    std = np.sqrt(2 / 3)
    assert own_advantage(final)[0, [0, 1, 3]] == pytest.approx([-1 / std, 1 / std, 0])
    alike = {"patch_loss": np.full((1, 2, 2), 3.0), "mask": final["mask"]}
    assert own_advantage(alike)[0].tolist() == [0, 0, 0, 0]
    nothing = {"patch_loss": np.zeros((1, 2, 2)), "mask": np.zeros((1, 2, 2), bool)}  # cut off before it was measured
    assert np.isfinite(own_advantage(nothing)).all()


@pytest.mark.parametrize("horizon", [1, 2])
def test_the_policy_loss_is_that_of_the_bits_that_hid_something(toy_env: Toy, horizon: int) -> None:
    """All bits have the same odds p: -log p times the mean over images and steps of what is credited to their bits."""
    env = toy_env(IMAGES, costs, quota=6, horizon=horizon)
    agent = make_agent("a2c", env, n_steps=horizon, own_weight=0.5, image_weight=0.0, ent_coef=0.0)
    odds = same_odds(agent)
    found: list[float] = []
    agent.learn(env, 8, lambda update: found.append(update.policy_loss) is None)
    mask = env.masks[0]
    mean = (COSTS * mask).sum(1, keepdims=True) / 6
    std = np.sqrt(((COSTS - mean) ** 2 * mask).sum(1, keepdims=True) / 6)
    advantage = (COSTS - mean) / np.maximum(std, 0.25 * mean)
    expected = -0.5 * np.log(odds) * (advantage * env.chosen_masks[0]).sum(1).mean() / horizon
    assert found == pytest.approx([expected], rel=1e-3)
    assert (env.chosen_masks[0] < mask).any()  # what was filled up at random has no credit


@pytest.mark.parametrize("normalize", [True, False])
def test_a_mixture_adds_the_image_s_advantage_to_all_bits(toy_env: Toy, normalize: bool) -> None:
    """Its share of the policy loss is the mean over images of -log p(mask) times the image's advantage."""
    losses = []
    for image_weight in (0.0, 2.0):
        env = toy_env(IMAGES, costs, quota=6)
        weights = {"own_weight": 1.0, "image_weight": image_weight, "normalize_advantage": normalize}
        agent = make_agent("a2c", env, **weights, scale_reward=False, ent_coef=0.0)
        odds, values = same_odds(agent), agent.maps(IMAGES)[1]
        assert values is not None
        agent.learn(env, 8, lambda update: losses.append(update.policy_loss) is None)
    advantage = env.rewards[0] - (values.mean(1) - 1)[env.kinds[0]]
    if normalize:
        advantage = (advantage - advantage.mean()) / advantage.std(ddof=1)
    log_pi = np.where(env.actions[0], np.log(odds), np.log(1 - odds)).sum(1)
    assert losses[1] - losses[0] == pytest.approx(-2 * (advantage * log_pi).mean(), rel=1e-3)


@pytest.mark.slow
@both_algorithms
@pytest.mark.parametrize("image_weight", [0.0, 2.0])
def test_learning_makes_masks_harder(toy_env: Toy, name: str, image_weight: float) -> None:
    env = toy_env(IMAGES, lambda kinds, masks: np.where(HARD, 3.0, 1.0) * np.ones(masks.shape), num_envs=16)
    weights = {"own_weight": 1.0, "image_weight": image_weight}
    agent = make_agent(name, env, **weights, learning_rate=4e-3, ent_coef=0.0, n_steps=4)
    agent.learn(env, 16 * 80)
    assert np.mean(env.rewards[:4]) / 1.5 == pytest.approx(1, abs=0.15)
    assert np.mean(env.rewards[-10:]) / 1.5 > 1.4
    assert (agent.predict(IMAGES, deterministic=True).astype(bool) & HARD).sum() >= 7  # of eight


@both_algorithms
def test_a_rollout_that_does_not_end_with_an_episode_is_refused(toy_env: Toy, name: str) -> None:
    env = toy_env(IMAGES, costs, quota=6, horizon=3)
    agent = make_agent(name, env, own_weight=1.0, n_steps=4)
    with pytest.raises(SettingsError, match="n_steps 4 must be a multiple of the horizon"):
        agent.learn(env, 16)
