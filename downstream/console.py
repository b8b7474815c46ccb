"""What a person sees of comparisons, judgements and reports."""

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from torch import multiprocessing

from agents.console import load, make_console, number
from agents.settings import RunSettings
from ahm_env import RunError
from ahm_env.files import write_text
from downstream.comparison import Cell, Plan, run_cell
from downstream.judging import judge_run
from downstream.report import Table, make_report
from downstream.summaries import Interval, baseline, summarise, unlike, write_csv

POLL = 0.5  # seconds between two looks at the processes


def compare_agents(given: Mapping[str, Any], algos: str, seeds: int, out: Path, jobs: int) -> int:
    """Train agents with paired seeds, judge them on one U-Net, and show how they did; goes on where it stopped.

    Args:
        given: Settings that all runs share; None is not given.
        algos: Agents, separated by commas; `NAME+KEY=VALUE` has settings of its own.
        seeds: How many seeds.
        out: Directory of the comparison.
        jobs: Runs at once; 0: one a core, or one on a GPU.

    Returns:
        The exit status: 0, 1 where a cell failed, or 128 + the signal that ended it.

    Raises:
        AHMError: Anything that the user can mend.
    """
    console = make_console()
    labels = tuple(label.strip() for label in algos.split(",") if label.strip())
    plan = Plan(out, labels, seeds, {key: value for key, value in given.items() if value is not None})
    settings = RunSettings.make(**plan.variants[0].given(plan.shared))
    load(settings, console)  # once, before many processes want the same images
    plan.begin()
    on_cpu = settings.torch_device.type == "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = jobs or (cores if on_cpu else 1)
    console.print(
        f"{len(labels)} agents x {seeds} seeds x {settings.images:,} images of {escape(settings.data)}, {jobs} at once"
    )
    console.print("Ctrl-C stops; the same command goes on where it was.")
    with Crew(plan, jobs, max(1, cores // jobs), console) as crew:
        crew.work([plan.reference])
        if not plan.unet.exists() or crew.failed:
            raise RunError(f"{plan.out}: the reference U-Net could not be trained: {_last_line(plan.reference)}")
        crew.work([cell for cell in plan.cells if cell.verdict is None])
    show_comparison(plan, console)
    for cell in crew.failed:
        console.print(f"failed: {cell.path.name}: {_last_line(cell)}", markup=False)
    return 1 if crew.failed else 0


class Crew:
    """Runs cells in processes of their own, a few at once. Use as a context manager: nobody is left behind.

    Args:
        plan: The comparison.
        jobs: Processes at once.
        threads: Threads of each.
        console: Where progress is shown.
    """

    def __init__(self, plan: Plan, jobs: int, threads: int, console: Console) -> None:
        self.plan, self.jobs, self.threads, self.console = plan, jobs, threads, console
        self.failed: list[Cell] = []
        self._running: dict[Any, Cell] = {}

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.terminate()  # saves its state before it ends
        for process in self._running:
            process.join()

    def work(self, cells: Sequence[Cell]) -> None:
        """Run these cells to their end; those that fail are in `failed`, and do not keep the others from running."""
        context, waiting = multiprocessing.get_context("spawn"), list(cells)
        images = RunSettings.make(**self.plan.variants[0].given(self.plan.shared)).images
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bar:
            task = bar.add_task("images", total=len(waiting) * images)
            done = 0
            while waiting or self._running:
                while waiting and len(self._running) < self.jobs:
                    cell = waiting.pop(0)
                    process = context.Process(target=run_cell, args=(self.plan, cell, self.threads))
                    process.start()
                    self._running[process] = cell
                time.sleep(POLL)
                for process in [one for one in self._running if not one.is_alive()]:
                    process.join()
                    cell = self._running.pop(process)
                    done += images
                    self._tell(cell, process.exitcode)
                bar.update(task, completed=done + sum(cell.images for cell in self._running.values()))

    def _tell(self, cell: Cell, status: int) -> None:
        if status == 0:
            verdict = cell.verdict
            hardness = "" if verdict is None else f"hardness {_ratio(verdict):.3f}"
            self.console.print(f"done    {cell.path.name:<32} {hardness}", markup=False)
        else:
            self.failed.append(cell)
            how = signal.Signals(-status).name if status < 0 else f"status {status}"
            self.console.print(f"failed  {cell.path.name:<32} {how}: {_last_line(cell)}", markup=False)


def show_comparison(plan: Plan, console: Console) -> None:
    """Print the table of a comparison, and write `comparison.csv` and `report.html`."""
    summaries = summarise(plan)
    if not summaries:
        console.print("No cell is done: there is nothing to compare.")
        return
    base = baseline([one.label for one in summaries])
    headings = (
        "agent",
        "seeds",
        "hardness (95 %)",
        f"against {base} (95 %)",
        "loss of hidden patches (95 %)",
        "hidden: lesion – rest",
        "hardness on its own U-Net",
        "images/s",
    )
    rows = [
        (
            one.label,
            str(one.seeds),
            interval(one.hardness),
            "–" if one.difference is None else interval(one.difference, sign=True),
            interval(one.loss),
            "–" if isnan(one.lesion) else f"{one.lesion:.0%} – {one.background:.0%}",
            number(one.own_hardness),
            f"{one.images_per_second:.0f}",
        )
        for one in summaries
    ]
    notes = [
        "Hardness: loss of the hidden patches over that under random masks of the same size, on held-out images and "
        "one U-Net, which was trained on random masks and judges all. Intervals: bootstrap over seeds and images; "
        "differences are paired.",
        f"All runs: {plan.shared.get('images', RunSettings().images):,} images, share {plan.shared['share']}, the same "
        f"number of U-Net updates.",
    ]
    if complaints := unlike(plan):
        notes[1] = "NOT COMPARABLE: the runs differ in " + "; ".join(complaints)
    table = RichTable(*headings, title=f"Agents on {escape(str(plan.shared.get('data', 'phantom')))}")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    for note in notes:
        console.print(note, markup=False)
    path = write_csv(plan)
    page = plan.out / "report.html"
    runs = [cell.path for cell in plan.cells if cell.verdict is not None]
    make_report(runs, page, tables=[Table("Comparison", headings, tuple(rows), tuple(notes))])
    console.print(f"numbers      {path}", markup=False)
    console.print(f"page         {page}", markup=False)


def evaluate_agents(paths: Sequence[Path], unet: Path | None, data: str | None, out: Path | None) -> int:
    """Judge the agents of runs, and show how they did.

    Args:
        paths: Run directories.
        unet: File of the U-Net that judges; by default each run's own.
        data: Source of images; by default each run's own held-out images.
        out: JSON file for the numbers.

    Returns:
        The exit status.

    Raises:
        AHMError: Anything that the user can mend.
    """
    console = make_console()
    headings = "run", "agent", "hardness", "loss", "hidden, least – most", "differ: images – draws", "lesion – rest"
    table = RichTable(*headings)
    found = []
    for path in paths:
        judged = judge_run(path, unet, data)
        one, masks = judged.judgement, judged.judgement.measurement
        frequencies = masks.frequencies
        found.append(
            {
                "run": path.name,
                "agent": judged.settings.algo,
                "hardness": one.hardness,
                "loss": float(one.losses.mean()),
                "random_loss": float(one.random_losses.mean()),
                "least_hidden": float(frequencies.min()),
                "most_hidden": float(frequencies.max()),
                "between_images": masks.between_images,
                "within_images": masks.within_images,
                "lesion_hidden": None if isnan(one.lesion) else one.lesion,
                "background_hidden": None if isnan(one.background) else one.background,
            }
        )
        table.add_row(
            escape(path.name),
            judged.settings.algo,
            number(one.hardness),
            f"{one.losses.mean():.4f}",
            f"{frequencies.min():.2f} – {frequencies.max():.2f}",
            f"{masks.between_images:.3f} – {masks.within_images:.3f}",
            "–" if isnan(one.lesion) else f"{one.lesion:.2f} – {one.background:.2f}",
        )
    console.print(table)
    if out is not None:
        write_text(out, json.dumps(found, indent=2) + "\n")
    return 0


def report(paths: Sequence[Path], out: Path | None) -> int:
    """Write the page of these runs; of one run, into its directory by default.

    Raises:
        AHMError: A directory holds no run, or a damaged one.
    """
    out = out or (paths[0] / "report.html" if len(paths) == 1 else Path("report.html"))
    make_report(list(paths), out)
    make_console().print(f"page         {out}", markup=False)
    return 0


def interval(one: Interval, sign: bool = False) -> str:
    """A mean with its interval, for people."""
    form = "+.3f" if sign else ".3f"
    return f"{one.mean:{form}} ({one.low:{form}} to {one.high:{form}})"


def _ratio(verdict: Mapping[str, Any]) -> float:
    return float(sum(verdict["losses"]) / sum(verdict["random_losses"]))


def _last_line(cell: Cell) -> str:
    """The last line of a cell's log."""
    log = cell.path.with_name(f"{cell.path.name}.log")
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), f"see {log}")
