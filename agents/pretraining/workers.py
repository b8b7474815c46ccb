"""Worker processes that train the same agent and the same U-Net at once, over shared memory (Hogwild).

Processes are spawned (a forked PyTorch process deadlocks) and compute with one thread each.
"""

import os
import signal
import time
import traceback
from copy import copy
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Event
from typing import Any

import torch
from torch import multiprocessing

from agents.agent import Agent, Update
from agents.pretraining.schedule import make_env, play_stage, set_curriculum, stages
from agents.pretraining.settings import RunSettings
from ahm_env import AHMError, ImageSet, Reconstructor, TrainingError
from ahm_env.masks import Ints

_PATIENCE = 120.0  # seconds that a worker has to end its batch


@dataclass(frozen=True)
class Work:
    """What all workers share.

    Attributes:
        settings: Of the run.
        images: The images.
        shown: Which of them are learned from.
        reconstructor: Moved to shared memory, where there is more than one worker.
        agent: The same.
        counter: A number of images in shared memory, on which all count.
    """

    settings: RunSettings
    images: ImageSet
    shown: Ints
    reconstructor: Reconstructor
    agent: Agent
    counter: Any

    def count(self, images: int) -> int:
        """Add images to those of all workers; returns how many there are then."""
        with self.counter.get_lock():
            self.counter.value += images
            return int(self.counter.value)


class Workers:
    """All workers but the first, which is the calling process itself. Use as a context manager.

    Args:
        count: Number of workers, the calling process included.
        work: What they share.
    """

    def __init__(self, count: int, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._failures = context.Event(), context.SimpleQueue()
        self._processes: list[Any] = []
        if count > 1:
            work.agent.share_memory()
            work.reconstructor.share_memory()
        lent = copy(work.agent)
        del lent.generator  # does not survive the way to another process; each worker has its own
        work = replace(work, agent=lent)
        for number in range(1, count):
            args = number, work, self._stop, self._failures
            self._processes.append(context.Process(target=_work, args=args, daemon=True))

    def __enter__(self) -> "Workers":
        # a signal goes to workers, too, perhaps before they can turn it off: they are born with it turned off
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for process in self._processes:
                process.start()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for process in self._processes:
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()

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


def _work(number: int, work: Work, stop: Event, failures: Any) -> None:
    """Run a worker: the same stages as the first worker's, on images of its own."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):  # may go to all; the first worker decides when to stop
        signal.signal(signal_number, signal.SIG_IGN)
    settings, agent, counter = work.settings, work.agent, work.counter
    torch.set_num_threads(1)
    parent = os.getppid()
    try:
        work.reconstructor.own_statistics()
        env = make_env(settings, work.images, work.shown, work.reconstructor)
        seed = int(torch.randint(2**40, (1,), generator=torch.Generator().manual_seed(settings.seed))) + number
        env.reset(seed=seed + counter.value)
        agent.generator = torch.Generator().manual_seed(seed + counter.value)
        for stage in stages(settings):

            def after(update: Update, until: int = stage.until) -> bool:
                seen = work.count(update.images)
                set_curriculum(env, agent, settings, seen)
                return seen < until and not stop.is_set() and os.getppid() == parent

            set_curriculum(env, agent, settings, counter.value)
            if counter.value < stage.until and not stop.is_set():
                play_stage(stage, agent, env, stage.until, after, settings.wrapper)
    except AHMError as error:
        failures.put(f"worker {number}: {error}")
        raise SystemExit(1) from None
    except BaseException:
        failures.put(
            f"worker {number} failed; the last checkpoint is intact, go on with --resume\n{traceback.format_exc()}"
        )
        raise SystemExit(1) from None
