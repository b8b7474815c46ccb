"""What people read of a comparison."""

from math import nan
from pathlib import Path
from typing import Any

import pytest

from downstream.comparison import Plan
from downstream.comparison_tables import NOTES, hardness_table, sam_dice, transfer_tables, transfer_trends
from downstream.summaries import Interval
from downstream.transfer import Transfer
from downstream.transfer_summaries import Difference, TransferSummary

OTHERS = {"dice": 0.5, "iou": 0.4, "hd95": 12.3456, "sensitivity": 0.9, "specificity": 0.95}


def transfer(out: Path, **changes: Any) -> Transfer:
    given = {"tasks": ("segmentation", "classification"), "counts": (8, None), "settings": {}, **changes}
    return Transfer(Plan(out, ("random", "a3c"), 2, {"data": "/home/jane/clinic/scans"}), **given)


def summary(agent: str, mean: float = 0.5, labels: int | None = 8, **changes: Any) -> TransferSummary:
    given = {
        **{"agent": agent, "task": "segmentation", "labels": labels, "labelled": labels or 32, "seeds": 2},
        **{"mean": Interval(mean, mean - 0.1, mean + 0.1), "differences": (), "others": OTHERS},
    }
    return TransferSummary(**{**given, **changes})


def gap(baseline: str, p: float = 0.5, mean: float = -0.02) -> Difference:
    return Difference(baseline, Interval(mean, mean - 0.01, mean + 0.03), p, 2)


def test_a_table_for_each_task_and_number_of_labels(tmp_path: Path) -> None:
    classified = {"task": "classification", "others": {"accuracy": 0.5, "balanced_accuracy": 0.25}}
    some = [summary("scratch"), summary("scratch", labels=None), summary("scratch", **classified)]
    tables = transfer_tables(transfer(tmp_path), some)
    assert [table.title for table in tables] == [
        "Segmentation of scans with 8 labels",
        "Segmentation of scans with all labels",
        "Classification of scans with 8 labels",
    ]
    assert [table.notes for table in tables] == [(), (), NOTES]
    assert tables[0].headings == (
        *("pretraining", "seeds", "Dice (95 %)"),
        *("IoU", "HD95, pixels", "sensitivity", "specificity"),
    )
    assert tables[0].rows == (("scratch", "2", "0.500 (0.400 to 0.600)", "0.400", "12.346", "0.900", "0.950"),)
    assert tables[2].headings == ("pretraining", "seeds", "accuracy (95 %)", "balanced accuracy", "AUROC")
    assert tables[2].rows == (("scratch", "2", "0.500 (0.400 to 0.600)", "0.250", "–"),)
    assert transfer_tables(transfer(tmp_path), []) == []


def test_differences_stand_beside_their_p(tmp_path: Path) -> None:
    some = [
        summary("scratch"),
        summary("random", differences=(gap("scratch", 0.0004),)),
        summary("a3c", differences=(gap("scratch", 0.04), gap("random", nan))),
    ]
    table = transfer_tables(transfer(tmp_path), some)[0]
    assert table.headings[3:7] == ("against scratch (95 %)", "p", "against random (95 %)", "p")
    told = "-0.020 (-0.030 to +0.010)"
    assert [row[3:7] for row in table.rows] == [
        ("–", "–", "–", "–"),
        (told, "<0.001", "–", "–"),
        (told, "0.040", told, "–"),
    ]
    assert all(len(row) == len(table.headings) for row in table.rows)
    assert table.numeric == (False, *[True] * 10)


def test_segment_anything_has_a_row_where_it_was_tried(tmp_path: Path) -> None:
    asked = transfer(tmp_path, prompt="/home/jane/points.csv")
    some = [
        summary("scratch"),
        summary("random", differences=(gap("scratch"),)),
        summary("random", task="classification"),
    ]
    assert sam_dice(asked.zero_shot) is None
    assert [len(table.rows) for table in transfer_tables(asked, some)] == [2, 1]
    asked.zero_shot.mkdir(parents=True)
    (asked.zero_shot / "scores.csv").write_text("image,split,dice,iou\na,test,0.5,0.3\nb,test,1,1\nc,test,0.9,0.8\n")
    dice = sam_dice(asked.zero_shot)
    assert dice is not None
    assert dice.mean == pytest.approx(0.8)
    assert 0.5 <= dice.low < 0.8 < dice.high <= 1
    segmented, classified = transfer_tables(asked, some)
    assert segmented.rows[-1][:2] == ("SAM, points, no labels", "–")
    assert segmented.rows[-1][2].startswith("0.800 (0.5")
    assert set(segmented.rows[-1][3:]) == {"–"}
    assert len(segmented.rows[-1]) == len(segmented.headings)
    assert len(classified.rows) == 1
    assert transfer_tables(transfer(tmp_path), some)[0].rows == segmented.rows[:-1]  # another prompt was not tried
    (asked.zero_shot / "scores.csv").write_text("image,split,dice\n")
    assert sam_dice(asked.zero_shot) is None


def test_trends_rise_with_the_number_of_labels(tmp_path: Path) -> None:
    some = [
        *(summary("scratch", 0.7, None, labelled=1599), summary("a3c", 0.8, None, labelled=1599)),
        *(summary("scratch", 0.5), summary("a3c", 0.6), summary("a3c", 0.65, 1000)),
        summary("scratch", 0.4, task="classification"),
    ]
    dice, accuracy = transfer_trends(some)
    assert dice.measure == "Dice"
    assert list(dice.counts.items()) == [(8, "8"), (1000, "1,000"), (1599, "all (1,599)")]
    means = {agent: {count: one.mean for count, one in means.items()} for agent, means in dice.agents.items()}
    assert means == {"scratch": {8: 0.5, 1599: 0.7}, "a3c": {8: 0.6, 1000: 0.65, 1599: 0.8}}
    assert (accuracy.measure, dict(accuracy.counts)) == ("Accuracy", {8: "8"})
    assert transfer_trends([]) == []


def test_a_number_that_is_all_there_are_is_one_point(tmp_path: Path) -> None:
    (trend,) = transfer_trends([summary("a3c", 0.5, None, labelled=32), summary("a3c", 0.5, 32), summary("a3c", 0.4)])
    assert list(trend.counts.items()) == [(8, "8"), (32, "all (32)")]


def test_without_anything_done_there_is_no_table(tmp_path: Path) -> None:
    assert hardness_table(transfer(tmp_path).plan) == []
