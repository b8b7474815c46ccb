"""What a person sees of comparisons, judgements and reports."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from agents.console import load, number
from agents.settings import RunSettings
from ahm_env import RunError
from ahm_env.console import make_console
from ahm_env.files import write_text
from downstream.annotation import annotate
from downstream.comparison import Plan, run_cell
from downstream.comparison_tables import hardness_table, transfer_tables, transfer_trends
from downstream.crew import Crew, last_line
from downstream.judging import judge_run
from downstream.prompts import find_prompts
from downstream.report import make_report
from downstream.sam import SegmentAnything
from downstream.summaries import write_csv
from downstream.transfer import MEASURE, SCRATCH, Downstream, Transfer, TransferCell, run_transfer_cell
from downstream.transfer_summaries import summarise_transfer, write_transfer_csv


def compare_agents(
    given: Mapping[str, Any],
    algos: str,
    seeds: int,
    out: Path,
    jobs: int,
    downstream: Downstream | None = None,
) -> int:
    """Train agents with paired seeds, judge them on one U-Net, and show how they did; goes on where it stopped.

    Args:
        given: Settings that all runs share; None is not given.
        algos: Agents, separated by commas; `NAME+KEY=VALUE` has settings of its own.
        seeds: How many seeds.
        out: Directory of the comparison.
        jobs: Runs at once; 0: one a core, or one on a GPU.
        downstream: What their U-Nets are fine-tuned for, None for nothing.

    Returns:
        The exit status: 0, 1 where a cell failed, or 128 + the signal that ended it.

    Raises:
        AHMError: Anything that the user can mend.
    """
    console = make_console()
    labels = tuple(label.strip() for label in algos.split(",") if label.strip())
    plan = Plan(out, labels, seeds, {key: value for key, value in given.items() if value is not None})
    settings = RunSettings.make(**plan.variants[0].given(plan.shared))
    transfer = None if downstream is None else downstream.transfer(plan)
    images = load(settings, console)  # once, before many processes want the same images
    if transfer is not None:
        transfer.check(images)
        if transfer.sam is not None:  # at the end it would be late to learn that it is not there
            SegmentAnything.load(transfer.sam, settings.torch_device)
            find_prompts(transfer.prompt)
    plan.begin()
    if transfer is not None:
        transfer.begin()
    on_cpu = settings.torch_device.type == "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = jobs or (cores if on_cpu else 1)
    console.print(
        f"{len(labels)} agents x {seeds} seeds x {settings.images:,} images of {escape(settings.data)}, {jobs} at once"
    )
    console.print("Ctrl-C stops; the same command goes on where it was.")
    with Crew(jobs, max(1, cores // jobs), console) as crew:
        crew.work([plan.reference], partial(run_cell, plan), settings.images, lambda _: "")
        if not plan.unet.exists() or crew.failed:
            raise RunError(f"{plan.out}: the reference U-Net could not be trained: {last_line(plan.reference.path)}")
        for seed in range(seeds):  # what is done of the first seeds is a comparison already
            _pretrain(plan, seed, settings.images, crew)
            if transfer is not None:
                _fine_tune(transfer, seed, crew)
    if transfer is not None and transfer.sam is not None:
        split = "test" if images.split("test").size else "val"
        annotate(transfer.sam, transfer.prompt, settings.data, transfer.zero_shot, split, settings.device)
    show_comparison(plan, transfer, console)
    for job in crew.failed:
        console.print(f"failed: {job.path.name}: {last_line(job.path)}", markup=False)
    return 1 if crew.failed else 0


def _pretrain(plan: Plan, seed: int, images: int, crew: Crew) -> None:
    """Train and judge every agent with this seed."""
    waiting = [cell for cell in plan.cells if cell.seed == seed and cell.verdict is None]
    crew.work(waiting, partial(run_cell, plan), images, lambda cell: f"hardness {_ratio(cell.verdict):.3f}")
    write_csv(plan)


def _fine_tune(transfer: Transfer, seed: int, crew: Crew) -> None:
    """Fine-tune every U-Net of this seed that is there, with every number of labels."""

    def ready(cell: TransferCell) -> bool:
        return cell.start == SCRATCH or (Path(cell.start) / "judgement.json").exists()

    def result(cell: TransferCell) -> str:
        measure = MEASURE[cell.task]
        return f"{measure} {(cell.result or {}).get(measure, nan):.3f}"

    waiting = [cell for cell in transfer.cells if cell.seed == seed and ready(cell) and cell.result is None]
    crew.work(waiting, partial(run_transfer_cell, transfer), transfer.total, result)
    write_transfer_csv(transfer)


def show_comparison(plan: Plan, transfer: Transfer | None, console: Console) -> None:
    """Print the tables of a comparison, and write its CSV files and `report.html`."""
    summaries = summarise_transfer(transfer) if transfer is not None else []
    tables = [*hardness_table(plan), *(transfer_tables(transfer, summaries) if transfer is not None else ())]
    if not tables:
        console.print("No cell is done: there is nothing to compare.")
        return
    for one in tables:
        table = RichTable(*one.headings, title=escape(one.title))
        for row in one.rows:
            table.add_row(*map(escape, row))
        console.print(table)
        for note in one.notes:
            console.print(note, markup=False)
    console.print(f"numbers      {write_csv(plan)}", markup=False)
    if transfer is not None and (path := write_transfer_csv(transfer)) is not None:
        console.print(f"             {path}", markup=False)
    if judged := [cell for cell in plan.cells if cell.verdict is not None]:
        page, names = plan.out / "report.html", [cell.variant.label for cell in judged]
        make_report([cell.path for cell in judged], page, tables=tables, trends=transfer_trends(summaries), names=names)
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


def _ratio(verdict: Mapping[str, Any]) -> float:
    return float(sum(verdict["losses"]) / sum(verdict["random_losses"]))
