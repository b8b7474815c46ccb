"""Workers that train the same agent and the same U-Net at once; here as processes over shared memory (Hogwild).

Processes are spawned (a forked PyTorch process deadlocks) and compute with one thread each.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Event
from typing import Any

import numpy as np
import torch
from torch import multiprocessing

from agents.agent import Agent, Update
from agents.pretraining.schedule import make_env, play_stage, set_curriculum, stages, wrapped
from agents.pretraining.settings import RunSettings
from ahm_env import AHMError, ImageSet, Reconstructor, TrainingError
from ahm_env.masks import Ints
from ahm_env.model.devices import without_script
from ahm_env.model.parameter_server import Link
from ahm_env.runs.directory import signals_to

_PATIENCE = 120.0  # seconds that a worker has to end its batch


@dataclass(frozen=True)
class Work:
    """What all workers have.

    Attributes:
        settings: Of the run.
        images: The images.
        shown: Which of them are learned from.
        reconstructor: Its weights are those of all workers.
        agent: The same.
    """

    settings: RunSettings
    images: ImageSet
    shown: Ints
    reconstructor: Reconstructor
    agent: Agent

    def lent(self) -> "Work":
        """Return what another process is given: the generator does not survive the way, and each has its own."""
        agent = copy(self.agent)
        del agent.generator
        return replace(self, agent=agent)


class SharedMemory:
    """Memory in which all workers of a machine step on the same weights (Hogwild)."""

    def __init__(self, seen: int) -> None:
        self._counter: Any = multiprocessing.get_context("spawn").Value("q", seen)

    @property
    def seen(self) -> int:
        """Images of all workers so far."""
        return int(self._counter.value)

    def add(self, images: int) -> int:
        """Count the images of a step that a worker has taken; returns how many there are of all then."""
        with self._counter.get_lock():
            self._counter.value += images
            return int(self._counter.value)


class Workers:
    """All workers but the first, which is the calling process itself. Use as a context manager.

    Args:
        count: Number of workers, the calling process included.
        work: What they have.
        seen: Images that were shown before.

    Attributes:
        shared: Holds their weights together.
    """

    def __init__(self, count: int, work: Work, seen: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.shared = SharedMemory(seen)
        self._stop, self._failures = context.Event(), context.SimpleQueue()
        self._processes: list[Any] = []
        self._parts = work.settings.algo, work.settings.wrapper, *work.images.functions
        if count > 1:
            work.agent.share_memory()
            work.reconstructor.share_memory()
        for number in range(1, count):
            args = number, work.lent(), self.shared, self._stop, self._failures
            self._processes.append(context.Process(target=_work, args=args, daemon=True))

    def __enter__(self) -> "Workers":
        # a signal goes to workers, too, perhaps before they can turn it off: they are born with it turned off
        with signals_to(signal.SIG_IGN), without_script(*self._parts):
            for process in self._processes:
                process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for process in self._processes:
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()

    def measure(self) -> Mapping[str, float]:
        """Give further numbers for a row of `metrics.csv`: none."""
        return {}

    def check(self) -> None:
        """See whether all are well.

        Raises:
            TrainingError: A worker died; the text has its traceback, if there was time for one.
        """
        for number, process in enumerate(self._processes, 1):
            if process.exitcode:
                details = "" if self._failures.empty() else self._failures.get()
                code = process.exitcode
                how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else "failed"
                raise TrainingError(
                    details
                    or f"worker {number} {how}; resume from the last checkpoint with --resume, "
                    f"with fewer --workers if memory ran out"
                )

    def join(self) -> None:
        """Wait until all have come to the end of the run."""
        self._stop.set()
        deadline = time.monotonic() + _PATIENCE
        while any(process.exitcode is None for process in self._processes) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.check()

    def fetch(self) -> None:
        """Bring here what is held elsewhere of the state: nothing."""


def seed_of(run: int, number: int, seen: int) -> int:
    """Return the seed of a worker's environments, where it begins after so many images in a run of this seed.

    Not number after number: each of the environments begins with the next one, and would walk through the images as
    another worker's, or another run's, does.
    """
    return int(np.random.SeedSequence((run, number, seen)).generate_state(1, np.uint64)[0] >> 1)


def train(number: int, work: Work, shared: SharedMemory | Link, stopped: Callable[[], bool]) -> None:
    """Be a worker: the same stages as the first worker's, on images of its own.

    Args:
        number: Of the worker; the first one's is 0.
        work: What all workers have.
        shared: Holds their weights together.
        stopped: Whether to end before all images were shown.
    """
    settings, agent = work.settings, work.agent
    torch.set_num_threads(1)
    env = make_env(settings, work.images, work.shown, work.reconstructor)
    seed = seed_of(settings.seed, number, shared.seen)
    env.reset(seed=seed)
    agent.generator = torch.Generator().manual_seed(seed)
    learning = wrapped(env, settings.wrapper)
    for stage in stages(settings):

        def after(update: Update, until: int = stage.until) -> bool:
            seen = shared.add(update.images)
            set_curriculum(env, agent, settings, seen)
            return seen < until and not stopped()

        set_curriculum(env, agent, settings, shared.seen)
        if shared.seen < stage.until and not stopped():
            play_stage(stage, agent, env, learning, stage.until, after)


def _work(number: int, work: Work, shared: SharedMemory, stop: Event, failures: Any) -> None:
    """Be a worker in a process of its own."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):  # may go to all; the first worker decides when to stop
        signal.signal(signal_number, signal.SIG_IGN)
    parent = os.getppid()
    try:
        train(number, work, shared, lambda: stop.is_set() or os.getppid() != parent)
    except AHMError as error:
        failures.put(f"worker {number}: {error}")
        raise SystemExit(1) from None
    except BaseException:
        failures.put(
            f"worker {number} failed; the last checkpoint is intact, go on with --resume\n{traceback.format_exc()}"
        )
        raise SystemExit(1) from None
