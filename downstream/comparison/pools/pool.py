"""A few processes at once, each at work on a trial; none is left behind."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from ahm_env import RunError
from ahm_env.errors import in_one_line
from ahm_env.files import first_line
from ahm_env.images.dataset.builder import Progress
from ahm_env.model.devices import without_script
from downstream.comparison.trials import Trial
from downstream.finetuning.run import FinetuneDirectory

POLL = 0.5  # seconds between two looks at the processes


class Pool:
    """Works on trials in processes of their own, a few at once. Use as a context manager: no process is left behind.

    A trial of several workers takes the place of as many others.

    Args:
        size: Processes at once.
        threads: Threads of each.
        log: Called for each trial that ends, in a line.
        progress: Called with (done, total) in images that the trials have shown.

    Attributes:
        failed: Trials that did not come to their end.
    """

    def __init__(self, size: int, threads: int, log: Callable[[str], object], progress: Progress) -> None:
        self.size, self.threads, self.log, self.progress = size, threads, log, progress
        self.failed: list[Trial] = []
        self._waiting: list[Trial] = []
        self._running: dict[Any, Trial] = {}

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.terminate()  # saves its state before it ends
        for process in self._running:
            process.join()

    def work(self, trials: Sequence[Trial]) -> None:
        """Bring trials to their end, first ones first; one that fails does not keep the others from running."""
        total = sum(trial.total for trial in trials)
        self.add(trials)
        while self.busy:
            time.sleep(POLL)
            self.look()
            self.progress(total - self._left, total)

    @property
    def busy(self) -> bool:
        """Whether trials run, or wait for that."""
        return bool(self._waiting or self._running)

    def add(self, trials: Sequence[Trial]) -> None:
        """Begin with trials, as far as there is room, without waiting for their end; others begin in `look`."""
        self._waiting += trials
        self._begin()

    def look(self) -> None:
        """See which trials have ended, and begin with those that now have room."""
        for process in [one for one in self._running if not one.is_alive()]:
            process.join()
            self.conclude(self._running.pop(process), process.exitcode)
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        while self._waiting and self._fits(self._waiting[0]):
            trial = self._waiting.pop(0)
            process = context.Process(target=run_logged, args=(trial, self.threads))
            with without_script(trial.given.get("algo"), trial.given.get("wrapper")):
                process.start()
            self._running[process] = trial

    @property
    def _left(self) -> int:
        """Images that trials have yet to show."""
        running = sum(one.total - images_shown(one.path) for one in self._running.values())
        return running + sum(one.total for one in self._waiting)

    def _fits(self, trial: Trial) -> bool:
        """Whether there is room for a trial; one that is larger than the pool is alone in it."""
        taken = sum(one.processes for one in self._running.values())
        return not taken or taken + trial.processes <= self.size

    def conclude(self, trial: Trial, status: int) -> None:
        """Log that a trial has ended, with status 0 where all is well."""
        if status == 0:
            self.log(f"done    {trial.name:<40} {trial.outcome}")
        else:
            self.failed.append(trial)
            if status < 0:  # it could not say so itself, and the last line may be of an earlier failure
                killer = signal.Signals(-status).name
                hint = "; memory may have run out: lower --jobs" if killer == "SIGKILL" else ""
                add_error(trial.path, f"killed by {killer}{hint}")
            how = f"status {status}: " if status > 0 else ""
            self.log(f"failed  {trial.name:<40} {how}{last_line(trial.path)}")


def images_shown(path: Path) -> int:
    """Images that a run has shown so far, by its `metrics.csv`."""
    try:
        return int(FinetuneDirectory(path).last_row()["images"])
    except (RunError, KeyError):
        return 0


def run_logged(trial: Trial, threads: int) -> None:
    """Work on a trial, warnings and errors going to a log beside its directory; made for a process, which this ends.

    The status is not 0 where the trial does not come to its end; the reason is the log's last line. It saves and ends
    where the process that started this one is gone.
    """
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log = log_of(trial.path)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            trial.work()
            status = 0
        except Exception as error:
            line, status = in_one_line(error), 2
            if line is None:  # a fault of ours or of the machine
                traceback.print_exc(file=file)
                line, status = f"{type(error).__name__}: {first_line(error)}", 1
            file.write(f"error: {line}\n")
    sys.exit(status)


def _end_with_parent() -> None:
    """Wait until the process that started this one is gone, maybe without a word, and end this one, which saves."""
    if (parent := parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def log_of(path: Path) -> Path:
    """Return the file that lies beside a trial's directory, for warnings and errors."""
    return path.with_name(f"{path.name}.log")


def add_error(path: Path, reason: str) -> None:
    """Add to the log beside a run, as a line of its own, why it has failed."""
    log = log_of(path)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\nerror: {reason}\n")  # what was killed may have written half a line


def last_line(path: Path) -> str:
    """Read the last line of the log beside a run."""
    log = log_of(path)
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), f"see {log}")
