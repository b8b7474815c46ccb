"""Run directories of any kind of settings, and the signals that end a run; what every run shares is in test_runs.py."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from ahm_env import RunError
from ahm_env.runs.directory import Directory, Interruption
from ahm_env.runs.settings import Settings


@dataclass(frozen=True)
class Brewing(Settings):
    """Settings of something else."""

    leaves: int = 2
    sort: str = "green"


class Pot(Directory[Brewing]):
    settings_type = Brewing
    columns = ("images", "heat", "cups")


def test_settings_and_columns_are_those_of_the_kind(tmp_path: Path) -> None:
    with Pot(tmp_path / "pot") as pot:
        pot.write_config(Brewing(leaves=3, sort="black"), {"content_key": "tea"})
        assert (pot.settings(), pot.content_key()) == (Brewing(leaves=3, sort="black"), "tea")
        pot.add({"images": 12, "heat": 1 / 3, "cups": 2, "elsewhere": 5.0})
        pot.add({"images": 24, "heat": float("nan"), "cups": 3})
        assert pot.last_row()["images"] == 24
        assert isnan(pot.last_row()["heat"])
    assert (tmp_path / "pot" / "metrics.csv").read_text() == "images,heat,cups\n12,0.333333,2\n24,nan,3\n"


@pytest.mark.parametrize("images", ["absent", None, {}])
def test_where_it_is_not_said_which_images_a_run_has_the_file_is_damaged(tmp_path: Path, images: Any) -> None:
    with Pot(tmp_path / "pot") as pot:
        pot.write({"settings": Brewing().as_dict(), **({} if images == "absent" else {"images": images})})
    with pytest.raises(RunError, match=r"pot/config\.json: damaged .*; restore it, or choose another --out"):
        pot.content_key()


def test_another_kind_of_run_is_refused_by_name(tmp_path: Path) -> None:
    from agents.pretraining.run_directory import RunDirectory

    with Pot(tmp_path / "pot") as pot:
        pot.write_config(Brewing(), {})
    with pytest.raises(RunError, match=r"pot/config\.json: another command .*leaves.*--out"):
        RunDirectory(tmp_path / "pot").settings()


@pytest.mark.parametrize("text", [None, "", "images,heat,cups\n", "images,heat,cups\n12,hot,2\n", "images,heat\n1\n"])
def test_without_a_last_row_the_remedy_is_told(tmp_path: Path, text: str | None) -> None:
    pot = Pot(tmp_path)
    if text is not None:
        (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(RunError, match=r"metrics\.csv: missing or damaged .*--resume") as refusal:
        pot.last_row()
    assert "\n" not in str(refusal.value)


def test_outside_of_the_main_thread_there_is_nothing_to_watch() -> None:
    def watch() -> str:
        with Interruption().watch():
            return "done"

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(watch).result() == "done"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_while_it_is_watched_for_and_acts_as_before_afterwards(number: int) -> None:
    seen, interruption = [], Interruption()
    before = signal.signal(number, lambda *_: seen.append("outside"))
    try:
        with interruption.watch():
            assert interruption.signal is None
            os.kill(os.getpid(), number)
            assert (interruption.signal, seen) == (number, [])
        with pytest.raises(ZeroDivisionError), interruption.watch():
            raise ZeroDivisionError
        os.kill(os.getpid(), number)
        assert seen == ["outside"]
    finally:
        signal.signal(number, before)
