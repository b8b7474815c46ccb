"""Statistics of fine-tuning, by hand, by published numbers and by simulation."""

import csv
import json
from collections.abc import Mapping, Sequence
from math import hypot, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahm_env import RunError
from downstream.comparison import Plan
from downstream.summaries import bootstrap
from downstream.tables import write_rows
from downstream.transfer import Transfer, TransferCell
from downstream.transfer_summaries import (
    COLUMNS,
    holm,
    over_patients,
    paired_difference,
    summarise_transfer,
    wilcoxon,
    write_transfer_csv,
)

Floats = npt.NDArray[np.float64]


def plan(out: Path, labels: tuple[str, ...] = ("random", "a3c"), seeds: int = 2, **changes: Any) -> Transfer:
    given = {"tasks": ("segmentation",), "counts": (8,), "settings": {}, **changes}
    return Transfer(Plan(out, labels, seeds, {"data": "phantom:40:0"}), **given)


def finish(cell: TransferCell, values: Sequence[float], names: Sequence[str] = (), **result: Any) -> None:
    """Pretend that a cell is done, with these values of its test images."""
    names = names or [f"image{number}" for number in range(len(values))]
    cell.path.mkdir(parents=True)
    if cell.task == "segmentation":
        rows = [
            {"image": name, "patient": name, "dice": f"{value:.6g}"} for name, value in zip(names, values, strict=True)
        ]
    else:
        words = {1: "right", 0: "wrong"}
        rows = [
            {"image": name, "patient": name, "label": "right", "prediction": words[int(value)]}
            for name, value in zip(names, values, strict=True)
        ]
    write_rows(cell.path / "test.csv", rows)
    about = {"task": cell.task, "images": len(values), "labels": cell.labels or 32, **result}
    (cell.path / "test.json").write_text(json.dumps(about))


def finish_all(transfer: Transfer, values: Mapping[str, Floats]) -> None:
    """All cells of the agents, each with its values `(seeds, images)`."""
    for cell in transfer.cells:
        finish(cell, values[cell.agent][cell.seed])


# ---------------------------------------------------------------- corrections and tests


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 x 0.01, 2 x 0.03, and not below that
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_what_was_not_tested_does_not_count() -> None:
    corrected = holm([nan, 0.01, 0.04])
    assert isnan(corrected[0])
    assert corrected[1:] == pytest.approx([0.02, 0.04])
    assert all(isnan(one) for one in holm([nan, nan]))


def test_holm_as_in_the_tests_of_statsmodels() -> None:
    """P values of statsmodels' `test_multi.py`, with what R's multtest makes of them."""
    ps = [0.838541367553, 0.642193923795, 0.680845947633, 0.967833824309, 0.71626938238]
    ps += [0.177096952723, 5.23656777208e-5, 0.0202732688798, 0.00028140506198, 0.0149877310796]
    published = [1, 1, 1, 1, 1, 1, 5.2365677720800005e-4, 1.4191288215860001e-1, 2.5326455578199999e-3]
    assert holm(ps) == pytest.approx([*published, 1.1990184863680001e-1], rel=1e-9)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_only_makes_larger_and_keeps_the_order(ps: list[float]) -> None:
    corrected = holm(ps)
    assert all(one <= after <= 1 for one, after in zip(ps, corrected, strict=True))
    assert all(after <= min(1, len(ps) * one) for one, after in zip(ps, corrected, strict=True))
    order = np.argsort(ps, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_wilcoxon_by_hand() -> None:
    assert wilcoxon(np.array([0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(
        2 / 2**5
    )  # all of one sign: once in 32, twice
    assert wilcoxon(np.array([-0.1, 0.2, 0.3, 0.4, 0.5])) == pytest.approx(4 / 2**5)  # rank sums of 1 and of 0
    assert wilcoxon(np.array([-0.1, 0.1, -0.2, 0.2])) == 1


def test_wilcoxon_is_symmetric_and_no_difference_is_no_test() -> None:
    gaps = np.random.default_rng(0).normal(0.2, 1, 40)
    assert wilcoxon(gaps) == pytest.approx(wilcoxon(-gaps))
    assert wilcoxon(gaps + 1) < 0.001 < wilcoxon(gaps)
    assert isnan(wilcoxon(np.zeros(40)))


def test_what_is_nothing_but_for_the_last_bits_is_left_out() -> None:
    dust = (0.7 - 0.6) + (0.3 - 0.4)
    assert dust != 0
    assert isnan(wilcoxon(np.array([dust, 0])))
    assert wilcoxon(np.array([dust, 0, 0.1, 0.2, 0.3])) == wilcoxon(np.array([0.1, 0.2, 0.3]))


# ---------------------------------------------------------------- intervals


def test_the_interval_of_a_difference_covers_the_true_one_19_times_of_20() -> None:
    rng, seeds, images, true = np.random.default_rng(0), 12, 40, 0.03
    covered, experiments = 0, 200
    for _ in range(experiments):
        difficulty = rng.normal(0.7, 0.2, images)
        base = difficulty + rng.normal(0, 0.05, (seeds, images))
        gain = rng.normal(true, 0.04, (seeds, 1)) + rng.normal(0, 0.05, images)
        one = base + gain + rng.normal(0, 0.05, (seeds, images))
        found, _, both = paired_difference(dict(enumerate(one)), dict(enumerate(base)), np.arange(images), 300)
        covered += found.low <= true <= found.high
        assert both == seeds
    assert 0.89 <= covered / experiments <= 0.99


def test_pairs_that_go_together_make_the_interval_narrow() -> None:
    rng = np.random.default_rng(1)
    difficulty, fortune = rng.normal(0.7, 0.2, 60), rng.normal(0, 0.05, (5, 1))
    one, base = (difficulty + fortune + gain + rng.normal(0, 0.02, (5, 60)) for gain in (0.05, 0))
    paired, _, _ = paired_difference(dict(enumerate(one)), dict(enumerate(base)), np.arange(60), 2000)
    apart = [bootstrap([values[None]], lambda parts: parts[0][0], 2000) for values in (one, base)]
    unpaired = hypot(*(each.high - each.low for each in apart))  # of independent samples
    assert paired.high - paired.low < unpaired / 5
    assert paired.low < 0.05 < paired.high


def test_images_of_a_patient_count_together() -> None:
    rng = np.random.default_rng(2)
    of_patients = rng.normal(0.7, 0.2, 30)
    patients = np.repeat(np.arange(30), 8)
    values = of_patients[patients] + rng.normal(0, 1e-6, (3, 240))
    together = over_patients(values, patients, 2000)
    alone = over_patients(values, np.arange(240), 2000)
    once = over_patients(np.tile(of_patients, (3, 1)), np.arange(30), 2000)
    assert together.mean == pytest.approx(alone.mean) == pytest.approx(once.mean, abs=1e-5)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.01)
    assert together.high - together.low > 2.5 * (alone.high - alone.low)  # the root of 8, less chance
    gaps = rng.normal(0.01, 0.02, 30)
    one = dict(enumerate(values + gaps[patients]))
    found, p, _ = paired_difference(one, dict(enumerate(values)), patients, 2000)
    assert found.mean == pytest.approx(gaps.mean())
    assert p == pytest.approx(wilcoxon(gaps))
    # who has more images weighs more in the mean, and is one in the test
    few = np.array([0, 0, 0, 1])
    found, p, _ = paired_difference({0: np.array([1.0, 1, 1, 0])}, {0: np.zeros(4)}, few, 2000)
    assert (found.mean, found.low, found.high) == (0.75, 0, 1)


def test_a_difference_is_of_the_seeds_that_both_have() -> None:
    one = {0: np.array([0.5, 0.7]), 2: np.array([0.9, 0.9]), 3: np.array([0.6, 0.8])}
    base = {0: np.array([0.4, 0.6]), 1: np.array([0.0, 0.0]), 3: np.array([0.5, 0.7])}
    found, p, both = paired_difference(one, base, np.arange(2), 100)
    assert both == 2
    assert (found.low, found.mean, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert p == pytest.approx(0.5)  # two images: one of four, twice


# ---------------------------------------------------------------- summaries


def test_means_are_those_of_the_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    transfer = plan(tmp_path, seeds=3, tasks=("segmentation", "classification"), counts=(8, None))
    for cell in transfer.cells:
        finish(cell, rng.uniform(size=7) if cell.task == "segmentation" else rng.integers(0, 2, 7))
    found = {(one.task, one.labels, one.agent): one for one in summarise_transfer(transfer, 100)}
    assert list(found) == [
        (task, labels, agent)
        for task in ("segmentation", "classification")
        for labels in (8, None)
        for agent in ("scratch", "random", "a3c")
    ]

    def values(task: str, labels: str, agent: str) -> list[float]:
        numbers = []
        for seed in range(3):
            with (tmp_path / "finetuned" / f"{task}-{labels}-{agent}-{seed}" / "test.csv").open() as file:
                for row in csv.DictReader(file):
                    right = task == "classification" and row["label"] == row["prediction"]
                    numbers.append(float(right) if task == "classification" else float(row["dice"]))
        assert len(numbers) == 21
        return numbers

    for (task, labels, agent), one in found.items():
        own = values(task, "all" if labels is None else str(labels), agent)
        assert one.mean.mean == pytest.approx(np.mean(own))
        assert one.mean.low < one.mean.mean < one.mean.high
        assert (one.seeds, one.labelled) == (3, 32 if labels is None else 8)
        for gap in one.differences:
            base = values(task, "all" if labels is None else str(labels), gap.baseline)
            assert gap.interval.mean == pytest.approx(np.mean(own) - np.mean(base))


def test_agents_are_compared_with_scratch_and_random_and_corrected_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    transfer = plan(tmp_path, ("random", "a3c", "ppo"))
    base = np.round(rng.uniform(0.3, 0.6, (2, 25)), 3)
    values = {"scratch": base, "random": base + 0.01 * rng.normal(size=(2, 25)).round(2)}
    values |= {"a3c": values["random"] + 0.1, "ppo": values["random"]}
    finish_all(transfer, values)
    scratch, random, a3c, ppo = summarise_transfer(transfer, 200)
    compared = [[gap.baseline for gap in one.differences] for one in (scratch, random, a3c, ppo)]
    assert compared == [[], ["scratch"], ["scratch", "random"], ["scratch", "random"]]
    assert isnan(ppo.differences[1].p)  # it does as random does
    pairs = [("random", "scratch"), ("a3c", "scratch"), ("a3c", "random"), ("ppo", "scratch")]
    raw = [wilcoxon((values[one] - values[other]).mean(0)) for one, other in pairs]
    told = [random.differences[0].p, a3c.differences[0].p, a3c.differences[1].p, ppo.differences[0].p]
    assert told == pytest.approx(holm(raw), rel=1e-6)
    gap = a3c.differences[1].interval
    assert (gap.low, gap.mean, gap.high) == pytest.approx((0.1, 0.1, 0.1))  # pairs stay pairs


def test_agents_in_part_and_further_measures(tmp_path: Path) -> None:
    transfer = plan(tmp_path, ("a3c", "ppo"))
    cells = {(cell.agent, cell.seed): cell for cell in transfer.cells}
    finish(cells["a3c", 0], [0.4, 0.6], dice=0.5, hd95=10.0, auroc=None, confusion=[[1]])
    finish(cells["a3c", 1], [0.8, 0.8], dice=0.8, hd95=20.0, auroc=0.5)
    finish(cells["scratch", 1], [0.5, 0.5], dice=0.5, hd95=5.0, auroc=0.5)
    scratch, a3c = summarise_transfer(transfer, 100)
    assert (a3c.agent, a3c.seeds, a3c.mean.mean) == ("a3c", 2, pytest.approx(0.65))
    assert dict(a3c.others) == {"dice": pytest.approx(0.65), "hd95": 15.0}  # AUROC was not defined for one
    assert [(gap.baseline, gap.seeds, gap.interval.mean) for gap in a3c.differences] == [
        ("scratch", 1, pytest.approx(0.3))
    ]
    assert scratch.others["auroc"] == 0.5
    assert summarise_transfer(plan(tmp_path / "empty"), 100) == []


@pytest.mark.parametrize("agent", ["random", "a3c"])
def test_a_cell_that_was_tested_on_other_images_is_refused(agent: str, tmp_path: Path) -> None:
    transfer = plan(tmp_path)
    for cell in transfer.cells:
        odd = (cell.agent, cell.seed) == (agent, 1)
        finish(cell, [0.1, 0.2, 0.3], ["one", "two", "four" if odd else "three"])
    with pytest.raises(RunError, match=rf"segmentation-8-{agent}-1: was tested on other images .* delete it"):
        summarise_transfer(transfer, 100)


def test_an_agent_all_of_whose_cells_have_other_images_is_refused(tmp_path: Path) -> None:
    transfer = plan(tmp_path)
    for cell in transfer.cells:
        finish(cell, [0.1, 0.2], ["one", "two"] if cell.agent != "a3c" else ["two", "one"])
    with pytest.raises(RunError, match="other images than its siblings"):
        summarise_transfer(transfer, 100)


def test_the_table_of_all_cells(tmp_path: Path) -> None:
    transfer = plan(tmp_path, ("a3c",), 1, tasks=("segmentation", "classification"), counts=(8, None))
    assert write_transfer_csv(transfer) is None
    assert not (tmp_path / "transfer.csv").exists()
    cells = {(cell.task, cell.labels, cell.agent): cell for cell in transfer.cells}
    finish(cells["segmentation", 8, "a3c"], [0.25, 0.5], dice=0.375, iou=0.25, hd95=3.5)
    finish(cells["classification", None, "scratch"], [1, 0, 1], accuracy=2 / 3, auroc=None)
    path = write_transfer_csv(transfer)
    assert path == tmp_path / "transfer.csv"
    with path.open(newline="") as file:
        one, two = csv.DictReader(file)
    assert list(one) == ["task", "labels", "agent", "seed", "measure", "value", *COLUMNS]
    assert {key: value for key, value in one.items() if value} == {
        **{"task": "segmentation", "labels": "8", "agent": "a3c", "seed": "0"},
        **{"measure": "dice", "value": "0.375", "dice": "0.375", "iou": "0.25", "hd95": "3.5"},
    }
    assert {key: value for key, value in two.items() if value} == {
        **{"task": "classification", "labels": "all", "agent": "scratch", "seed": "0"},
        **{"measure": "accuracy", "value": "0.666667", "accuracy": "0.666667"},
    }
