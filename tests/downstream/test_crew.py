"""Crews: how many work at once, what becomes of those who fail, and that nobody is left behind."""

import importlib
import io
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from downstream import crew
from downstream.crew import Crew, images_shown, last_line

# In a file of its own, since the processes must be able to import it
JOBS = """
import os, signal, sys, time
import torch
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    path: Path
    end: str = "well"
    images: int = 0


def run(job):
    others = list(job.path.parent.glob("*.now"))
    now = job.path.with_suffix(".now")
    now.write_text("")
    job.path.with_suffix(".done").write_text(f"{len(others)} {torch.get_num_threads()}")
    time.sleep(0.2)
    now.unlink()
    if job.end == "badly":
        print("all was well\\nerror: then not\\n")
        return 3
    if job.end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.end == "never":
        def stop(*_):
            job.path.with_suffix(".saved").write_text("")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        job.path.with_suffix(".waits").write_text("")
        time.sleep(60)
    return 0
"""


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the jobs."""
    (tmp_path / "jobs_of_a_crew.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(crew, "POLL", 0.02)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return importlib.import_module("jobs_of_a_crew")


def said() -> Console:
    return Console(file=io.StringIO(), width=200)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_first_ones_come_first_and_as_many_at_once_as_there_are_hands(jobs: Any, tmp_path: Path) -> None:
    console, order = said(), list[str]()

    def result(job: Any) -> str:
        order.append(job.path.name)
        return "as it should be"

    with Crew(1, 3, console) as one:
        one.work([jobs.Job(tmp_path / name) for name in "ba"], jobs.run, 1, result)
        one.work([], jobs.run, 1, result)
    assert order == ["b", "a"]
    assert (tmp_path / "a.done").read_text() == "0 3"  # alone, with three threads
    assert text(console).splitlines() == [f"done    {name:<40} as it should be" for name in "ba"]


def test_who_fails_is_told_and_keeps_nobody_from_working(jobs: Any, tmp_path: Path) -> None:
    console = said()
    ends = {"one": "badly", "two": "killed", "three": "well"}
    with Crew(2, 1, console) as two:
        two.work([jobs.Job(tmp_path / name, end) for name, end in ends.items()], jobs.run, 1, lambda _: "")
    assert {job.path.name for job in two.failed} == {"one", "two"}
    assert all((tmp_path / f"{name}.done").exists() for name in ends)
    assert max(int((tmp_path / f"{name}.done").read_text()[0]) for name in ends) <= 1  # never three at once
    lines = {line.split()[1]: line for line in text(console).splitlines()}
    assert lines["one"].endswith("status 3: error: then not")
    assert f"SIGKILL: see {tmp_path / 'two.log'}" in lines["two"]
    assert lines["three"].startswith("done")


def test_nobody_is_left_behind_and_all_may_save_what_they_have(jobs: Any, tmp_path: Path) -> None:
    def interrupt(_: Any) -> str:
        while not (tmp_path / "endless.waits").exists():
            time.sleep(0.02)
        raise KeyboardInterrupt

    names = {"endless": "never", "short": "well", "late": "well"}
    with pytest.raises(KeyboardInterrupt), Crew(2, 1, said()) as two:
        two.work([jobs.Job(tmp_path / name, end) for name, end in names.items()], jobs.run, 1, interrupt)
    assert (tmp_path / "endless.saved").exists()
    assert not (tmp_path / "late.done").exists()
    assert not any(process.is_alive() for process in two._running)


def test_the_last_line_of_a_log_is_what_it_says(tmp_path: Path) -> None:
    assert last_line(tmp_path / "run") == f"see {tmp_path / 'run.log'}"
    (tmp_path / "run.log").write_bytes(b"one\nerror: \xff two\n  \n")
    assert last_line(tmp_path / "run") == "error: \N{REPLACEMENT CHARACTER} two"


@pytest.mark.parametrize(
    ("content", "images"),
    [("images,loss\n8,1\n16,0.5\n", 16), ("images,loss\n", 0), ("", 0), ("loss\n1\n", 0), ("images\nmany\n", 0)],
)
def test_how_far_a_run_is_can_be_seen_in_its_metrics(content: str, images: int, tmp_path: Path) -> None:
    assert images_shown(tmp_path) == 0
    (tmp_path / "metrics.csv").write_text(content)
    assert images_shown(tmp_path) == images
