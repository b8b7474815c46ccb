"""PPO in one file: it learns, repeats, and takes episodes of several steps."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "single_file_ppo.py"))
TINY = {"iterations": 2, "num_envs": 4, "episodes": 2, "width": 8}


def train(**settings):
    return EXAMPLE["main"](EXAMPLE["Args"](**settings))


@pytest.mark.slow
def test_the_agent_learns_to_earn_more_than_random_masks():
    random, earned = train(iterations=20, num_envs=32, episodes=2, width=32, learning_rate=3e-3)
    assert random > 0
    assert earned > 1.2 * random


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 3])
def test_a_run_repeats(horizon):
    first, again, other = (train(**TINY, horizon=horizon, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert min(first) > 0
