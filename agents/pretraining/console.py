"""What a person sees of a run: a progress bar in a terminal, plain lines elsewhere, a table at the end."""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from agents.pretraining.hardness import Hardness
from agents.pretraining.loop import Pretraining
from agents.pretraining.pretrain import open_run
from agents.pretraining.settings import RunSettings
from agents.registry import refuse_code
from ahm_env.console import ProgressBar, make_console, number, print_interruption
from ahm_env.errors import InterruptionError
from ahm_env.model import ranks
from ahm_env.model.devices import describe_precision
from ahm_env.runs.directory import Row
from ahm_env.runs.flags import Config, FlagsOf, Preset, Resume, Set, pairs, with_config
from ahm_env.runs.images import load


class TrainingDisplay(ProgressBar):
    """Shows how a run goes."""

    def __init__(self, console: Console, total: int, seen: int) -> None:
        super().__init__(console, "training", total, seen, seconds=inf)  # lines are those of the rows
        self._total, self._hardness = total, "–"

    def on_update(self, images: int, loss: float) -> None:
        """Move the bar."""
        self(min(images, self._total), self._total, f"loss {loss:.3f}  hardness {self._hardness}")

    def on_row(self, row: Row) -> None:
        """Print a line, where there is no bar."""
        self._hardness = f"{row['hardness_sampled']:.3f} sampled, {row['hardness_likeliest']:.3f} likeliest"
        left = (self._total - row["images"]) / max(row["images_per_second"], 1e-9)
        numbers = f"loss {row['unet_loss']:.3f}  hardness {self._hardness}  {max(0.0, left):.0f} s left"
        self.line(int(row["images"]), self._total, f"{row['images_per_second']:.0f} images/s  {numbers}")


def train_agent(
    given: Annotated[Mapping[str, Any], FlagsOf(RunSettings)],
    preset: Preset = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the run.", show_default="runs/ALGO-DATA-NUMBER", rich_help_panel="Run"),
    ] = None,
    resume: Resume = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Train on a Ray cluster, a worker a CPU: its address, or auto for one on this machine.",
            show_default="none: in processes",
            rich_help_panel="Run",
        ),
    ] = None,
    config: Config = None,
    changes: Set = None,
) -> int:
    """Train an agent that hides patches, and the U-Net that reconstructs them.

    Ends with status 0, with 2 where something that you gave cannot be used, and with 130 or 143 where Ctrl-C or SIGTERM
    ended it, all being saved. Presets: demo (shorter) and paper (320 px, width 64). Settings of agents, for --set, are
    in docs/agents.md, and how to write your own; an unknown setting is an error that names all.
    """
    console = make_console()
    named, given = given, with_config(RunSettings, config, preset, given)
    if config is not None:
        refuse_code(given, named, config)
    own, known = pairs(changes or (), "--set"), given.get("agent") or {}
    if isinstance(known, Mapping):  # else it is refused like any other setting
        # the file may call the agent's learning rate otherwise than the user does
        if named.get("agent_learning_rate") is not None:
            known = {name: one for name, one in known.items() if name != "learning_rate"}
        elif "learning_rate" in own:
            given.pop("agent_learning_rate", None)
        given["agent"] = {**known, **own} or None
    try:
        with open_run(given, preset, out, resume, lambda settings: load(settings, console), cluster) as run:
            path, total = run.directory.path, run.settings.total_images
            if run.finished:
                console.print(f"{path} is finished: {run.seen:,} images shown. There is nothing left to do.")
                return 0
            _announce(run, console)
            with TrainingDisplay(console, total, run.seen) as display:
                hardness = run.run(display)
    except InterruptionError as error:
        return print_interruption(console, error, f"{run.seen:,} of {total:,} images", "train-agent")
    _conclude(run, hardness, console)
    return 0


def _announce(run: Pretraining, console: Console) -> None:
    settings, workers = run.settings, run.processes
    console.print(
        f"{settings.algo} on {settings.data}: {len(run.shown):,} images to learn from, {len(run.held_out):,} "
        f"held out; {settings.grid.side} x {settings.grid.side} patches, ratio {settings.mask_ratio}; {run.device}, "
        f"{describe_precision(settings.precision, run.device)}, "
        + (f"{ranks.count()} ranks" if ranks.count() > 1 else f"{workers} worker{'s' * (workers > 1)}")
    )
    if workers > 1:
        console.print("Several workers are fast but never repeat exactly; --workers 1 does.")
    if run.seen:
        console.print(f"Going on after {run.seen:,} images.")


def _conclude(run: Pretraining, hardness: Hardness, console: Console) -> None:
    """Print the result, and what to do next."""
    path, row = run.directory.path, run.directory.rows[-1]
    sampled, likeliest = hardness.sampled, hardness.likeliest
    frequencies = sampled.frequencies
    table = Table(title="Result", show_header=False)
    facts = {
        "hardness on held-out images, sampled / likeliest masks": f"{sampled.hardness:.3f} / {likeliest.hardness:.3f}"
        "   (random masks: 1)",
        "mean patch loss, sampled / likeliest / random masks": f"{sampled.losses.mean():.4f} / "
        f"{likeliest.losses.mean():.4f} / {sampled.random_losses.mean():.4f}",
        "how often a patch is hidden, least / most": f"{frequencies.min():.0%} / {frequencies.max():.0%}",
        "masks differ, between images / two of the same": f"{number(sampled.between_images, '.0%')} / "
        f"{number(sampled.within_images, '.0%')} of the patches",
        "images shown": f"{run.seen:,} in {row['seconds']:.0f} s, {run.seen / max(row['seconds'], 1e-9):.0f} images/s",
    }
    for name, value in facts.items():
        table.add_row(name, value)
    console.print(table)
    console.print(f"picture      {path / 'masks.png'}")
    console.print(f"U-Net        {path / 'unet.safetensors'}")
    console.print(f"agent        {path / 'agent'}")
    console.print(f"curves       {path / 'metrics.csv'}, or: tensorboard --logdir {path}")
    console.print(f"page         ahm report {path}")
    console.print(
        f"Next: look at the picture; then, with a few labels: ahm finetune --from {path} --data FOLDER --labels 25"
    )
