"""The example of an agent of one's own: whole, short, and learning."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.pretraining.hardness import measure
from ahm_env import MaskRatio, PatchMaskVectorEnv, load_images

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_agent.py"


@pytest.fixture
def env(tmp_path: Path) -> PatchMaskVectorEnv:
    images = load_images("phantom:80", 64, cache_dir=tmp_path)
    return PatchMaskVectorEnv(8, data=images, indices=np.arange(64), mask_ratio=0.5)


@pytest.fixture
def agent_class() -> Any:
    return runpy.run_path(str(EXAMPLE))["MomentsAgent"]


@pytest.mark.slow
def test_it_learns_to_hide_what_is_hard(env: PatchMaskVectorEnv, agent_class: Any) -> None:
    agent = agent_class(env)
    held_out, reconstructor = np.arange(64, 80), env.episodes.reconstructor
    before = measure(agent, reconstructor, env.episodes.images, held_out, MaskRatio.parse(0.5))
    agent.learn(env, 160)
    after = measure(agent, reconstructor, env.episodes.images, held_out, MaskRatio.parse(0.5))
    assert before.sampled.hardness == pytest.approx(1, abs=0.15)
    assert 1.2 < after.sampled.hardness < after.likeliest.hardness


def test_it_keeps_to_the_protocol(env: PatchMaskVectorEnv, agent_class: Any) -> None:
    agent, images = agent_class(env), env.reset(seed=0)[0]
    agent.weights = torch.tensor([1.0, 2.0])
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    one, same, other = (agent.predict(images, generator=generator) for generator in generators)
    assert (one.sum(1) == 32).all()
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(agent.predict(images, True), agent.predict(images, True))
    fresh = agent_class(env)
    fresh.restore(agent.state())
    assert np.array_equal(fresh.maps(images)[0], agent.maps(images)[0])


def test_it_is_short() -> None:
    lines = [line.strip() for line in EXAMPLE.read_text(encoding="utf-8").split("class MomentsAgent")[1].splitlines()]
    assert len([line for line in lines if line and not line.startswith(('"""', "#"))]) <= 45
