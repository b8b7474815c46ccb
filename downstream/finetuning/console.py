"""What a person sees of fine-tuning and evaluation: progress, a table at the end, and what to do next."""

from collections.abc import Mapping
from math import inf, isnan
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ahm_env import ImageSet
from ahm_env.console import ProgressBar, make_console, number, print_interruption, warn, warn_bad_masks
from ahm_env.errors import InterruptionError, SettingsError
from ahm_env.model.devices import describe_precision
from ahm_env.runs.directory import Row
from ahm_env.runs.flags import Config, FlagsOf, Preset, Resume, with_config
from ahm_env.runs.images import load
from downstream.evaluation.metrics import measure_name
from downstream.finetuning.finetune import open_run
from downstream.finetuning.run import MIXING_FILE, Finetuning
from downstream.finetuning.settings import FROM_RUN, FinetuneSettings
from downstream.models.model import MODEL_FILE

LINES = 4  # rows of metrics.csv between two lines, outside a terminal


class FinetuneDisplay(ProgressBar):
    """Shows how fine-tuning goes."""

    def __init__(self, console: Console, total: int, seen: int) -> None:
        super().__init__(console, "fine-tuning", total, seen, seconds=inf)  # lines are those of the rows
        self._total, self._rows, self._confident = total, 0, ""

    def on_update(self, images: int, loss: float) -> None:
        """Move the bar."""
        self(images, self._total, f"loss {loss:.3f}{self._confident}")

    def on_row(self, row: Row) -> None:
        """Show how much the teacher is sure of; print a line now and then, where there is no bar."""
        self._rows += 1
        self._confident = "" if isnan(row["confident"]) else f"  confident {row['confident']:.0%}"
        if self._rows % LINES == 0:
            selection = "" if isnan(row["selection"]) else f"  selection {number(row['selection'])}"
            numbers = f"loss {row['loss']:.3f}{self._confident}{selection}"
            self.line(int(row["images"]), self._total, f"{row['images_per_second']:.0f} images/s  {numbers}")


def finetune(
    given: Annotated[Mapping[str, Any], FlagsOf(FinetuneSettings, decided=FROM_RUN | {"data"})],
    preset: Preset = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run.", show_default="runs/TASK-NUMBER", rich_help_panel="Run")
    ] = None,
    resume: Resume = False,
    config: Config = None,
) -> int:
    """Fine-tune a U-Net, pretrained or not, on few labelled images, and test it once at the end.

    Ends with status 0, with 2 where something that you gave cannot be used, and with 130 or 143 where Ctrl-C or SIGTERM
    ended it, all being saved. The preset quick does 800 steps without unlabelled images; paper is the published recipe.
    """
    console = make_console()
    if config is not None and given.get("start"):
        raise SettingsError("--config and --from: a config.json says what its run began with; leave out one of them")
    given = with_config(FinetuneSettings, config, preset, given)
    start = given.pop("start", None)
    try:
        with open_run(
            given,
            start,
            preset,
            out,
            resume,
            lambda settings, source: load(settings, console, source),
            lambda whole, known: _tell_masks(whole, known, console),
        ) as run:
            settings = run.settings
            if run.finished:
                console.print(f"{run.directory.path} is finished. There is nothing left to do.")
                return 0
            _announce(run, console)
            with FinetuneDisplay(console, run.rounds * settings.steps * settings.batch_size, run.seen) as display:
                result = run.run(display)
    except InterruptionError as error:
        return print_interruption(console, error, f"{run.step:,} of {run.rounds * settings.steps:,} steps", "finetune")
    _conclude(run, result, console)
    return 0


def _tell_masks(whole: ImageSet, known: ImageSet, console: Console) -> None:
    """Say which images count as unlabelled, or are taken in, for what is in their masks."""
    warn_bad_masks(console, known.skipped - whole.skipped, known.unknown)
    if (marked := whole.empty - known.empty) > 0:
        console.print(f"of these, images to test on in which something is marked, so that they count: {marked:,}")


def _announce(run: Finetuning, console: Console) -> None:
    settings, split = run.settings, run.split
    start = settings.weights or settings.start
    steps = f"{run.rounds} rounds of " * (run.rounds > 1) + f"{settings.steps:,} steps of {settings.batch_size}"
    aside = f", {len(split.select):,} to select by" if split.select.size else ""
    console.print(
        f"{settings.task} from {start}, {settings.data}: {len(split.learn):,} labelled images "
        f"to learn from{aside}, {len(split.test):,} to test on; {steps}; "
        f"{run.model.device}, {describe_precision(settings.precision, run.model.device)}"
    )
    if not split.test.size:
        what = "mask" if settings.task == "segmentation" else "label"
        warn(
            console,
            f"no test or val split with {what}s: nothing will be tested; `ahm data split {settings.data}` draws splits",
        )
    if (teacher := run.trainer.teacher) is not None:
        unlabelled = teacher.unlabelled
        console.print(
            f"{len(unlabelled.indices):,} unlabelled images of {unlabelled.images.source} join "
            f"after {settings.joins_after:,} steps; mixed: {settings.mix if teacher.mixes else 'none'}, "
            f"strong changes: {teacher.strong}"
        )
        if unlabelled.left_out:
            console.print(f"{unlabelled.left_out:,} more are left out: labelled here, or of patients tested on")
    elif run.trainer.gave_up is not None:
        console.print("Unlabelled images take no part any more: they did harm.")
    elif settings.unlabelled != "none":
        console.print("Unlabelled images take no part: fewer of them than labelled ones remain.")
    if run.step:
        console.print(f"Going on after {run.step:,} steps.")


def _conclude(run: Finetuning, result: Mapping[str, Any], console: Console) -> None:
    """Print the result, and what to do next."""
    path, task = run.directory.path, run.settings.task
    table = Table(title="Result", show_header=False)
    where = f"{result['images']:,} images of the {result['split']} split" if result["split"] else "nothing"
    table.add_row("tested on", where)
    table.add_row("labelled images", f"{result['labels']:,}")
    table.add_row("unlabelled images", f"{result['unlabelled']:,}")
    for name, value in result.items():
        if isinstance(value, float):
            table.add_row(measure_name(name), number(value))
    console.print(table)
    picture = "cases.png" if task == "segmentation" else "confusion.png"
    if result["split"]:
        console.print(f"picture      {path / picture}")
        console.print(f"each image   {path / 'test.csv'}")
    if run.trainer.joined is not None:
        console.print(f"teacher      {path / MIXING_FILE}")
    console.print(f"model        {path / MODEL_FILE}")
    console.print(f"Next: ahm predict --from {path} YOUR_IMAGES --out predictions")
