"""What a person sees in a terminal, or reads in a log: a console, and a bar for images that are being read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ahm_env.errors import InterruptionError
from ahm_env.images.image_set import ImageSet

LOADED_LINE = 5_000  # images between two lines about loading, outside a terminal


def make_console() -> Console:
    """Wide enough that lines which are not shown in a terminal are not broken; colours only in one."""
    console = Console(highlight=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, emoji=False, width=500, no_color=True)


@contextmanager
def reading(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar, or lines outside a terminal, for images that are being read."""
    bar = Progress(
        TextColumn("reading images"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=None)

        def report(done: int, count: int) -> None:
            bar.update(task, completed=done, total=count)
            if not console.is_terminal and done % LOADED_LINE == 0:
                console.print(f"{done:>9,} of {count:,} images read")

        yield report


def tell_bad_masks(console: Console, count: int) -> None:
    """Say how many masks could not be used, where that is let pass."""
    if count:
        console.print(f"[yellow]warning:[/] {count:,} bad masks were left out: their images count as unlabelled")


def tell_left_out(console: Console, images: ImageSet) -> None:
    """Say how many images of a source a set lacks."""
    if images.skipped:
        console.print(f"[yellow]warning:[/] {images.skipped:,} bad images were left out; `ahm data check` lists them")
    if images.empty:
        why = "they show nothing, or their headers say that text is burned in"
        console.print(f"images left out, for {why}: {images.empty:,}")


def tell_interruption(console: Console, error: InterruptionError, progress: str, command: str) -> int:
    """Say that a signal ended a run after so much of it, and how to go on; the exit status."""
    console.print(f"Stopped by {error.signal} after {progress}; all is saved. Go on with")
    console.print(f"  ahm {command} --resume --out {error.path}", markup=False)
    return error.status


def number(value: float) -> str:
    """A number for people; a dash for none."""
    return "–" if isnan(value) else f"{value:.3f}"
