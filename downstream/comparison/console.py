"""What a person sees of comparisons, judgements and reports."""

import json
import os
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from agents.pretraining.settings import RunSettings
from ahm_env import RunError
from ahm_env.console import make_console, number
from ahm_env.files import write_text
from ahm_env.runs.flags import FlagsOf
from ahm_env.runs.images import load
from downstream.comparison.experiment import Experiment, data_of, is_experiment, judged_runs
from downstream.comparison.mask_evaluation import judge_run
from downstream.comparison.options import Downstream
from downstream.comparison.pool import Pool, last_line
from downstream.comparison.results import RESULTS, read_results
from downstream.comparison.tables import tables_of, trends_of
from downstream.evaluation.page import source_name
from downstream.reports.report import TITLE, Table, Trend, make_report
from downstream.sam.annotation import annotate
from downstream.sam.prompts import find_prompts
from downstream.sam.sam import SegmentAnything

# not settings of an experiment: it has seeds, algos and a judge of its own, and its trials one worker each
OWN = frozenset(("algo", "seed", "workers", "judge", "agent_learning_rate"))


def compare_agents(
    given: Annotated[Mapping[str, Any], FlagsOf(RunSettings, without=OWN)],
    asked: Annotated[Mapping[str, Any], FlagsOf(Downstream)],
    out: Annotated[Path, typer.Option(help="Directory of the experiment; the same command goes on with it.")],
    algos: Annotated[
        str,
        typer.Option(
            help="Agents of train-agent, separated by commas, or scratch, which is not pretrained, only fine-tuned. "
            "a3c+image_weight=2 is a3c with a setting of its own."
        ),
    ] = "scratch,a3c,ppo,a2c,random,loss,frozen",
    seeds: Annotated[int, typer.Option(help="Number of runs of each agent, with the seeds 0, 1, ….", min=1)] = 5,
    jobs: Annotated[int, typer.Option(help="Number of runs at once; 0: one a core, or one on a GPU.", min=0)] = 0,
) -> int:
    """Train agents with paired seeds, and judge them all on one U-Net: tables, results.csv and report.html.

    With --downstream their U-Nets are fine-tuned too, all alike, on the same few labelled images. Ends with status 1
    where a run failed; the others are compared all the same.
    """
    console = make_console()
    downstream = Downstream.asked(**asked)
    labels = tuple(label.strip() for label in algos.split(",") if label.strip())
    common = {key: value for key, value in given.items() if value is not None}
    experiment = Experiment(out, labels, seeds, common, downstream)
    settings = experiment.settings
    images = load(settings, console)  # once, before many processes want the same images
    experiment.check(images)
    if downstream is not None and downstream.sam is not None:
        # at the end it would be late to learn that it is not there
        SegmentAnything.load(downstream.sam, settings.torch_device)
        find_prompts(downstream.prompt)
    experiment.begin()
    on_cpu = settings.torch_device.type == "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = jobs or (cores if on_cpu else 1)
    _announce(experiment, settings, jobs, console)
    with Pool(jobs, max(1, cores // jobs), console) as pool:
        if experiment.agents:
            pool.work([] if experiment.reference.done else [experiment.reference])
            if not experiment.unet.exists() or pool.failed:
                reason = last_line(experiment.reference.path)
                raise RunError(f"{out}: the reference U-Net could not be trained: {reason}")
        for pretraining, finetuning in experiment.stages:
            pool.work([trial for trial in pretraining if not trial.done])
            experiment.write()
            pool.work([trial for trial in finetuning if trial.ready and not trial.done])
            experiment.write()
    if downstream is not None and downstream.sam is not None and experiment.zero_shot is not None:
        split = "test" if images.split("test").size else "val"
        annotate(downstream.sam, downstream.prompt, settings.data, experiment.zero_shot, split, settings.device)
    show_experiment(experiment, console)
    for trial in pool.failed:
        console.print(f"failed: {trial.name}: {last_line(trial.path)}", markup=False)
    return 1 if pool.failed else 0


def _announce(experiment: Experiment, settings: RunSettings, jobs: int, console: Console) -> None:
    """What is going to be done."""
    agents, where = len(experiment.agents), escape(settings.data)
    if agents:
        console.print(
            f"{agents} agents x {experiment.runs} seeds x {settings.images:,} images of {where}, {jobs} at once"
        )
    if experiment.finetuning:
        left = sum(not trial.done for trial in experiment.finetuning)
        console.print(f"{len(experiment.finetuning)} times fine-tuning on {where}, {left} of them still to do")
    console.print("Ctrl-C stops; the same command goes on where it was.")


def show_experiment(experiment: Experiment, console: Console) -> None:
    """Print the tables of all that is done in an experiment's directory, and write `results.csv` and `report.html`."""
    rows = experiment.write()
    if not rows:
        console.print("No trial is done: there is nothing to compare.")
        return
    tables = tables_of(rows, source_name(data_of(experiment.out)), zero_shots(experiment.out))
    for one in tables:
        table = RichTable(*one.headings, title=escape(one.title))
        for row in one.rows:
            table.add_row(*map(escape, row))
        console.print(table)
        for note in one.notes:
            console.print(note, markup=False)
    console.print(f"numbers      {experiment.out / RESULTS}", markup=False)
    page = experiment.out / "report.html"
    write_page(page, tables, trends_of(rows), judged_runs(experiment.out, rows))
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
    """Write the page of runs, or of experiments; of a single one, into its directory by default.

    Raises:
        AHMError: A directory holds neither, or a damaged one, or there are some of each.
    """
    out = out or (paths[0] / "report.html" if len(paths) == 1 else Path("report.html"))
    experiments = [path for path in paths if is_experiment(path)]
    if experiments and len(experiments) < len(paths):
        raise RunError(f"{experiments[0]}: is an experiment, others are runs; make a page of each kind")
    if experiments:
        report_experiments(experiments, out)
    else:
        make_report(list(paths), out)
    make_console().print(f"page         {out}", markup=False)
    return 0


def zero_shots(path: Path) -> list[Path]:
    """Directories of an experiment with what Segment Anything found."""
    return sorted(path.glob("sam-*"))


def report_experiments(paths: Sequence[Path], out: Path) -> None:
    """Write the page of experiments: tables and charts of each, and of a single one the course of its runs.

    Raises:
        RunError: One is damaged, or has no results yet.
    """
    tables, trends, several = list[Table](), list[Trend](), len(paths) > 1
    for path in paths:
        rows, data = read_results(path / RESULTS), source_name(data_of(path))
        tables += tables_of(rows, data, zero_shots(path))
        trends += trends_of(rows, data if several else "")
    write_page(out, tables, trends, {} if several else judged_runs(paths[0], rows))


def write_page(out: Path, tables: Sequence[Table], trends: Sequence[Trend], runs: Mapping[Path, str]) -> None:
    """Write the page of an experiment, or of several, of which no run is shown.

    Args:
        out: The HTML file.
        tables: Of all.
        trends: Of all.
        runs: Runs to show the course of, and what the agent of each is called.
    """
    title = TITLE if runs else "Few labels, many images"
    make_report(list(runs), out, title, tables, trends=trends, names=list(runs.values()))
