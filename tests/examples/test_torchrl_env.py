"""The environment in TorchRL, as the example has it, and what TorchRL makes of an episode's end."""

import runpy
from pathlib import Path

import gymnasium as gym
import pytest
import torch

pytest.importorskip("torchrl")

from torchrl.envs import GymWrapper, check_env_specs

from ahm_env import ScoreActions, VectorScoreActions

EXAMPLE = Path(__file__).parents[2] / "examples" / "torchrl_env.py"


@pytest.mark.slow
def test_the_example_rolls_out_both_environments():
    single, vector = runpy.run_path(str(EXAMPLE))["main"](steps=3, num_envs=4)
    assert single.batch_size == (3,)
    assert vector.batch_size == (4, 3)
    for rollout in (single, vector):
        assert rollout["action"].dtype == torch.int8
        assert rollout["observation"].dtype == torch.uint8
        assert (rollout["next", "reward"] > 0).all()
        assert rollout["next", "terminated"].all()
    assert (vector["next", "mask"].sum((2, 3)) == 32).all()
    hidden = vector["next", "patch_loss"] * vector["next", "mask"]
    torch.testing.assert_close(hidden.sum((2, 3)) / 32, vector["next", "reward"][:, :, 0])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["SameStep", "Disabled"])
def test_the_last_observation_is_that_of_the_episode_and_the_next_that_of_a_new_one(mode):
    env = GymWrapper(gym.make_vec("ahm_env:AHM/PatchMask-v0", num_envs=3, horizon=2, autoreset_mode=mode))
    check_env_specs(env)
    rollout = env.rollout(4, break_when_any_done=False)
    assert rollout["next", "done"][0, :, 0].tolist() == [False, True, False, True]
    after, before = rollout["next", "observation"], rollout["observation"]
    assert torch.equal(after[:, 0], before[:, 1])
    assert not torch.equal(after[:, 1], before[:, 2])
    unchanged = (after[:, 1] == before[:, 1]).float().mean()
    assert unchanged > 0.7  # a quarter of the image is newly hidden, the rest is the same image


@pytest.mark.slow
def test_scores_are_actions_in_torchrl_too():
    name = "ahm_env:AHM/PatchMask-v0"
    for env in (ScoreActions(gym.make(name)), VectorScoreActions(gym.make_vec(name, num_envs=2))):
        wrapped = GymWrapper(env)
        check_env_specs(wrapped)
        assert wrapped.rollout(2)["action"].dtype == torch.float32
