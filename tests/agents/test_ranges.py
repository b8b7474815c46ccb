"""Numbers of agents' settings that would silently learn nothing, or the opposite, are refused; all defaults are not."""

from dataclasses import fields
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from agents import AGENTS, pretrain
from agents.ranges import RANGES
from agents.registry import check_settings
from ahm_env import SettingsError

OUTSIDE = {"more than 0": (-1, 0), "0 or more": (-0.5,), "1 or more": (0, -2), "from 0 to 1": (-0.1, 3)}
BORDERS = {"0 or more": (0,), "1 or more": (1,), "from 0 to 1": (0, 1)}
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
            check_settings(algo, {name: number})
    for number in () if whole(name) else ENDLESS:
        with pytest.raises(SettingsError, match=rf"^--set {name} {number} must be finite$"):
            check_settings(algo, {name: number})


@pytest.mark.parametrize(("algo", "name", "words"), CASES)
def test_the_borders_of_a_range_are_within_it(algo: str, name: str, words: str) -> None:
    others = {"own_weight": 1.0} if name == "image_weight" else {}
    others |= {"minibatches": 1} if name == "n_steps" and algo == "ppo" else {}
    for number in BORDERS.get(words, ()):
        check_settings(algo, {name: number, **others})


def test_every_number_that_an_agent_of_ours_has_is_in_one_range_or_changes_over_the_run() -> None:
    known: list[Any] = [name for _, _, names in RANGES for name in names]
    assert len(known) == len(set(known))
    own = [field for found in AGENTS.values() if found.settings_class for field in fields(found.settings_class)]
    assert {field.name for field in own if field.type in (int, float, float | None)} == set(known)


def test_a_run_is_refused_before_it_has_a_directory(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--set learning_rate -1 must be more than 0"):
        pretrain("phantom:40", tmp_path / "run", algo="hard-patches", agent={"learning_rate": -1})
    assert not (tmp_path / "run").exists()
