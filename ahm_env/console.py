"""What a person sees in a terminal, or reads in a log: a console, and how far long work is."""

import io
from collections.abc import Sequence
from functools import partial
from math import isnan
from time import monotonic
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ahm_env.errors import InterruptionError
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.model import ranks

LINE_SECONDS = 30.0  # between two lines about progress, outside a terminal


def make_console(stderr: bool = False) -> Console:
    """Make a console that prints texts as they are; lines are broken, and have colours, in a terminal only.

    One rank speaks.
    """
    plain = partial(Console, markup=False, highlight=False, emoji=False, stderr=stderr, quiet=ranks.number() > 0)
    console = plain()
    return console if console.is_terminal else plain(width=500, no_color=True)


class ProgressBar:
    """How far long work is: a bar in a terminal, a plain line now and then elsewhere. Use as a context manager.

    Args:
        console: Where it is shown.
        what: What is done, such as `predicting`.
        total: Images in all; None as long as it is not known.
        done: How many of them were done before.
        seconds: Between two lines, outside a terminal.
    """

    def __init__(
        self, console: Console, what: str, total: int | None = None, done: int = 0, seconds: float = LINE_SECONDS
    ) -> None:
        columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}")
        self._bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=done, numbers="")
        self._console, self._what, self._seconds, self._last = console, what, seconds, monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int, numbers: str = "") -> None:
        """Show that so many images of so many are done, and some numbers."""
        speed = self._bar.tasks[0].speed
        numbers_shown = f"{speed:.0f} images/s  {numbers}" if speed else numbers
        self._bar.update(self._task, completed=done, total=total, numbers=numbers_shown)
        if monotonic() - self._last > self._seconds:
            self.line(done, total, numbers)

    def line(self, done: int, total: int, numbers: str = "") -> None:
        """Print a line with the same, outside a terminal."""
        self._last = monotonic()
        if not self._console.is_terminal:
            self._console.print(f"{self._what}: {done:,} of {total:,} images  {numbers}".rstrip())

    def on_warning(self, text: str) -> None:
        """Print a warning."""
        warn(self._console, text)


def warn(console: Console, text: str) -> None:
    """Print a warning."""
    console.print(Text.assemble(("warning:", "yellow"), f" {text}"))


def warn_bad_masks(console: Console, bad: int, unknown: int) -> None:
    """Say how many masks could not be used, where that is let pass, and how many say nothing."""
    if bad:
        warn(console, f"{bad:,} bad masks were left out: their images count as unlabelled")
    if unknown:
        what = "masks that hold nothing but the number to be ignored"
        warn(console, f"{what}: {unknown:,}; their images count as unlabelled")


def warn_left_out(console: Console, images: ImageSet) -> None:
    """Say how many images of a source a set lacks."""
    if images.skipped:
        warn(console, f"{images.skipped:,} bad images were left out; `ahm data check` lists them")
    if images.empty:
        why = "they show nothing, or their headers say that text is burned in"
        console.print(f"images left out, for {why}: {images.empty:,}")


def print_interruption(console: Console, error: InterruptionError, progress: str, command: str) -> int:
    """Say that a signal ended a run after so much of it, and how to go on; the exit status."""
    console.print(f"Stopped by {error.signal} after {progress}; all is saved. Go on with")
    console.print(f"  ahm {command} --resume --out {error.path}")
    return error.status


def number(value: float | None, form: str = ".3f") -> str:
    """Format a number for people; NaN and None become a dash."""
    return "–" if value is None or isnan(value) else f"{value:{form}}"


def beside(*numbers: str) -> str:
    """Set formatted numbers that belong together side by side; where none is known, there is one dash."""
    return "–" if set(numbers) == {"–"} else " – ".join(numbers)


def table_text(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table for a person, with a frame, at most 500 characters wide."""
    table = Table(*headings, title=Text(title))
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=500, no_color=True, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")
