"""The tables of a comparison: how hard the agents' masks are, and what their U-Nets are good for."""

import csv
from collections.abc import Sequence
from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np

from agents.console import number
from agents.settings import RunSettings
from downstream.comparison import Plan
from downstream.report import Table, Trend, source_name
from downstream.summaries import Interval, baseline, bootstrap, summarise, unlike
from downstream.tasks_console import measure_name
from downstream.transfer import Transfer, count_name
from downstream.transfer_summaries import BASELINES, TransferSummary

_FURTHER = {
    "segmentation": ("iou", "hd95", "sensitivity", "specificity"),
    "classification": ("balanced_accuracy", "auroc"),
}
_MEASURED = {"segmentation": "Dice", "classification": "accuracy"}
NOTES = (
    "Means over seeds and test images; a seed is one pretraining, one choice of labelled images and one fine-tuning, "
    "the same choice for all. Intervals: bootstrap over seeds and patients (images, where nobody has several); "
    "differences are paired by both.",
    "p: Wilcoxon's signed-rank test over patients, of the means over seeds, corrected after Holm within each table; "
    "unlike the intervals, it takes these seeds as given.",
)


def hardness_table(plan: Plan) -> list[Table]:
    """How hard each agent's masks are; no table where no cell is done."""
    summaries = summarise(plan)
    if not summaries:
        return []
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
    shared = RunSettings.make(**plan.shared)
    notes = [
        "Hardness: loss of the hidden patches over that under random masks of the same size, on held-out images and "
        "one U-Net, which was trained on random masks and judges all. Intervals: bootstrap over seeds and images; "
        "differences are paired.",
        f"All runs: {shared.images:,} images, share {shared.share}, the same number of U-Net updates.",
    ]
    if complaints := unlike(plan):
        notes[1] = "NOT COMPARABLE: the runs differ in " + "; ".join(complaints)
    title = f"Agents on {source_name(plan.shared.get('data', 'phantom'))}"
    return [Table(title, headings, tuple(rows), tuple(notes))]


def transfer_tables(transfer: Transfer, summaries: Sequence[TransferSummary]) -> list[Table]:
    """How well the U-Nets segment or classify after fine-tuning: one table for each task and number of labels."""
    groups: dict[tuple[str, int | None], list[TransferSummary]] = {}
    for one in summaries:
        groups.setdefault((one.task, one.labels), []).append(one)
    tables = [_transfer_table(transfer, task, count, some) for (task, count), some in groups.items()]
    return [*tables[:-1], *(replace(table, notes=NOTES) for table in tables[-1:])]  # once is enough


def transfer_trends(summaries: Sequence[TransferSummary]) -> list[Trend]:
    """How well the U-Nets do with more and more labels: one trend for each task."""
    trends = []
    for task in dict.fromkeys(one.task for one in summaries):
        counts, agents = dict[int, str](), dict[str, dict[int, Interval]]()
        for one in sorted(summaries, key=lambda one: (one.labelled, one.labels is None)):
            if one.task == task:
                counts[one.labelled] = f"all ({one.labelled:,})" if one.labels is None else f"{one.labelled:,}"
                agents.setdefault(one.agent, {})[one.labelled] = one.mean
        trends.append(Trend(_MEASURED[task].capitalize(), counts, agents))
    return trends


def _transfer_table(transfer: Transfer, task: str, count: int | None, summaries: Sequence[TransferSummary]) -> Table:
    bases = [base for base in BASELINES if any(gap.baseline == base for one in summaries for gap in one.differences)]
    further = _FURTHER[task]
    headings = ["pretraining", "seeds", f"{_MEASURED[task]} (95 %)"]
    headings += [heading for base in bases for heading in (f"against {base} (95 %)", "p")]
    rows = []
    for one in summaries:
        gaps = {gap.baseline: gap for gap in one.differences}
        row = [one.agent, str(one.seeds), interval(one.mean)]
        for base in bases:
            gap = gaps.get(base)
            row += ["–", "–"] if gap is None else [interval(gap.interval, sign=True), _p(gap.p)]
        rows.append((*row, *(number(one.others[name]) if name in one.others else "–" for name in further)))
    if task == "segmentation" and (zero_shot := sam_dice(transfer.zero_shot)) is not None:
        unknown = ["–"] * (len(headings) - 3 + len(further))
        rows.append((f"SAM, {Path(transfer.prompt).stem}, no labels", "–", interval(zero_shot), *unknown))
    where = source_name(transfer.plan.shared.get("data", "phantom"))
    title = f"{task.capitalize()} of {where} with {count_name(count)} labels"
    return Table(title, (*headings, *map(measure_name, further)), tuple(rows))


def sam_dice(directory: Path) -> Interval | None:
    """Mean Dice of Segment Anything over the test images with its 95 % interval, None where it was not tried."""
    path = directory / "scores.csv"
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        values = np.array([float(row["dice"]) for row in csv.DictReader(file)])
    return bootstrap([values[None, None]], lambda parts: parts[0][0]) if values.size else None


def interval(one: Interval, sign: bool = False) -> str:
    """A mean with its interval, for people."""
    form = "+.3f" if sign else ".3f"
    return f"{one.mean:{form}} ({one.low:{form}} to {one.high:{form}})"


def _p(value: float) -> str:
    return "–" if isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"
