"""Numbers that change over a run, as users give them."""

from typing import Any

import pytest

from agents.annealing import LinearSchedule
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
