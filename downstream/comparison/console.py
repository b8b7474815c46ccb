"""What a person sees of comparisons, evaluations of masks, and reports."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.pretraining.hardness import KINDS
from agents.pretraining.settings import RunSettings
from ahm_env import ImageSet
from ahm_env.console import ProgressBar, beside, make_console, number, warn_left_out
from ahm_env.files import write_text
from ahm_env.runs.flags import FlagsOf
from ahm_env.runs.owned_directory import check_json
from downstream.comparison.compare import PAGE, compare, report
from downstream.comparison.mask_evaluation import evaluate_masks
from downstream.comparison.options import NOT_SHARED, Downstream
from downstream.comparison.results.rows import RESULTS
from downstream.reports.report import Table

LINE_SECONDS = 600.0  # between two lines about progress, outside a terminal

Runs = Annotated[list[Path], typer.Argument(help="Directories that train-agent or compare-agents wrote.")]


def compare_agents(
    given: Annotated[Mapping[str, Any], FlagsOf(RunSettings, without=NOT_SHARED)],
    asked: Annotated[Mapping[str, Any], FlagsOf(Downstream)],
    out: Annotated[Path, typer.Option(help="Directory of the experiment; the same command goes on with it.")],
    algos: Annotated[
        str,
        typer.Option(
            help="Agents of train-agent, separated by commas, or scratch, which is not pretrained, only fine-tuned. "
            "a3c+image_weight=2 is a3c with a setting of its own; package.module:Class is an agent of yours."
        ),
    ] = "scratch,a3c,ppo,a2c,random,hard-patches,untrained",
    seeds: Annotated[int, typer.Option(help="Number of runs of each agent, with the seeds 0, 1, ….", min=1)] = 5,
    reference_unets: Annotated[
        int,
        typer.Option(help="Number of U-Nets, trained on random masks, on which all agents are evaluated.", min=1),
    ] = 2,
    jobs: Annotated[int, typer.Option(help="Number of runs at once; 0: one a core, or one on a GPU.", min=0)] = 0,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Train on a Ray cluster, a run a CPU or GPU: its address, or auto for one on this machine.",
            show_default="none: in processes",
        ),
    ] = None,
) -> int:
    """Train agents with paired seeds, and evaluate their masks on the same U-Nets: tables, results.csv, a page.

    With --downstream their U-Nets are fine-tuned too, all alike, on the same few labelled images. Ends with status 1
    where a run failed; the others are compared all the same.
    """
    console = make_console()
    with ProgressBar(console, "comparing", seconds=LINE_SECONDS) as progress:

        def load(settings: RunSettings) -> ImageSet:
            images = settings.load_images(progress=progress)
            warn_left_out(console, images)
            return images

        found = compare(
            algos,
            out=out,
            seeds=seeds,
            jobs=jobs,
            reference_unets=reference_unets,
            load=load,
            cluster=cluster,
            downstream=Downstream.asked(**asked),
            log=console.print,
            progress=progress,
            **given,
        )
    if found.rows:
        console.print(found.table())
        console.print(f"numbers      {out / RESULTS}")
        console.print(f"page         {out / PAGE}")
    else:
        console.print("No trial is done: there is nothing to compare.")
    for name, reason in found.failed.items():
        console.print(f"failed: {name}: {reason}")
    return 1 if found.failed else 0


def evaluate_agents(
    runs: Runs,
    reference_unet: Annotated[
        Path | None, typer.Option(help="File of the U-Net on which they are evaluated.", show_default="each run's own")
    ] = None,
    algo: Annotated[
        str | None, typer.Option(help="Class of your own that an agent may be: package.module:Class.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Images: their test split, else val, else held out.", show_default="each run's held-out ones"
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Divides the logits of sampled masks; below 1: closer to the likeliest.", show_default="1"),
    ] = None,
    ignore: Annotated[
        int | None, typer.Option(help="Number in masks that is neither lesion nor rest.", show_default="none")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto: the best there is.")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.")] = None,
) -> int:
    """Evaluate the agents of runs: how hard their masks are, how varied, and how much of the lesion they hide."""
    if out is not None:
        check_json(out)
    found = [evaluate_masks(path, reference_unet, data, algo, temperature, ignore, device).as_dict() for path in runs]
    rows = []
    for one in found:
        row = {"run": one["run"], "agent": one["agent"]}
        row |= {f"hardness, {kind}": number(one[f"hardness_{kind}"]) for kind in KINDS}
        row |= {f"loss, {kind}": f"{one[f'loss_{kind}']:.4f}" for kind in KINDS}
        row["hidden, least – most"] = f"{one['least_hidden']:.2f} – {one['most_hidden']:.2f}"
        row["differ: images – draws"] = beside(*(number(one[f"{part}_images"]) for part in ("between", "within")))
        row["lesion – rest"] = beside(*(number(one[f"{part}_hidden"], ".2f") for part in ("lesion", "background")))
        rows.append(row)
    make_console().print(Table.of("", rows).text())
    if out is not None:
        write_text(out, json.dumps(found, indent=2) + "\n")
    return 0


def report_runs(
    runs: Runs,
    out: Annotated[
        Path | None, typer.Option(help="The page.", show_default="RUN/report.html, of several runs report.html")
    ] = None,
) -> int:
    """Make one self-contained page of runs or experiments: tables, curves, and how masks evolved."""
    make_console().print(f"page         {report(runs, out)}")
    return 0
