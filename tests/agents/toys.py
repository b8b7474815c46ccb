"""What patches cost in made-up environments, and what tests of several agents look at."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents import Agent
from agents.agent import Update

# of two kinds of images, the patches that are hard; four of sixteen, none hard in both
HARD = np.zeros((2, 16), bool)
HARD[0, [0, 5, 10, 15]] = HARD[1, [3, 6, 8, 13]] = True


def hard_three_times(kinds: Any, masks: Any) -> Any:
    return np.where(HARD[kinds], 3.0, 1.0)


def position_costs(kinds: Any, masks: Any) -> Any:
    return np.broadcast_to(1 + np.arange(16) / 4, masks.shape)


def updates(agent: Agent, env: Any, images: int) -> list[Update]:
    """Learn; what was reported."""
    found: list[Update] = []
    agent.learn(env, images, lambda update: found.append(update) is None)
    return found


def snapshot(agent: Agent) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in agent.state().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
