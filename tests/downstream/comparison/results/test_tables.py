"""What people read of an experiment, from its results alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ahm_env import RunError
from downstream.comparison.results.rows import Group, Row, grouped
from downstream.comparison.results.tables import (
    NOTES,
    compared,
    finetuning_table,
    sam_dice,
    tables_of,
    trends_of,
)
from downstream.reports.charts import COLOURS

IMAGES = 6


def fine_tuned(
    agent: str, value: float, arm: str = "none", labels: str = "25", task: str = "segmentation", draws: int = 2
) -> Iterator[Row]:
    """The rows of trials with about this value."""
    metric = "dice" if task == "segmentation" else "accuracy"
    count = 1599 if labels == "all" else int(labels)
    for draw in range(draws):
        about = (agent, None if agent == "scratch" else draw, draw, task, labels, arm)
        for image in range(IMAGES):
            yield Row(*about, f"i{image}", f"{image}", metric, value + 0.01 * image + 0.02 * draw)
        nothing = "nothing_dice" if task == "segmentation" else "majority_accuracy"
        for name, number in ((metric, value), (nothing, 0.125), ("hd95", 12.3456), ("labels", count)):
            yield Row(*about, "", "", name, number)


def uneven(rows: Iterator[Row]) -> Iterator[Row]:
    """The same rows, but differences are not the same in all patients."""
    return (row._replace(value=row.value * (1 + 0.001 * int(row.patient or 0))) for row in rows)


def group(*parts: Iterator[Row]) -> Group:
    (found,) = grouped(row for part in parts for row in part)
    return found


MEAN = 0.01 * np.mean(range(IMAGES)) + 0.01  # above the value given, over images and draws


# Fine-tuning


def test_a_table_for_each_task_and_number_of_labels():
    rows = [
        *fine_tuned("scratch", 0.5),
        *fine_tuned("scratch", 0.6, labels="all"),
        *fine_tuned("scratch", 0.5, task="classification"),
    ]
    tables = tables_of(rows, "scans")
    assert [table.title for table in tables] == [
        "Segmentation of scans with 25 labels",
        "Segmentation of scans with all labels",
        "Classification of scans with 25 labels",
    ]
    assert [table.notes for table in tables] == [(), (), NOTES]
    assert tables[0].headings == ("pretraining", "runs", "draws", "Dice (95 %)", "HD95, pixels")
    first, nothing = tables[0].rows
    assert (*first[:3], first[4]) == ("scratch", "–", "2", "12.346")
    assert first[3].startswith(f"{0.5 + MEAN:.3f} (")
    assert nothing == ("predicting nothing", "–", "–", "0.125", "–")
    assert tables[2].rows[-1][:4] == ("the most frequent class", "–", "–", "0.125")
    assert tables_of([], "scans") == []


def test_arms_are_compared_with_plain_fine_tuning_with_scratch_and_with_random_and_corrected_together():
    dice = {"scratch": 0.5, "random": 0.52, "a3c": 0.54}
    found = group(
        *(uneven(fine_tuned(agent, value)) for agent, value in dice.items()),
        *(uneven(fine_tuned(agent, value + 0.1, "auto")) for agent, value in dice.items()),
    )
    table = finetuning_table(found, "dice", "scans")
    assert table.headings[:5] == ("pretraining", "unlabelled", "runs", "draws", "Dice (95 %)")
    bases = table.headings[5:-1:2]
    assert set(bases) == {"against scratch (95 %)", "against random (95 %)", "against unlabelled none (95 %)"}
    assert set(table.headings[6:-1:2]) == {"p, scratch", "p, random", "p, unlabelled none"}
    rows = {row[:2]: dict(zip(table.headings[5:-1:2], row[5:-1:2], strict=True)) for row in table.rows}
    told = {
        key: {heading.split(" (")[0]: float(cell.split()[0]) for heading, cell in cells.items() if cell != "–"}
        for key, cells in rows.items()
    }
    assert told[("scratch", "none")] == {}
    assert told[("random", "none")] == {"against scratch": 0.02}
    assert told[("a3c", "none")] == {"against scratch": 0.04, "against random": 0.02}
    assert told[("scratch", "auto")] == {"against unlabelled none": 0.1}
    assert told[("a3c", "auto")] == {
        "against scratch": 0.04,
        "against random": 0.02,
        "against unlabelled none": 0.1,
    }
    assert told[("predicting nothing", "–")] == {}
    assert {row[6] for row in table.rows} == {"–", "<0.001"}
    assert all(len(row) == len(table.headings) for row in table.rows)


def test_where_patients_have_several_images_their_dice_is_what_is_compared():
    rows = [
        *fine_tuned("scratch", 0.5),
        *(
            Row("scratch", None, draw, "segmentation", "25", "none", "", patient, "patient_dice", value)
            for draw in range(2)
            for patient, value in (("0", 0.3), ("1", 0.5))
        ),
        *(
            Row("scratch", None, draw, "segmentation", "25", "none", "", "", name, value)
            for draw in range(2)
            for name, value in (("patient_dice", 0.4), ("nothing_patient_dice", 0.0), ("marked_dice", 0.3))
        ),
    ]
    found = group(iter(rows))
    assert compared(found) == ["patient_dice"]
    (table,) = tables_of(rows, "scans")
    assert table.headings == (
        "pretraining",
        "runs",
        "draws",
        "Dice of a patient (95 %)",
        "Dice",
        "Dice where something is marked",
        "HD95, pixels",
    )
    assert table.rows[0] == ("scratch", "–", "2", "0.400 (-0.871 to 1.671)", "0.500", "0.300", "12.346")
    assert table.rows[1] == ("predicting nothing", "–", "–", "0.000", "–", "–", "–")


def test_auroc_has_a_table_of_its_own():
    rows = [row for agent in ("scratch", "a3c") for row in fine_tuned(agent, 0.5, task="classification", draws=3)]
    rows += [
        Row(agent, None if agent == "scratch" else draw, draw, "classification", "25", "none", "", "", "auroc", value)
        for agent, base in (("scratch", 0.6), ("a3c", 0.7))
        for draw, value in enumerate((base, base + 0.02, base + 0.04))
    ]
    accuracy, auroc = tables_of(rows, "scans")
    assert auroc.title == "Classification of scans with 25 labels: AUROC"
    assert auroc.headings == ("pretraining", "runs", "draws", "AUROC (95 %)", "against scratch (95 %)", "p, scratch")
    assert auroc.rows[1][1:4] == ("3", "3", "0.720 (0.670 to 0.770)")  # Student's of three draws
    assert auroc.rows[1][4:] == ("+0.100", "–")  # the same in all: it says nothing of how much it varies
    assert accuracy.title == "Classification of scans with 25 labels"


def test_segment_anything_has_a_row_where_it_was_tried(tmp_path: Path):
    where = tmp_path / "sam-points"
    found = group(fine_tuned("scratch", 0.5), fine_tuned("random", 0.5))
    assert sam_dice(where) is None
    assert len(finetuning_table(found, "dice", "scans", [where]).rows) == 3
    where.mkdir()
    (where / "scores.csv").write_text("image,split,dice,iou\na,test,0.5,0.3\nb,test,1,1\nc,test,0.9,0.8\n")
    dice = sam_dice(where)
    assert dice is not None
    assert dice.mean == pytest.approx(0.8)
    assert dice.low < 0.8 < dice.high
    row = finetuning_table(found, "dice", "scans", [where]).rows[-1]
    assert row[:2] == ("SAM, points, no labels", "–")
    assert row[3].startswith("0.800 (")
    assert set(row[4:]) == {"–"}
    patients = [Row(*one[:6], "", "1", "patient_dice", 0.3) for one in found.rows if one.image]
    volumes = group(iter((*found.rows, *patients)))
    table = finetuning_table(volumes, "patient_dice", "scans", [where])
    told = dict(zip(table.headings, table.rows[-1], strict=True))
    assert (told["Dice of a patient (95 %)"], told["Dice"]) == ("–", "0.800")  # its scores are of images
    classified = group(fine_tuned("scratch", 0.5, task="classification"))
    assert len(finetuning_table(classified, "accuracy", "scans", [where]).rows) == 2
    (where / "scores.csv").write_text("image,split,dice\n")
    assert sam_dice(where) is None
    (where / "scores.csv").write_text("image,split,dice\na,test,good\n")
    with pytest.raises(RunError, match=r"scores\.csv: damaged"):
        sam_dice(where)


def test_trends_rise_with_the_number_of_labels():
    rows = [
        *(*fine_tuned("scratch", 0.7, labels="all"), *fine_tuned("a3c", 0.8, labels="all")),
        *(*fine_tuned("scratch", 0.5), *fine_tuned("a3c", 0.6), *fine_tuned("a3c", 0.65, labels="1000")),
        *fine_tuned("scratch", 0.4, task="classification"),
    ]
    dice, accuracy = trends_of(rows)
    assert (dice.measure, accuracy.measure) == ("Dice", "Accuracy")
    assert list(dice.counts.items()) == [(25, "25"), (1000, "1,000"), (1599, "all (1,599)")]
    means = {
        agent: {count: round(one.mean - MEAN, 3) for count, one in line.items()} for agent, line in dice.agents.items()
    }
    assert means == {"scratch": {25: 0.5, 1599: 0.7}, "a3c": {25: 0.6, 1000: 0.65, 1599: 0.8}}
    assert dict(accuracy.counts) == {25: "25"}
    assert trends_of([]) == []
    (named,) = trends_of([*fine_tuned("scratch", 0.5), *fine_tuned("scratch", 0.6, "auto")], "scans")
    assert named.measure == "Dice, scans"
    assert list(named.agents) == ["scratch, none", "scratch, auto"]
    assert named.styles == {"scratch": 0, "scratch, none": 0, "scratch, auto": COLOURS}  # one colour, dashed
    arms = ("none", "auto", "auto+steps=2", "auto+steps=3")
    rows = [row for agent in ("scratch", "a3c") for arm in arms for row in fine_tuned(agent, 0.5, arm)]
    (many,) = trends_of(rows)
    lines = [style for name, style in many.styles.items() if name in many.agents]
    assert len(set(lines)) == len(lines) == 8
    assert all(0 <= style < 3 * COLOURS for style in lines)


def test_a_trend_whose_number_of_labels_is_not_told_is_refused():
    rows = [row for row in fine_tuned("scratch", 0.5) if row.metric != "labels"]
    with pytest.raises(RunError, match=r"segmentation with 25 labels: results\.csv lacks labels; `ahm compare-agents`"):
        trends_of(rows)


# Whether arms can be compared


def test_arms_with_other_draws_are_told():
    rows = [*fine_tuned("scratch", 0.5, draws=3), *fine_tuned("a3c", 0.5, draws=2)]
    (table,) = tables_of(rows, "scans")
    assert table.notes[0].startswith("NOT BALANCED")
    assert table.notes[0].endswith("Draws of scratch, none: 0, 1, 2; a3c, none: 0, 1.")
    few, many = tables_of([*rows, *(row._replace(labels="all") for row in rows)], "scans")
    assert (few.notes, many.notes) == (table.notes[:1], table.notes)  # a warning stays with its table
    crossed = [row._replace(run=run) for run in range(3) for row in fine_tuned("a3c", 0.5, draws=2)]
    (table,) = tables_of([*fine_tuned("scratch", 0.5, draws=2), *crossed], "scans")
    assert table.notes == NOTES


def test_the_arm_without_unlabelled_images_is_what_others_are_compared_with_wherever_it_stands():
    rows = [*fine_tuned("scratch", 0.6, "auto"), *fine_tuned("scratch", 0.5)]
    (table,) = tables_of(rows, "scans")
    told = dict(zip(table.headings, table.rows[0], strict=True))
    assert told["against unlabelled none (95 %)"].startswith("+0.100")


def test_an_arm_in_which_unlabelled_images_took_no_part_says_so():
    def unlabelled(arm: str, *counts: int) -> list[Row]:
        return [
            Row("scratch", None, draw, "segmentation", "25", arm, "", "", "unlabelled", count)
            for draw, count in enumerate(counts)
        ]

    rows = [*fine_tuned("scratch", 0.5), *unlabelled("none", 0, 0)]
    for arm, counts in (("auto", (1574, 0)), ("auto+steps=2", (1574, 1574))):
        rows += [*fine_tuned("scratch", 0.5, arm), *unlabelled(arm, *counts)]
    (table,) = tables_of(rows, "scans")
    assert [row[1] for row in table.rows[:3]] == ["none", "auto (took part in 1 of 2)", "auto+steps=2"]
