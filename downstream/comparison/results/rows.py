"""The results of an experiment as one tidy table, `results.csv`: a row is one number of one trial.

A row is of an image, of a patient (a number of all images together), or, where both are empty, of the whole trial.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ahm_env import RunError
from ahm_env.files import read_rows, write_rows
from downstream.evaluation.statistics import Scores, Trial

RESULTS = "results.csv"
MASKING = "masking"  # the task of a pretraining run: how hard the agent's masks are
SCRATCH = "scratch"


class Row(NamedTuple):
    """A number of a trial.

    Attributes:
        agent: Whose masks it was pretrained with; `scratch` for none.
        run: Number, and seed, of the pretraining; None for none.
        draw: Number of the draw of labelled images, and seed of the fine-tuning; of masks, number of the reference
            U-Net that they were shown to; None for what is known of the pretraining itself.
        task: `masking`, `segmentation` or `classification`.
        labels: How many labelled images: a number, or `all`; empty for pretraining.
        arm: How unlabelled images took part; empty for pretraining.
        image: Name of the image it is of.
        patient: Number of the patient it is of.
        metric: What it measures.
        value: The number.
    """

    agent: str
    run: int | None
    draw: int | None
    task: str
    labels: str
    arm: str
    image: str
    patient: str
    metric: str
    value: float


@dataclass(frozen=True)
class Group:
    """The trials of one task with one number of labels, in which arms are compared.

    Attributes:
        task: `masking`, `segmentation` or `classification`.
        labels: A number, or `all`; empty for masking.
        rows: All of their numbers.
    """

    task: str
    labels: str
    rows: tuple[Row, ...]

    @cached_property
    def arms(self) -> list[tuple[str, str]]:
        """Agent and arm of all that have a trial, in the order in which they come."""
        return list(self._by_arm)

    @cached_property
    def _by_arm(self) -> dict[tuple[str, str], list[Row]]:
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row.agent, row.arm), []).append(row)
        return found

    def of_arm(self, agent: str, arm: str) -> list[Row]:
        """Return the rows of an arm; none where it has no trial."""
        return self._by_arm.get((agent, arm), [])

    @cached_property
    def metrics(self) -> set[str]:
        """What was measured of images, patients or trials."""
        return {row.metric for row in self.rows}

    def scores(self, agent: str, arm: str, metric: str, per: str | None = None) -> Scores:
        """Collect a metric of the trials of an arm, patient by patient.

        A metric with values for patients is a mean over patients, otherwise one with values for images is a mean over
        images; one with values for whole trials only counts as that of a single patient.

        Args:
            agent: Name of the agent.
            arm: The arm.
            metric: Name of the metric.
            per: Another metric, by the mean of which that of the first is divided; None for none.

        Raises:
            RunError: The trials were not tested on the same images, or one lacks a metric, maybe of some images.
        """
        own = self.of_arm(agent, arm)
        found, others = _by_patient(own, metric), _by_patient(own, per or metric)
        if not found:
            raise lacking(f"{agent}, {self.task}", metric)
        for run, draw in dict.fromkeys((row.run, row.draw) for row in own if row.draw is not None):
            if (run, draw) not in found:
                raise lacking(_trial_name(agent, (run, draw)), metric)
        trials, known = tuple(found), [_tested(patients) for patients in found.values()]
        for trial, tested in zip(trials, known, strict=True):
            name = _trial_name(agent, trial)
            if tested != known[0]:
                raise RunError(
                    f"{name}: was tested on other images than its siblings; delete that trial, and the same command "
                    f"runs it again"
                )
            if per and set(map(frozenset, _tested(others.get(trial, {})))) != set(map(frozenset, tested)):
                raise lacking(name, f"{per} of an image that has {metric}")
        patients = tuple(sorted(known[0]))
        place = {images: number for number, images in enumerate(patients)}
        sums, counts = np.zeros((2, len(trials), len(patients)))
        for row, trial in enumerate(trials):
            for patient, (total, images) in found[trial].items():
                sums[row, place[images]] = total
                counts[row, place[images]] = others[trial][patient][0] if per else len(images)
        return Scores(trials, patients, sums, counts)

    def mean(self, agent: str, arm: str, metric: str) -> float:
        """Return the mean over trials of a metric with one value for each trial; NaN where a trial lacks it."""
        own = [row for row in self.of_arm(agent, arm) if not (row.image or row.patient)]
        values = [row.value for row in own if row.metric == metric]
        complete = len(values) == len({(row.run, row.draw) for row in own})
        return float(np.mean(values)) if values and complete else float("nan")


def lacking(who: str, metric: str) -> RunError:
    """Make the error where a part of `results.csv` is gone.

    Args:
        who: An agent, a trial, or a group of them.
        metric: What it lacks.
    """
    return RunError(f"{who}: {RESULTS} lacks {metric}; `ahm compare-agents` writes it again")


def _trial_name(agent: str, trial: Trial) -> str:
    levels = zip(("run", "draw"), trial, strict=True)
    return ", ".join((agent, *(f"{level} {one}" for level, one in levels if one is not None)))


OfPatients = dict[str, tuple[float, tuple[str, ...]]]  # number of a patient to a sum, and the names of what it is of


def _tested(patients: OfPatients) -> set[tuple[str, ...]]:
    """Collect the names of the images, or of the patient, that each sum is of."""
    return {names for _, names in patients.values()}


def _by_patient(rows: Iterable[Row], metric: str) -> dict[Trial, OfPatients]:
    """Of each trial and patient the sum of a metric, and the names of what it is of."""
    measured = [row for row in rows if row.metric == metric]
    of_patients, of_images = (
        [row for row in measured if row.patient and bool(row.image) is which] for which in (False, True)
    )
    found: dict[Trial, OfPatients] = {}
    for row in of_patients or of_images or measured:
        patients = found.setdefault((row.run, row.draw), {})
        total, names = patients.get(row.patient, (0.0, ()))
        patients[row.patient] = total + row.value, (*names, row.image or row.patient)
    return found


def grouped(rows: Iterable[Row]) -> list[Group]:
    """Group the rows of an experiment by task and labels, in the order in which they come."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.task, row.labels), []).append(row)
    return [Group(task, labels, tuple(some)) for (task, labels), some in found.items()]


def write_results(path: Path, rows: Iterable[Row]) -> None:
    """Write `results.csv`, whole; nothing where there is no row."""
    if written := [{**row._asdict(), "value": f"{row.value:.10g}"} for row in rows]:
        write_rows(path, written)


def read_results(path: Path) -> list[Row]:
    """Read `results.csv`.

    Raises:
        RunError: It is missing or damaged.
    """
    try:
        rows = read_rows(path)
        if not rows or tuple(rows[0]) != Row._fields:
            raise ValueError(f"it holds no row, or its columns are not {','.join(Row._fields)}")
        return [
            Row(agent, _number(run), _number(draw), task, labels, arm, image, patient, metric, float(value))
            for agent, run, draw, task, labels, arm, image, patient, metric, value in map(dict.values, rows)
        ]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{path}: missing or damaged ({error}); `ahm compare-agents` writes it again") from None


def _number(text: str) -> int | None:
    return int(text) if text else None
