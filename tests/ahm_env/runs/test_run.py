"""Runs of any kind: rows, checkpoints, signals and resuming, by one that adds numbers up."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ahm_env import CheckpointError, RunError, SettingsError
from ahm_env.errors import InterruptionError
from ahm_env.files import occupied
from ahm_env.runs import run as runs
from ahm_env.runs.directory import Checkpoint, Directory
from ahm_env.runs.observer import Silent
from ahm_env.runs.run import Run, held_run
from ahm_env.runs.settings import Settings


@dataclass(frozen=True)
class Adding(Settings):
    """Settings of a sum."""

    steps: int = 8
    start: int = 3


class Sheet(Directory[Adding]):
    settings_type = Adding
    columns = ("images", "seconds", "images_per_second", "loss", "odd", "total")


class Sum(Run[Adding, int]):
    """Adds the number of each step; a row every two."""

    def __init__(self, settings: Adding, directory: Sheet) -> None:
        super().__init__(settings, directory)
        self.total = torch.tensor(settings.start)
        self.restore()

    @property
    def finished(self) -> bool:
        return (self.directory.path / "sum.txt").exists()

    def train(self) -> None:
        while self.seen < self.settings.steps and self.stopped_by is None:
            self.seen += 1
            self.total += self.seen
            self.tally({"loss": float(self.seen), "odd": float(self.seen) if self.seen == 3 else nan})
            self.after_step(float(self.seen), row_due=self.seen % 2 == 0, resumable=self.seen != 6)

    def measure_row(self) -> Mapping[str, float]:
        return {"total": int(self.total)}

    def conclude(self) -> int:
        (self.directory.path / "sum.txt").write_text(str(int(self.total)))
        return int(self.total)

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        return {"sum": {"total": self.total}}, {"step": self.seen}

    def load_state(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.about["step"] == self.seen
        self.total = checkpoint.part("sum")["total"]


class Acting(Silent):
    """Does something at a step."""

    def __init__(self, at: int, predict: Callable[[], None]) -> None:
        self.at, self.predict = at, predict

    def on_update(self, images: int, loss: float) -> None:
        assert loss == images
        if images == self.at:
            self.predict()


class Pictures:
    """Images of which only the key counts."""

    channels, skipped, source = 1, 0, "pictures"

    def __init__(self, content_key: str = "a") -> None:
        self.content_key = content_key

    def __len__(self) -> int:
        return 3


def die() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def add_up(path: Path, observer: Silent | None = None) -> tuple[int, list[dict[str, float]]]:
    """The sum, and its rows without times."""
    with Sheet(path) as directory:
        directory.write_config(Adding(), {})
        total = Sum(Adding(), directory).run(observer or Silent())
        return total, [{name: row[name] for name in ("images", "loss", "odd", "total")} for row in directory.rows]


def test_rows_are_means_over_their_steps_and_what_is_measured(tmp_path: Path) -> None:
    total, rows = add_up(tmp_path)
    assert total == 3 + sum(range(9))
    # a row waits where the state is not whole: the one of step 6
    assert [(row["images"], row["loss"], row["total"]) for row in rows] == [(2, 1.5, 6), (4, 3.5, 13), (8, 6.5, 39)]
    assert [row["odd"] for row in rows if not isnan(row["odd"])] == [3]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == ",".join(Sheet.columns)


def test_a_row_of_others_steps_alone_has_the_means_before_it_and_the_time_since(tmp_path: Path) -> None:
    with Sheet(tmp_path) as directory:
        directory.write_config(Adding(), {})
        run = Sum(Adding(), directory)
        run.run(Silent())
        run.seen += 100  # by other workers
        time.sleep(0.01)
        run.record()
        last = directory.rows[-1]
    assert last["loss"] == 6.5
    assert 0 < last["images_per_second"] <= 100 / 0.01


@pytest.mark.parametrize("at", range(1, 9))
@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_a_run_that_was_ended_goes_on_as_if_it_had_not_been(tmp_path: Path, at: int, end: str) -> None:
    whole = add_up(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt if end == "killed" else InterruptionError):
        add_up(tmp_path / "parts", Acting(at, die if end == "killed" else terminate))
    assert repr(add_up(tmp_path / "parts")) == repr(whole)  # as text, NaN equals NaN


def test_a_signal_is_a_typed_error_with_its_status_and_all_is_saved(tmp_path: Path) -> None:
    with pytest.raises(InterruptionError, match=r"stopped by SIGTERM; all is saved: go on with resume=True") as stop:
        add_up(tmp_path, Acting(3, terminate))
    assert (stop.value.signal, stop.value.status, stop.value.path) == ("SIGTERM", 128 + signal.SIGTERM, tmp_path)
    latest = Sheet(tmp_path).latest()
    assert latest is not None
    assert latest.images == 3


def test_between_rows_a_checkpoint_is_saved_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        add_up(tmp_path, Acting(6, die))
    latest = Sheet(tmp_path).latest()
    assert latest is not None
    assert latest.images == 5


def test_time_goes_on_where_a_run_does(tmp_path: Path) -> None:
    with pytest.raises(InterruptionError):
        add_up(tmp_path, Acting(3, terminate))
    with Sheet(tmp_path) as directory:
        run = Sum(Adding(), directory)
        run.seconds = 1000.0
        run.run(Silent())
        assert 1000 < directory.rows[-1]["seconds"] < 1100


@pytest.mark.parametrize("error", [SettingsError, MemoryError, RuntimeError, KeyboardInterrupt])
def test_a_run_that_cannot_begin_leaves_its_place_free(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> Sum:
        raise error("does not fit")

    images: Any = Pictures()
    for directory in (Sheet(tmp_path), Sheet(tmp_path)):
        with pytest.raises(error), held_run(directory, Adding(), images, fail):
            pass
        assert not occupied(directory.path)
    directory = Sheet(tmp_path)

    def fail_late() -> Sum:
        Sum(Adding(), directory)
        raise error("does not fit")

    with pytest.raises(error), held_run(directory, Adding(), images, fail_late):
        pass
    assert not occupied(tmp_path)
    directory = Sheet(tmp_path)
    with held_run(directory, Adding(), images, lambda: Sum(Adding(), directory)) as run:
        run.run(Silent())
    with pytest.raises(error), held_run(directory, Adding(), images, fail):
        pass
    assert directory.settings() == Adding()  # but one that is there stays


@pytest.mark.slow
def test_images_that_have_changed_are_refused(tmp_path: Path) -> None:
    directory = Sheet(tmp_path)
    images: Any = Pictures()
    more: Any = Pictures("b")
    with directory:
        assert directory.write_or_check_config(Adding(), images, more)
        assert not directory.write_or_check_config(Adding(), images, more)
        with pytest.raises(RunError, match="the images of pictures or pictures have changed since this run began"):
            directory.write_or_check_config(Adding(), images, images)
    assert json.loads((tmp_path / "config.json").read_text())["images"]["count"] == 3


def test_a_new_run_takes_no_place_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Sheet.claim(None, "sum", Adding()).path == Path("runs/sum-1")
    assert Sheet.claim(Path("free"), "sum", Adding()).path == Path("free")
    with Sheet(Path("taken")) as directory:
        directory.write_config(Adding(), {})
    with pytest.raises(RunError, match="taken: holds this run already; add --resume"):
        Sheet.claim(Path("taken"), "sum", Adding())
    with pytest.raises(RunError, match="taken: holds this run already; add --resume"):
        Sheet.claim(Path("taken"), "sum", Adding(device="cpu"))  # on another machine
    with pytest.raises(RunError, match="taken: holds a run with another --start, --steps; choose another --out"):
        Sheet.claim(Path("taken"), "sum", Adding(steps=1, start=1))
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    with pytest.raises(RunError, match="full: is not an empty directory and holds no run"):
        Sheet.claim(Path("full"), "sum", Adding())


def test_a_place_that_another_run_takes_meanwhile_is_not_taken_over(tmp_path: Path) -> None:
    images: Any = Pictures()
    ours, theirs = (Sheet.claim(tmp_path / "run", "sum", Adding(start=start)) for start in (1, 2))
    with held_run(theirs, Adding(start=2), images, lambda: Sum(Adding(start=2), theirs)) as run:
        total = run.run(Silent())
    before = theirs.file.read_bytes()
    with (
        pytest.raises(RunError, match="another run took this place, with another --start; choose another --out"),
        held_run(ours, Adding(start=1), images, lambda: Sum(Adding(start=1), ours)),
    ):
        pass
    assert theirs.file.read_bytes() == before
    same = Sheet(tmp_path / "run")
    with held_run(same, Adding(start=2, device="cpu"), images, lambda: Sum(Adding(start=2), same)) as run:
        assert int(run.total) == total  # on another machine


def test_a_run_without_its_checkpoints_is_not_begun_again_unsaid(tmp_path: Path) -> None:
    images: Any = Pictures()
    with held_run(sheet := Sheet(tmp_path), Adding(), images, lambda: Sum(Adding(), sheet)) as run:
        total = run.run(Silent())
    shutil.rmtree(tmp_path / "checkpoints")
    rows = (tmp_path / "metrics.csv").read_bytes()
    with (
        pytest.raises(
            CheckpointError, match="has 3 rows, but no checkpoint to go on from; bring checkpoints/ back, or"
        ),
        held_run(sheet := Sheet(tmp_path), Adding(), images, lambda: Sum(Adding(), sheet)),
    ):
        pass
    assert (tmp_path / "metrics.csv").read_bytes() == rows
    (tmp_path / "metrics.csv").unlink()
    with held_run(sheet := Sheet(tmp_path), Adding(), images, lambda: Sum(Adding(), sheet)) as run:
        assert (run.seen, run.run(Silent())) == (0, total)


def test_a_checkpoint_of_another_version_is_refused_in_a_line(tmp_path: Path) -> None:
    images: Any = Pictures()
    with held_run(sheet := Sheet(tmp_path), Adding(), images, lambda: Sum(Adding(), sheet)) as run:
        run.run(Silent())
    checkpoint = sheet.latest()
    assert checkpoint is not None
    row = {name: value for name, value in checkpoint.about["rows"][0].items() if name != "odd"}
    sheet.rows = [row]
    sheet.save(checkpoint)
    with (
        pytest.raises(CheckpointError, match="its checkpoint is of another version, without 'odd'; start again"),
        held_run(again := Sheet(tmp_path), Adding(), images, lambda: Sum(Adding(), again)),
    ):
        pass


def test_a_run_goes_on_by_the_settings_it_has(tmp_path: Path) -> None:
    with Sheet(tmp_path) as directory:
        directory.write_config(Adding(steps=5), {})
    assert Sheet.resume(tmp_path, {"steps": 5, "start": None})[1] == Adding(steps=5)
    directory, elsewhere = Sheet.resume(tmp_path, {"device": "cpu"})  # on another machine
    assert elsewhere == Adding(steps=5, device="cpu")
    with pytest.raises(RunError, match="this run has other settings than --steps; leave them out to resume it"):
        Sheet.resume(tmp_path, {"steps": 6, "start": 3})
    with pytest.raises(RunError, match="holds no run to resume"):
        Sheet.resume(tmp_path / "none", {})
    with pytest.raises(RunError, match="--resume needs --out RUN"):
        Sheet.resume(None, {})
