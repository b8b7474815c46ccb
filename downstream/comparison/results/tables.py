"""Tables and charts of an experiment, from its results: how hard masks are, and what the U-Nets are good for."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from ahm_env import RunError
from ahm_env.console import number
from ahm_env.files import read_rows
from downstream.comparison.results.hardness_tables import RANDOM, hardness_tables
from downstream.comparison.results.rows import MASKING, SCRATCH, Group, Row, grouped, lacking
from downstream.evaluation.metrics import measure_name
from downstream.evaluation.statistics import Interval, Scores, holm, p_text
from downstream.reports.charts import COLOURS
from downstream.reports.report import Table, Trend

DASHES = 3  # of the page's lines: solid, dashed, dotted
PLAIN = "none"  # the arm that others are compared with, where it is there
# Further measures beside the one that is compared, where they were measured
FURTHER = {
    "patient_dice": ("dice", "marked_dice", "blank_pixels", "hd95"),
    "dice": ("iou", "hd95", "sensitivity", "specificity"),
    "accuracy": ("balanced_accuracy",),
    "auroc": (),
}
# What needs no model: the metric of it, and what it is called
TRIVIAL = {
    "patient_dice": ("nothing_patient_dice", "predicting nothing"),
    "dice": ("nothing_dice", "predicting nothing"),
    "accuracy": ("majority_accuracy", "the most frequent class"),
}
NOTES = (
    "Intervals, and p: one bootstrap over pretraining runs, draws of the labelled images, and patients (images, where "
    "no patient has several), the same for both sides of a difference, with Student's t for few of them; of AUROC over "
    "runs and draws alone. Of one run or one draw nothing is known of others: its luck is in no interval, and there is "
    "no p. p is two-sided, and corrected after Holm within each table.",
)


def tables_of(rows: Iterable[Row], data: str, zero_shot: Sequence[Path] = ()) -> list[Table]:
    """All tables of an experiment: those of the masks, one for each task, number of labels and compared measure.

    Args:
        rows: Its results.
        data: What the images are called.
        zero_shot: Directories with Segment Anything's scores, one for each prompt that was tried.

    Raises:
        RunError: Trials were tested on different images, or lack some of their numbers.
    """
    tables = list[Table]()
    for group in grouped(rows):
        if group.task == MASKING:
            tables += hardness_tables(group, data)
        else:
            tables += [finetuning_table(group, metric, data, zero_shot) for metric in compared(group)]
    for place, table in enumerate(tables):  # what is the same below all is said once; warnings stay where they are
        later = {note for other in tables[place + 1 :] for note in other.notes}
        tables[place] = replace(table, notes=tuple(note for note in table.notes if note not in later & {*NOTES}))
    return tables


def compared(group: Group) -> list[str]:
    """List the metrics by which arms are compared, most important first."""
    if group.task == "classification":
        return [name for name in ("accuracy", "auroc") if name in group.metrics]
    return ["patient_dice" if "patient_dice" in group.metrics else "dice"]


def finetuning_table(group: Group, metric: str, data: str, zero_shot: Sequence[Path] = ()) -> Table:
    """How well U-Nets segment or classify after fine-tuning."""
    scores = {arm: group.scores(*arm, metric) for arm in group.arms}
    arms = list(dict.fromkeys(arm for _, arm in scores))
    found = {(one, base): gap for one, base in _contrasts(scores) if (gap := scores[one].minus(scores[base]))}
    ps = dict(zip(found, holm([gap.p for gap in found.values()]), strict=True))
    bases = list(dict.fromkeys(_kind(one, base) for one, base in found))
    further = [name for name in FURTHER[metric] if name in group.metrics]
    main, rows = f"{measure_name(metric)} (95 %)", list[dict[str, str]]()
    for (agent, arm), one in scores.items():
        row = {"pretraining": agent, **({"unlabelled": _took_part(group, agent, arm)} if len(arms) > 1 else {})}
        runs, draws = (set(levels) - {None} for levels in zip(*one.trials, strict=True))
        row |= {"runs": str(len(runs) or "–"), "draws": str(len(draws)), main: one.mean.text()}
        gaps = {_kind(ours, base): (ours, base) for ours, base in found if ours == (agent, arm)}
        for kind in bases:
            pair = gaps.get(kind)
            row[f"against {kind} (95 %)"] = "–" if pair is None else found[pair].interval.text(sign=True)
            row[f"p, {kind}"] = "–" if pair is None else p_text(ps[pair])
        rows.append(row | {measure_name(name): number(group.mean(agent, arm, name)) for name in further})
    blank = dict.fromkeys(rows[0], "–")
    if metric in TRIVIAL and (name := TRIVIAL[metric][0]) in group.metrics:
        value = float(np.mean([row.value for row in group.rows if row.metric == name]))
        rows.append(blank | {"pretraining": TRIVIAL[metric][1], main: number(value)})
    for path in zero_shot if metric in ("dice", "patient_dice") else ():
        if (dice := sam_dice(path)) is not None:  # a mean over images
            named = {"pretraining": f"SAM, {path.name.removeprefix('sam-')}, no labels"}
            measured = {main: dice.text()} if metric == "dice" else {measure_name("dice"): number(dice.mean)}
            rows.append(blank | named | measured)
    title = f"{group.task.capitalize()} of {data} with {group.labels} labels"
    return Table.of(title if metric != "auroc" else f"{title}: AUROC", rows, (*_unbalanced(scores), *NOTES))


def _took_part(group: Group, agent: str, arm: str) -> str:
    """Name an arm, and in how many of its trials unlabelled images took part, where that is not all."""
    counts = [row.value for row in group.of_arm(agent, arm) if row.metric == "unlabelled"]
    some = sum(count > 0 for count in counts)
    if arm.split("+")[0] == "none" or not counts or some == len(counts):
        return arm
    return f"{arm} (took part in {some} of {len(counts)})"


def _unbalanced(scores: Mapping[tuple[str, str], Scores]) -> list[str]:
    """Warn where arms do not have the same draws: their means are then of unlike trials; differences are not."""
    found: dict[tuple[tuple[int | None, Fraction], ...], list[str]] = {}
    for (agent, arm), one in scores.items():
        counts = Counter(draw for _, draw in one.trials)
        shares = tuple(sorted((draw, Fraction(count, len(one.trials))) for draw, count in counts.items()))
        found.setdefault(shares, []).append(f"{agent}, {arm}")
    if len(found) < 2:
        return []
    draws = "; ".join(
        f"{' and '.join(names)}: {', '.join(str(draw) for draw, _ in shares)}" for shares, names in found.items()
    )
    return [
        f"NOT BALANCED: arms have other draws, or not equally often, so that means are not to be compared, only "
        f"differences, which are of the draws that both have. Draws of {draws}."
    ]


def _contrasts(arms: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Which arm is compared with which: with the one without unlabelled images, with scratch, and with random.

    A gain over scratch alone says nothing about masking.
    """
    known = list(arms)
    plain = PLAIN if any(arm == PLAIN for _, arm in known) else known[0][1]
    for agent, arm in known:
        bases = [(agent, plain)] if arm != plain else []
        bases += [(base, arm) for base in (SCRATCH, RANDOM) if agent not in (SCRATCH, base)]
        for base in bases:
            if base in known:
                yield (agent, arm), base


def _kind(one: tuple[str, str], base: tuple[str, str]) -> str:
    """Name a baseline in a heading: the agent, or, of the same agent, the way to use unlabelled images."""
    return base[0] if one[0] != base[0] else f"unlabelled {base[1]}"


def trends_of(rows: Iterable[Row], data: str = "") -> list[Trend]:
    """How well U-Nets do with more and more labels: one trend for each task and compared measure.

    Args:
        rows: Results of an experiment.
        data: What the images are called, where a page shows several sets; empty otherwise.

    Raises:
        RunError: Trials were tested on different images, or lack some of their numbers.
    """
    found: dict[tuple[str, str], list[Group]] = {}
    for group in grouped(rows):
        if group.task != MASKING:
            for metric in compared(group):
                found.setdefault((group.task, metric), []).append(group)
    trends = []
    for (_, metric), groups in found.items():
        agents, arms = (list(dict.fromkeys(pair[i] for group in groups for pair in group.arms)) for i in (0, 1))
        counts, lines, styles = dict[int, str](), dict[str, dict[int, Interval]](), dict[str, int]()
        for group in sorted(groups, key=lambda one: (_labelled(one), one.labels == "all")):
            count = _labelled(group)
            counts[count] = f"all ({count:,})" if group.labels == "all" else f"{count:,}"
            for agent, arm in group.arms:
                name = agent if len(arms) == 1 else f"{agent}, {arm}"
                lines.setdefault(name, {})[count] = group.scores(agent, arm, metric).mean
                if len(arms) > 1:
                    colour, place = agents.index(agent) + 3 * (arms.index(arm) // DASHES), arms.index(arm) % DASHES
                    styles |= {agent: agents.index(agent) % COLOURS, name: colour % COLOURS + COLOURS * place}
        named = measure_name(metric)
        title = f"{named[0].upper()}{named[1:]}" + (f", {data}" if data else "")
        trends.append(Trend(title, counts, lines, styles))
    return trends


def _labelled(group: Group) -> int:
    """How many images are labelled.

    Raises:
        RunError: No trial tells it.
    """
    counts = (row.value for row in group.rows if row.metric == "labels")
    if (count := next(counts, None)) is None:
        raise lacking(f"{group.task} with {group.labels} labels", "labels")
    return round(count)


def sam_dice(directory: Path) -> Interval | None:
    """Mean Dice of Segment Anything over the test images with its 95 % interval, None where it was not tried.

    Raises:
        RunError: Its scores are damaged.
    """
    path = directory / "scores.csv"
    if not path.exists():
        return None
    try:
        dice = {row["image"]: float(row["dice"]) for row in read_rows(path)}
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{path}: damaged ({error}); delete it, and `ahm annotate` writes it again") from None
    values = np.array([list(dice.values())])
    names = tuple((name,) for name in dice)
    return Scores(((None, None),), names, values, np.ones_like(values)).mean if dice else None
