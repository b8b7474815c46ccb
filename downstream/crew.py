"""A few processes at once, each at work on a cell of a comparison; nobody is left behind."""

import csv
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import multiprocessing

from ahm_env import AHMError
from ahm_env.errors import explain

POLL = 0.5  # seconds between two looks at the processes


class Job(Protocol):
    """What a process works on: a run in a directory, with a log beside it."""

    @property
    def path(self) -> Path:
        """Its directory."""

    @property
    def images(self) -> int:
        """Images shown so far."""


class Crew:
    """Runs jobs in processes of their own, a few at once. Use as a context manager: nobody is left behind.

    Args:
        size: Processes at once.
        threads: Threads of each.
        console: Where progress is shown.

    Attributes:
        failed: Jobs that did not come to their end.
    """

    def __init__(self, size: int, threads: int, console: Console) -> None:
        self.size, self.threads, self.console = size, threads, console
        self.failed: list[Job] = []
        self._running: dict[Any, Job] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.terminate()  # saves its state before it ends
        for process in self._running:
            process.join()

    def work(self, jobs: Sequence[Any], run: Callable[[Any], int], images: int, result: Callable[[Any], str]) -> None:
        """Run jobs to their end; one that fails does not keep the others from running.

        Args:
            jobs: The jobs, first ones first.
            run: Called with a job in a process of its own, where what it prints goes to the job's log; returns the
                exit status. Has to be picklable.
            images: That each job shows, for the progress bar.
            result: What to say of a job that is done.
        """
        context, waiting = multiprocessing.get_context("spawn"), list(jobs)
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            task = bar.add_task("images", total=len(waiting) * images)
            done = 0
            while waiting or self._running:
                while waiting and len(self._running) < self.size:
                    job = waiting.pop(0)
                    process = context.Process(target=run_logged, args=(run, job, self.threads))
                    process.start()
                    self._running[process] = job
                time.sleep(POLL)
                for process in [one for one in self._running if not one.is_alive()]:
                    process.join()
                    job = self._running.pop(process)
                    done += images
                    self._tell(job, process.exitcode, result)
                bar.update(task, completed=done + sum(job.images for job in self._running.values()))

    def _tell(self, job: Job, status: int, result: Callable[[Any], str]) -> None:
        if status == 0:
            self.console.print(f"done    {job.path.name:<40} {result(job)}", markup=False)
        else:
            self.failed.append(job)
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            self.console.print(f"failed  {job.path.name:<40} {how}: {last_line(job.path)}", markup=False)


def images_shown(path: Path) -> int:
    """Images that a run has shown so far, by its `metrics.csv`."""
    try:
        with (path / "metrics.csv").open(encoding="utf-8", newline="") as file:
            return int(list(csv.DictReader(file))[-1]["images"])
    except (OSError, IndexError, KeyError, ValueError, TypeError):
        return 0


def run_logged(run: Callable[[Any], int], job: Job, threads: int) -> None:
    """Work on a job, what is printed going to a log beside its directory; made for a process, which ends with this.

    The status is not 0 where the job does not come to its end; the reason is the log's last line.
    """
    torch.set_num_threads(threads)
    log = job.path.with_name(f"{job.path.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            status = run(job)
        except (AHMError, OSError) as error:
            file.write(f"error: {explain(error) if isinstance(error, OSError) else error}\n")
            status = 2
    sys.exit(status)


def last_line(path: Path) -> str:
    """The last line of the log beside a run."""
    log = path.with_name(f"{path.name}.log")
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), f"see {log}")
