"""Numbers of agents' settings: those that change over a run, and those that are refused since they teach nothing."""

from dataclasses import fields
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from agents import AGENTS, pretrain
from agents.registry import read_settings
from agents.settings import RANGES, LinearSchedule
from ahm_env import SettingsError


@pytest.mark.parametrize(
    ("given", "text", "at"),
    [
        (0.02, "0.02", {0.0: 0.02, 0.7: 0.02, 1.0: 0.02}),
        ("2:5", "2:5", {0.0: 2.0, 0.5: 3.5, 1.0: 5.0, 1.2: 5.0}),
        ("0.02:0.002", "0.02:0.002", {0.0: 0.02, 0.5: 0.011, 1.0: 0.002}),
        (LinearSchedule(1, 0), "1:0", {0.25: 0.75}),
    ],
)
def test_it_goes_evenly_from_start_to_end_and_is_written_as_it_was_given(given: Any, text: str, at: Any) -> None:
    schedule = LinearSchedule.parse(given, "--set it")
    assert str(schedule) == text
    assert {progress: schedule.at(progress) for progress in at} == pytest.approx(at)
    assert LinearSchedule.parse(text, "--set it") == schedule


@pytest.mark.parametrize("given", ["much", "", "1:", "0:1:0", "nan", "inf", "0:inf", "0.05", "1:11", None, True])
def test_what_is_no_number_or_out_of_range_is_refused(given: Any) -> None:
    with pytest.raises(SettingsError, match=rf"^--set it {given} is not a number.*from 0\.1 to 10; for example"):
        LinearSchedule.parse(given, "--set it", 0.1, 10)


# Ranges


OUTSIDE = {
    "more than 0": (-1, 0),
    "0 or more": (-0.5,),
    "1 or more": (0, -2),
    "from 0 to 1": (-0.1, 3),
    "between 0 and 1": (0, 1, 2),
}
BORDERS = {"0 or more": (0,), "1 or more": (1,), "from 0 to 1": (0, 1), "between 0 and 1": (0.01, 0.99)}
ENDLESS = (inf, -inf, nan)


def owners(name: str) -> list[str]:
    """Agents that have a setting of this name."""
    kinds = {algo: found.settings_class for algo, found in AGENTS.items()}
    return [algo for algo, kind in kinds.items() if kind and name in {field.name for field in fields(kind)}]


def whole(name: str) -> bool:
    return name in RANGES[2][2]


CASES = [(algo, name, words) for words, _, names in RANGES for name in names for algo in owners(name)]


@pytest.mark.parametrize(("algo", "name", "words"), CASES)
def test_what_is_out_of_range_is_refused_with_its_range(algo: str, name: str, words: str) -> None:
    for number in OUTSIDE[words]:
        with pytest.raises(SettingsError, match=rf"^--set {name} {number} must be {words}$"):
            read_settings(algo, {name: number})
    for number in () if whole(name) else ENDLESS:
        with pytest.raises(SettingsError, match=rf"^--set {name} {number} must be finite$"):
            read_settings(algo, {name: number})


@pytest.mark.parametrize(("algo", "name", "words"), CASES)
def test_the_borders_of_a_range_are_within_it(algo: str, name: str, words: str) -> None:
    others = {"own_weight": 1.0} if name == "image_weight" else {}
    others |= {"minibatches": 1} if name == "n_steps" and algo == "ppo" else {}
    for number in BORDERS.get(words, ()):
        read_settings(algo, {name: number, **others})


def test_every_number_that_an_agent_of_ours_has_is_in_one_range_or_changes_over_the_run() -> None:
    known: list[Any] = [name for _, _, names in RANGES for name in names]
    assert len(known) == len(set(known))
    own = [field for found in AGENTS.values() if found.settings_class for field in fields(found.settings_class)]
    assert {field.name for field in own if field.type in (int, float, float | None)} == set(known)


def test_a_run_is_refused_before_it_has_a_directory(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--set learning_rate -1 must be more than 0"):
        pretrain("phantom:40", tmp_path / "run", algo="hard-patches", agent={"learning_rate": -1})
    assert not (tmp_path / "run").exists()
