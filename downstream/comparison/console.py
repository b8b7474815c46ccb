"""What a person sees of comparisons, evaluations of masks, and reports."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ahm_env.console import ProgressBar, make_console, number, tell_left_out
from ahm_env.files import write_text
from downstream.comparison.compare import PAGE, compare, report
from downstream.comparison.mask_evaluation import evaluate_masks
from downstream.comparison.options import Downstream
from downstream.comparison.results import RESULTS
from downstream.evaluation.tables import as_text

LINE_SECONDS = 600.0  # between two lines about progress, outside a terminal


def compare_agents(
    given: Mapping[str, Any], algos: str, seeds: int, out: Path, jobs: int, downstream: Downstream | None = None
) -> int:
    """Run an experiment, or go on with it, and show how the agents did; the exit status, 1 where a trial failed."""
    console = make_console()
    tell = partial(console.print, markup=False)
    tell("Ctrl-C stops; the same command goes on where it was.")
    with ProgressBar(console, "comparing", seconds=LINE_SECONDS) as progress:
        found = compare(
            algos, out=out, seeds=seeds, jobs=jobs, downstream=downstream, tell=tell, progress=progress, **given
        )
    tell_left_out(console, found.images)
    if found.rows:
        tell(found.table())
        tell(f"numbers      {out / RESULTS}")
        tell(f"page         {out / PAGE}")
    else:
        tell("No trial is done: there is nothing to compare.")
    for name, reason in found.failed.items():
        tell(f"failed: {name}: {reason}")
    return 1 if found.failed else 0


def evaluate_agents(paths: Sequence[Path], unet: Path | None, data: str | None, out: Path | None) -> int:
    """Evaluate the masks of runs' agents, and show how they did; the exit status, 0."""
    found = [evaluate_masks(path, unet, data).as_dict() for path in paths]
    headings = "run", "agent", "hardness", "loss", "hidden, least – most", "differ: images – draws", "lesion – rest"
    rows = [
        (
            one["run"],
            one["agent"],
            number(one["hardness"]),
            f"{one['loss']:.4f}",
            f"{one['least_hidden']:.2f} – {one['most_hidden']:.2f}",
            f"{one['between_images']:.3f} – {one['within_images']:.3f}",
            "–" if one["lesion_hidden"] is None else f"{one['lesion_hidden']:.2f} – {one['background_hidden']:.2f}",
        )
        for one in found
    ]
    make_console().print(as_text("", headings, rows), markup=False)
    if out is not None:
        write_text(out, json.dumps(found, indent=2) + "\n")
    return 0


def report_runs(paths: Sequence[Path], out: Path | None) -> int:
    """Write the page of runs, or of experiments; the exit status, 0."""
    make_console().print(f"page         {report(paths, out)}", markup=False)
    return 0
