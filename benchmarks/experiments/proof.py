"""What unlabelled images and pretraining are worth with few labels.

Called by `python -m benchmarks.experiments.proof DATA OUT [PATTERN]`. DATA is a folder with the sets that
`benchmarks/experiments/proof.toml` names: it says which arms are compared, on how many draws, and by which tests. A
cell is one fine-tuning, or the pretraining that it starts from, in a directory of its own, so that the same command
goes on where it was stopped; PATTERN, a regular expression, chooses cells by their names, SET/LABELS/ARM/DRAW, and for
a pretrained arm /RUN, and several processes may share the work. What is done is in `docs/results/proof-SET.csv`, and is
not done again where OUT is lost. Instead of DATA OUT, `tables` prints the tables as Markdown, and `figure FILE` draws
what is known of the supervised arms and of the unlabelled images.
"""

import os
import re
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ahm_env.errors import InterruptionError
from benchmarks.experiments.reproduction import as_markdown
from downstream.comparison.experiment import Experiment
from downstream.comparison.options import Downstream, count_name
from downstream.comparison.results.rows import Group, Row, grouped, read_results, write_results
from downstream.comparison.results.tables import compared, tables_of
from downstream.comparison.trials import FinetuneTrial, PretrainTrial, Trial
from downstream.evaluation.statistics import Scores, holm, p_text

PLAN: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
RESULTS = Path(__file__).parents[2] / "docs" / "results"
RUNS = 3  # pretraining runs of an agent
TASK = "segmentation"
KEY = 6  # columns of a row that name its trial
DRAWN = {
    "A": ("supervised", "#8a8a8a"),
    "S": ("strong\naugmentation", "#3b6ea5"),
    "B": ("unlabelled\nimages join", "#b5482a"),
}
CURVE, ALL = "isic2018", 1_599  # what is drawn against the number of labels, and how many labels all are
SPAN = 0.05  # of Dice, which a panel shows at least
TITLES = {
    "isic2018": "dermoscopy (ISIC 2018)",
    "kvasir": "polyps (Kvasir-SEG)",
    "lgg": "brain MRI (LGG)",
    "cxr": "chest X-ray",
}


@dataclass(frozen=True)
class Cell:
    """A fine-tuning of the plan, and the pretraining that it needs."""

    dataset: str
    arm: str
    trial: FinetuneTrial
    before: tuple[PretrainTrial, ...]

    @property
    def name(self) -> str:
        """Its name, SET/LABELS/ARM/DRAW, and /RUN where it is pretrained."""
        name = f"{self.dataset}/{count_name(self.trial.labels)}/{self.arm}/{self.trial.draw}"
        return name if self.trial.run is None else f"{name}/{self.trial.run}"

    @property
    def file(self) -> Path:
        """Where its results are."""
        return results_of(self.dataset)

    @cached_property
    def key(self) -> tuple[Any, ...]:
        """What its rows begin with."""
        trial = self.trial
        return trial.agent, trial.run, trial.draw, trial.task, count_name(trial.labels), trial.arm

    @property
    def done(self) -> bool:
        """Whether its results are known."""
        return self.file.exists() and any(row[:KEY] == self.key for row in read_results(self.file))


def results_of(dataset: str) -> Path:
    """Where the results of a set are."""
    return RESULTS / f"proof-{dataset}.csv"


def cells(data: Path, out: Path) -> Iterator[Cell]:
    """All cells of the plan, in order; within an ask draw by draw, so that an early end has all arms alike."""
    for ask in PLAN["ask"]:
        found = list[Cell]()
        for arm in ask["arms"]:
            agent, way = way_of(arm)
            settings = ",".join(f"{key}={value}" for key, value in PLAN["finetuning"].items())
            downstream = Downstream(TASK, ask["labels"], way, ask["draws"], settings=settings)
            common = {"data": str(data / ask["set"]), "device": "cpu", **PLAN["pretraining"]}
            experiment = Experiment(out / ask["set"], (agent,), RUNS, common, downstream)
            for trial in experiment.finetuning:
                if ask.get("crossed") or trial.run in (None, trial.draw % RUNS):
                    runs = [one for one in experiment.pretraining if one.run == trial.run]
                    found.append(Cell(ask["set"], arm, trial, (*experiment.references, *runs) if runs else ()))
        yield from sorted(found, key=lambda cell: cell.trial.draw)


def way_of(arm: str) -> tuple[str, str]:
    """Whose masks an arm was pretrained with, and how unlabelled images take part in it."""
    agent, way = PLAN["arms"][arm]
    return agent, way


def scores_of(group: Group, arm: str) -> Scores:
    """Collect what arms are compared by, of the trials of one."""
    return group.scores(*way_of(arm), compared(group)[0])


def work(trial: Trial) -> None:
    """Bring a trial to its end.

    Raises:
        Timeout: Another process is at it.
        AHMError: Anything that the user can mend.
    """
    trial.path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(trial.path.with_name(f"{trial.path.name}.lock"), timeout=0):
        if not trial.done:
            trial.work()


def keep(path: Path, trial: Trial) -> None:
    """Add the numbers of a trial to the results, in one piece though several processes write."""
    with FileLock(f"{path}.lock"):
        known = read_results(path) if path.exists() else []
        keys = {row[:KEY] for row in known}
        write_results(path, [*known, *(row for row in trial.rows() if row[:KEY] not in keys)])


def contrasts(rows: dict[str, list[Row]], which: str) -> list[tuple[str, ...]]:
    """Compute the contrasts of the plan that can be computed, as rows of a table."""
    found, asked = [], PLAN["contrasts"][which]
    for dataset, labels, one, base in asked:
        for group in grouped(rows.get(dataset, [])):
            if (group.task, group.labels) == (TASK, labels) and {way_of(one), way_of(base)} <= set(group.arms):
                gap = scores_of(group, one).minus(scores_of(group, base))
                if gap is not None:
                    found.append(((dataset, labels, f"{one} − {base}", str(gap.pairs)), gap))
    tests = [gap.p for _, gap in found]
    to_come = len(asked) - sum(not isnan(p) for p in tests)  # which count already
    corrected = holm([*tests, *[1.0] * to_come])
    return [
        (*names, gap.interval.text(sign=True), p_text(p)) for (names, gap), p in zip(found, corrected, strict=False)
    ]


def show() -> None:
    """Print all tables."""
    rows = {path.stem.removeprefix("proof-"): read_results(path) for path in sorted(RESULTS.glob("proof-*.csv"))}
    for which in PLAN["contrasts"]:
        headings = ("set", "labels", "arms", "pairs", "difference of Dice (95 %)", "p (Holm)")
        print(as_markdown(f"Contrasts, {which}", headings, contrasts(rows, which)))
    for dataset, some in rows.items():
        for table in tables_of(some, dataset):
            print(as_markdown(table.title, table.headings, table.rows))


def draw(path: Path) -> None:
    """Draw the Dice of the arms: against the number of labels where there are several, else draw by draw."""
    from matplotlib import pyplot

    panels = dict.fromkeys((ask["set"], ask["labels"]) for ask in PLAN["ask"][:4])
    figure, axes = pyplot.subplots(1, len(panels), figsize=(12, 3.4), layout="constrained")
    for axis, (dataset, labels) in zip(axes, sorted(panels, key=lambda panel: panel[0] != CURVE), strict=True):
        if dataset == CURVE:
            draw_curve(axis)
        else:
            draw_draws(axis, dataset, labels)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("Dice on val")
    figure.savefig(path, dpi=110)


def draw_curve(axis: Any) -> None:
    """Dice against the number of labels: means over draws, and the least and the largest."""
    arms = {way_of(arm) for arm in DRAWN}
    groups = {
        ALL if group.labels == "all" else int(group.labels): group
        for group in grouped(read_results(results_of(CURVE)))
        if group.task == TASK and (group.labels == "all" or arms <= set(group.arms))  # of all labels two arms
    }
    for arm, (name, colour) in DRAWN.items():
        labels = sorted(one for one, group in groups.items() if way_of(arm) in group.arms)
        found = [list(dice(groups[one], arm).values()) for one in labels]
        least, means, most = zip(*((min(one), sum(one) / len(one), max(one)) for one in found), strict=True)
        axis.fill_between(labels, least, most, color=colour, alpha=0.15, lw=0)
        axis.plot(labels, means, "o-", color=colour, lw=2, ms=4, label=name.replace("\n", " "))
    axis.set_xscale("log")
    axis.set_xticks(list(groups), [f"{labels:,}" for labels in groups], fontsize=8)
    axis.minorticks_off()
    axis.set_title(f"{TITLES[CURVE]}, by labels", fontsize=10)
    axis.legend(fontsize=8, frameon=False)


def draw_draws(axis: Any, dataset: str, labels: str) -> None:
    """Dice of each arm: a line is a draw of labelled images, a bar the mean over draws."""
    group = next(one for one in grouped(read_results(results_of(dataset))) if (one.task, one.labels) == (TASK, labels))
    found = [dice(group, arm) for arm in DRAWN]
    shared = [trial for trial in found[0] if all(trial in one for one in found)]  # in order: always the same picture
    for trial in shared:
        axis.plot([one[trial] for one in found], "o-", color="0.6", lw=1, ms=4)
    for number, (one, (_, colour)) in enumerate(zip(found, DRAWN.values(), strict=True)):
        mean = sum(one[trial] for trial in shared) / len(shared)
        axis.hlines(mean, number - 0.3, number + 0.3, color=colour, lw=3, zorder=3)
    axis.set(xlim=(-0.5, len(DRAWN) - 0.5))
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, high - SPAN), max(high, low + SPAN))
    axis.set_title(f"{TITLES[dataset]}, {labels} labels", fontsize=10)
    axis.set_xticks(range(len(DRAWN)), [name for name, _ in DRAWN.values()], fontsize=8)


def dice(group: Group, arm: str) -> dict[Any, float]:
    """Mean Dice of each of an arm's trials."""
    scores = scores_of(group, arm)
    return dict(zip(scores.trials, scores.sums.sum(1) / scores.counts.sum(1), strict=True))


def main(data: Path, out: Path, pattern: str = "") -> int:
    """Do the cells that are not done; the status is 1 where one was interrupted."""
    torch.set_num_threads(1)
    os.chdir(data)  # so that no result depends on where the data are
    for cell in cells(Path(), out):
        if cell.done or not re.search(pattern, cell.name):
            continue
        try:
            trials: tuple[Trial, ...] = (*cell.before, cell.trial)
            for trial in trials:
                work(trial)
                keep(cell.file, trial)
        except Timeout:
            continue
        except InterruptionError:
            return 1
        print(time.strftime("%H:%M"), cell.name, cell.trial.outcome, flush=True)
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["tables"]:
        show()
    elif sys.argv[1:2] == ["figure"]:
        draw(Path(sys.argv[2]))
    else:
        sys.exit(main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute(), *sys.argv[3:4]))
