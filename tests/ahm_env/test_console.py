"""The progress display: plain lines now and then, outside a terminal."""

import io
from math import nan

import pytest
from rich.console import Console

from ahm_env.console import ProgressBar, beside, make_console, number


def lines(seconds: float) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    with ProgressBar(console, "predicting", 2000, seconds=seconds) as bar:
        for done in (500, 1000):
            bar(done, 2000, "loss 0.5")
        bar.on_warning("[bold] is no markup")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_a_line_comes_when_its_time_has_come() -> None:
    warning = "warning: [bold] is no markup"
    assert lines(-1) == [f"predicting: {done} of 2,000 images  loss 0.5" for done in ("500", "1,000")] + [warning]
    assert lines(60) == [warning]


@pytest.mark.parametrize("stderr", [False, True])
def test_a_console_prints_where_it_is_told(capfd: pytest.CaptureFixture[str], stderr: bool) -> None:
    make_console(stderr).print("word")
    assert capfd.readouterr() == (("", "word\n") if stderr else ("word\n", ""))


def test_what_is_not_known_is_a_dash() -> None:
    assert [number(one) for one in (0.5, nan, None)] == ["0.500", "–", "–"]
    assert number(0.5, ".0%") == "50%"
    assert [beside("1", "2"), beside("–", "2"), beside("–", "–")] == ["1 – 2", "– – 2", "–"]
