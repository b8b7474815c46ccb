"""Plain Stable-Baselines3 on the default environment."""

import runpy
from pathlib import Path

import gymnasium as gym
import pytest
from stable_baselines3 import A2C, PPO

EXAMPLE = Path(__file__).parents[2] / "examples" / "plain_sb3.py"


@pytest.mark.slow
@pytest.mark.parametrize("kind", [A2C, PPO])
def test_a2c_and_ppo_take_the_environment_as_it_is(kind):
    model = kind("CnnPolicy", gym.make("ahm_env:AHM/PatchMask-v0"), n_steps=16)
    model.learn(16)
    assert model.num_timesteps == 16


@pytest.mark.slow
def test_the_example_runs_on_several_environments():
    untrained, trained = runpy.run_path(str(EXAMPLE))["main"](steps=128, envs=2, images=4)
    assert untrained > 0
    assert trained > 0
