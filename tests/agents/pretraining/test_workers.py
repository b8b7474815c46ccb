"""Workers, whatever holds their weights together."""

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from agents.pretraining import workers
from agents.pretraining.settings import RunSettings
from agents.pretraining.workers import SharedMemory, Work, train
from ahm_env import ImageSet, PatchMaskVectorEnv, Reconstructor


def test_no_two_workers_walk_through_the_images_alike(
    monkeypatch: pytest.MonkeyPatch, phantoms: ImageSet, reconstructor: Reconstructor
) -> None:
    """Whenever they begin, or begin again."""
    walks, draws = list[int](), list[int]()

    def play_stage(_: Any, agent: Any, env: PatchMaskVectorEnv, *__: object) -> None:
        walks.extend(order.seed for order in env.episodes.orders)
        draws.append(agent.generator.initial_seed())

    monkeypatch.setattr(workers, "play_stage", play_stage)
    settings = RunSettings(device="cpu", batch_size=4)
    work = Work(settings, phantoms, phantoms.split("train"), reconstructor, SimpleNamespace())  # type: ignore[arg-type]
    for number, seen in product((1, 2, 3), (0, 1, 4)):
        train(number, work, SharedMemory(seen), lambda: False)
    assert len(set(walks)) == 9 * 4
    assert len(set(draws)) == 9
