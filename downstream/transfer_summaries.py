"""What fine-tuning came to: means, paired differences with intervals, and tests, over seeds and patients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env import RunError
from ahm_env.masks import Ints
from downstream.summaries import DRAWS, Interval, bootstrap
from downstream.tables import write_rows
from downstream.transfer import MEASURE, SCRATCH, Transfer, TransferCell, count_name

Floats = npt.NDArray[np.float64]

COLUMNS = ("dice", "iou", "hd95", "sensitivity", "specificity", "accuracy", "balanced_accuracy", "auroc")
BASELINES = (SCRATCH, "random")  # a gain over scratch alone says nothing about masking


@dataclass(frozen=True)
class Difference:
    """How one agent differs from a baseline, on the same seeds and test images.

    Attributes:
        baseline: Name of the baseline.
        interval: Mean difference with its 95 % interval.
        p: Of Wilcoxon's signed-rank test over patients, of the means over seeds; corrected after Holm for all tests of
            the same table. NaN where all differences are 0.
        seeds: How many seeds both have.
    """

    baseline: str
    interval: Interval
    p: float
    seeds: int


@dataclass(frozen=True)
class TransferSummary:
    """What the cells of one agent, task and number of labels came to.

    Attributes:
        agent: Name of the agent, or `scratch`.
        task: `segmentation` or `classification`.
        labels: How many; None is all.
        labelled: How many that are.
        seeds: How many cells are done.
        mean: Dice, or accuracy, over seeds and test images.
        differences: To each baseline that is there.
        others: Further measures, means over seeds.
    """

    agent: str
    task: str
    labels: int | None
    labelled: int
    seeds: int
    mean: Interval
    differences: tuple[Difference, ...]
    others: Mapping[str, float]


def summarise_transfer(transfer: Transfer, draws: int = DRAWS) -> list[TransferSummary]:
    """Summaries of what is done, task by task, number by number, agent by agent.

    Raises:
        RunError: The cells were tested on different images.
    """
    done: dict[tuple[str, int | None], dict[str, dict[int, TransferCell]]] = {
        (task, count): {agent: {} for agent in (SCRATCH, *transfer.plan.labels)}
        for task in transfer.tasks
        for count in transfer.counts
    }
    for cell in transfer.cells:
        if cell.result is not None:
            done[cell.task, cell.labels][cell.agent][cell.seed] = cell
    return [
        one
        for (task, count), agents in done.items()
        for one in _summarise(task, count, {agent: cells for agent, cells in agents.items() if cells}, draws)
    ]


def _summarise(
    task: str, count: int | None, agents: Mapping[str, Mapping[int, TransferCell]], draws: int
) -> list[TransferSummary]:
    """The agents of one table."""
    values, patients = _values(agents)
    found = {
        (agent, base): paired_difference(values[agent], values[base], patients, draws)
        for agent in values
        for base in BASELINES
        if base in values and base != agent and agent != SCRATCH and values[agent].keys() & values[base].keys()
    }
    corrected = dict(zip(found, holm([p for _, p, _ in found.values()]), strict=True))
    summaries = []
    for agent, cells in agents.items():
        seeds = list(values[agent].values())
        differences = tuple(
            Difference(base, interval, corrected[name, base], both)
            for (name, base), (interval, _, both) in found.items()
            if name == agent
        )
        results = [cell.result or {} for cell in cells.values()]
        mean = over_patients(np.array(seeds), patients, draws)
        summaries.append(
            TransferSummary(
                agent, task, count, int(results[0]["labels"]), len(seeds), mean, differences, _others(results)
            )
        )
    return summaries


def _values(agents: Mapping[str, Mapping[int, TransferCell]]) -> tuple[dict[str, dict[int, Floats]], Ints]:
    """For each agent and seed, the value of every test image, `(images,)`, in one order; and whom these images show."""
    names, patients, values = list[str](), list[str](), dict[str, dict[int, Floats]]()
    for agent, cells in agents.items():
        for seed, cell in cells.items():
            found = cell.per_image()
            names = names or list(found)
            if list(found) != names:
                raise RunError(f"{cell.path}: was tested on other images than its siblings; delete it and run again")
            patients = [patient for patient, _ in found.values()]
            values.setdefault(agent, {})[seed] = np.array([value for _, value in found.values()])
    return values, np.unique(patients, return_inverse=True)[1]


def over_patients(values: Floats, patients: Ints, draws: int = DRAWS) -> Interval:
    """The mean of values `(seeds, images)` with its interval: seeds are drawn, and patients with all their images."""
    sums = np.array([np.bincount(patients, row) for row in values])
    counts = np.broadcast_to(np.bincount(patients), sums.shape)
    return bootstrap([np.stack([sums, counts])], lambda parts: parts[0][0] / parts[0][1], draws)


def paired_difference(
    one: Mapping[int, Floats], base: Mapping[int, Floats], patients: Ints, draws: int = DRAWS
) -> tuple[Interval, float, int]:
    """How two agents differ on the seeds that both have, and on the same images.

    Args:
        one: For each seed the values of an agent, `(images,)`.
        base: Those of the other one.
        patients: `(images,)` numbers from 0 of those whom they show.
        draws: Resamples of the bootstrap.

    Returns:
        The mean difference with its 95 % interval, p of Wilcoxon's test before correction, and the number of seeds.
    """
    both = sorted(one.keys() & base.keys())
    gaps = np.array([one[seed] - base[seed] for seed in both])
    of_patients = np.bincount(patients, gaps.mean(0)) / np.bincount(patients)
    return over_patients(gaps, patients, draws), wilcoxon(of_patients), len(both)


def wilcoxon(gaps: Floats) -> float:
    """P of Wilcoxon's signed-rank test (1945), two-sided, that paired differences `(patients,)` are symmetric about 0.

    Differences of 0 are left out; where there are no others, p is NaN.
    """
    from scipy.stats import wilcoxon as test  # type: ignore[import-untyped]

    ties = np.round(gaps, 9)  # what is equal but for the last bits has the same rank
    return float(test(ties, zero_method="wilcox").pvalue) if np.any(ties) else nan


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's correction (1979) of p values for their number; NaN is no test and stays NaN."""
    order = [index for index in np.argsort(ps, kind="stable") if not np.isnan(ps[index])]
    corrected, largest = [nan] * len(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[index]))
        corrected[index] = largest
    return corrected


def _others(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over seeds of all measures that are numbers in every result."""
    names = [name for name, value in results[0].items() if isinstance(value, float)]
    return {
        name: float(np.mean([one[name] for one in results]))
        for name in names
        if all(one[name] is not None for one in results)
    }


def write_transfer_csv(transfer: Transfer) -> Path | None:
    """Write `transfer.csv`, a row for each cell that is done; nothing, and None, where none is."""
    rows: list[dict[str, Any]] = []
    for cell in transfer.cells:
        if (result := cell.result) is not None:
            value = float(np.mean([value for _, value in cell.per_image().values()]))
            about = {"task": cell.task, "labels": count_name(cell.labels), "agent": cell.agent, "seed": cell.seed}
            numbers = {name: result.get(name) for name in COLUMNS}
            rows.append(
                {**about, "measure": MEASURE[cell.task], "value": f"{value:.6g}"}
                | {name: "" if number is None else f"{number:.6g}" for name, number in numbers.items()}
            )
    if not rows:
        return None
    path = transfer.plan.out / "transfer.csv"
    write_rows(path, rows)
    return path
