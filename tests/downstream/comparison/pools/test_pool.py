"""Pools: how many trials run at once, what becomes of those that fail, and that none is left behind."""

import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from downstream.comparison.pools import pool
from downstream.comparison.pools.pool import Pool, images_shown, last_line

# In a file of its own, since the processes must be able to import it
TRIALS = """
import os, signal, sys, time
import torch
from dataclasses import dataclass
from pathlib import Path
from ahm_env import AHMError


@dataclass(frozen=True)
class Trial:
    path: Path
    end: str = "well"
    total: int = 1
    outcome: str = "as it should be"
    processes: int = 1

    @property
    def given(self):
        return {}

    @property
    def name(self):
        return self.path.name

    def work(self):
        others = list(self.path.parent.glob("*.now"))
        now = self.path.with_suffix(".now")
        now.write_text("")
        self.path.with_suffix(".done").write_text(f"{len(others)} {torch.get_num_threads()}")
        time.sleep(0.2)
        now.unlink()
        if self.end == "badly":
            print("all was well")
            raise AHMError("then not")
        if self.end == "unforeseen":
            raise RuntimeError("out of order\\nand more")
        if self.end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.end == "never":
            def stop(*_):
                self.path.with_suffix(".saved").write_text("")
                sys.exit(0)
            signal.signal(signal.SIGTERM, stop)
            self.path.with_suffix(".waits").write_text("")
            time.sleep(60)
"""


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_processes: None) -> Any:
    """The module of the trials."""
    (tmp_path / "trials_of_a_pool.py").write_text(TRIALS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(pool, "POLL", 0.02)
    return importlib.import_module("trials_of_a_pool")


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


@pytest.mark.slow
def test_first_ones_come_first_and_as_many_at_once_as_there_are_hands(trials: Any, tmp_path: Path) -> None:
    told = list[str]()
    with Pool(1, 3, told.append, silent) as one:
        one.work([trials.Trial(tmp_path / name) for name in "ba"])
        one.work([])
    assert (tmp_path / "a.done").read_text() == "0 3"  # alone, with three threads
    assert told == [f"done    {name:<40} as it should be" for name in "ba"]


@pytest.mark.slow
def test_what_fails_is_told_and_keeps_no_other_from_running(trials: Any, tmp_path: Path) -> None:
    told = list[str]()
    ends = {"one": "badly", "two": "killed", "three": "well", "four": "unforeseen"}
    (tmp_path / "two.log").write_text("error: of an earlier command\nhalf a li")
    with Pool(2, 1, told.append, silent) as two:
        two.work([trials.Trial(tmp_path / name, end) for name, end in ends.items()])
    assert {trial.path.name for trial in two.failed} == {"one", "two", "four"}
    assert all((tmp_path / f"{name}.done").exists() for name in ends)
    assert max(int((tmp_path / f"{name}.done").read_text()[0]) for name in ends) <= 1  # never three at once
    lines = {line.split()[1]: line for line in told}
    assert lines["one"].endswith("status 2: error: then not")
    assert lines["two"].endswith(" error: killed by SIGKILL; memory may have run out: lower --jobs")
    assert last_line(tmp_path / "two") == "error: killed by SIGKILL; memory may have run out: lower --jobs"
    assert lines["three"].startswith("done")
    assert lines["four"].endswith("status 1: error: RuntimeError: out of order")
    assert "Traceback" in (tmp_path / "four.log").read_text()


@pytest.mark.slow
def test_a_trial_of_several_workers_takes_the_place_of_others(trials: Any, tmp_path: Path) -> None:
    with Pool(2, 1, str, silent) as two:
        two.work([trials.Trial(tmp_path / name, processes=count) for name, count in {"a": 1, "b": 2, "c": 5}.items()])
    assert [(tmp_path / f"{name}.done").read_text()[0] for name in "abc"] == ["0", "0", "0"]  # each alone, in the end


@pytest.mark.slow
def test_none_is_left_behind_and_all_may_save_what_they_have(
    trials: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        while not (tmp_path / "endless.waits").exists():
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pool, "conclude", interrupt)
    names = {"endless": "never", "short": "well", "late": "well"}
    with pytest.raises(KeyboardInterrupt), Pool(2, 1, print, silent) as two:
        two.work([trials.Trial(tmp_path / name, end) for name, end in names.items()])
    assert (tmp_path / "endless.saved").exists()
    assert not (tmp_path / "late.done").exists()
    assert not any(process.is_alive() for process in two._running)


POOL = """
from pathlib import Path
from downstream.comparison.pools.pool import Pool
from trials_of_a_pool import Trial

if __name__ == "__main__":
    with Pool(1, 1, print, lambda done, total: None) as one:
        one.work([Trial(Path("endless"), "never")])
"""


@pytest.mark.slow
def test_a_trial_saves_and_ends_where_its_pool_is_killed(trials: Any, tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(POOL)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(pool.__file__).parents[3]}"}
    process = subprocess.Popen([sys.executable, "pool.py"], cwd=tmp_path, env=environment)
    try:
        wait_for(tmp_path / "endless.waits")
    finally:
        process.kill()
        process.wait()
    wait_for(tmp_path / "endless.saved")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


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
