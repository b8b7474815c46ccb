"""Results of an experiment: from rows to scores, to a file and back."""

from pathlib import Path

import numpy as np
import pytest

from ahm_env import RunError
from downstream.comparison.results.rows import Group, Row, grouped, read_results, write_results


def row(metric: str, value: float, image: str = "", patient: str = "", agent: str = "a3c", draw: int = 0) -> Row:
    return Row(agent, 0, draw, "segmentation", "25", "none", image, patient, metric, value)


def group(*rows: Row) -> Group:
    (found,) = grouped(rows)
    return found


def test_images_of_a_patient_are_one_unit():
    found = group(row("dice", 0.2, "a", "7"), row("dice", 0.4, "b", "7"), row("dice", 0.9, "c", "1")).scores(
        "a3c", "none", "dice"
    )
    assert found.trials == ((0, 0),)
    assert found.patients == (("a", "b"), ("c",))
    assert found.sums.tolist() == [[pytest.approx(0.6), 0.9]]
    assert found.counts.tolist() == [[2, 1]]
    assert found.mean.mean == pytest.approx(0.5)  # of images


def test_what_is_told_of_patients_is_a_mean_over_patients():
    rows = [row("patient_dice", 0.4, "", "7"), row("patient_dice", 0.8, "", "1"), row("dice", 0.1, "a", "7")]
    found = group(*rows).scores("a3c", "none", "patient_dice")
    assert found.patients == (("1",), ("7",))
    assert found.mean.mean == pytest.approx(0.6)


def test_what_is_told_of_the_trial_alone_varies_over_runs_and_draws():
    found = group(row("auroc", 0.7), row("auroc", 0.9, draw=1)).scores("a3c", "none", "auroc")
    assert (found.trials, found.patients) == (((0, 0), (0, 1)), (("",),))
    assert found.mean.mean == pytest.approx(0.8)
    assert found.mean.low < 0 < found.mean.high  # two draws prove little


def test_a_ratio_of_two_metrics_is_one_of_sums():
    rows = [row("loss", 2, "a", "1"), row("random_loss", 1, "a", "1"), row("loss", 4, "b", "2")]
    found = group(*rows, row("random_loss", 5, "b", "2")).scores("a3c", "none", "loss", per="random_loss")
    assert found.mean.mean == 6 / 6
    assert np.array_equal(found.counts, [[1, 5]])


def test_a_trial_that_was_tested_on_other_images_is_refused():
    rows = [row("dice", 0.2, "a", "1"), row("dice", 0.4, "b", "1", draw=1)]
    with pytest.raises(RunError, match=r"a3c, run 0, draw 1: was tested on other images .* delete that trial"):
        group(*rows).scores("a3c", "none", "dice")
    with pytest.raises(RunError, match=r"a3c, segmentation: results\.csv lacks iou; `ahm compare-agents` writes it ag"):
        group(*rows).scores("a3c", "none", "iou")


def test_a_trial_that_lacks_what_is_compared_is_not_left_out_of_the_mean():
    rows = [row("dice", 0.2, "a", "1"), row("hd95", 3), row("hd95", 9, draw=1)]
    with pytest.raises(RunError, match=r"a3c, run 0, draw 1: results\.csv lacks dice; `ahm compare-agents` writes it"):
        group(*rows).scores("a3c", "none", "dice")


@pytest.mark.parametrize("kept", [[], [("a", "1")], [("a", "1"), ("b", "2")]], ids=["none", "one image", "one patient"])
def test_a_ratio_needs_both_metrics_of_every_image(kept: list[tuple[str, str]]):
    images = [("a", "1"), ("c", "1"), ("b", "2")]
    rows = [row("loss", 2, *one, draw=draw) for draw in (0, 1) for one in images]
    rows += [row("random_loss", 1, *one) for one in images] + [row("random_loss", 1, *one, draw=1) for one in kept]
    told = r"a3c, run 0, draw 1: results\.csv lacks random_loss of an image that has loss; `ahm compare-agents` writes"
    with pytest.raises(RunError, match=told):
        group(*rows).scores("a3c", "none", "loss", per="random_loss")


def test_rows_may_come_in_any_order():
    rows = [row(name, 2, image, "1") for name, images in (("loss", "ab"), ("random_loss", "ba")) for image in images]
    assert group(*rows).scores("a3c", "none", "loss", per="random_loss").mean.mean == 1


def test_the_mean_of_trials_and_where_one_lacks_it():
    found = group(row("hd95", 3), row("hd95", 5, draw=1), row("auroc", 0.5), row("dice", 1, "a", "1"))
    assert found.mean("a3c", "none", "hd95") == 4
    assert np.isnan(found.mean("a3c", "none", "auroc"))  # not defined for one
    assert np.isnan(found.mean("scratch", "none", "hd95"))


def test_groups_and_arms_come_in_order():
    rows = [
        Row("scratch", None, 0, "segmentation", "all", "none", "", "", "dice", 1),
        Row("a3c", 0, None, "masking", "", "", "", "", "loss", 1),
        Row("a3c", 0, 0, "segmentation", "all", "auto", "", "", "dice", 1),
    ]
    groups = grouped(rows)
    assert [(one.task, one.labels) for one in groups] == [("segmentation", "all"), ("masking", "")]
    assert groups[0].arms == [("scratch", "none"), ("a3c", "auto")]


def test_a_file_gives_back_what_was_written(tmp_path: Path):
    path = tmp_path / "results.csv"
    write_results(path, [])
    assert not path.exists()
    rows = [
        Row("a3c+skip_connections=true", 1, None, "masking", "", "", 'ä, "b"', "4", "loss", 0.25),
        Row("scratch", None, 3, "segmentation", "all", "auto+mix=none", "", "", "dice", 0.5),
    ]
    write_results(path, rows)
    assert path.read_text().splitlines()[0] == "agent,run,draw,task,labels,arm,image,patient,metric,value"
    assert read_results(path) == rows


@pytest.mark.parametrize(
    "text",
    ["", "agent,run\na3c,1\n", ",".join(Row._fields) + "\na3c,x,,masking,,,,,loss,1\n", "\0"],
    ids=["empty", "other columns", "no number", "binary"],
)
def test_a_damaged_file_is_refused(text: str, tmp_path: Path):
    path = tmp_path / "results.csv"
    path.write_text(text)
    with pytest.raises(RunError, match=r"results\.csv: missing or damaged"):
        read_results(path)
    with pytest.raises(RunError, match="missing or damaged"):
        read_results(tmp_path / "other.csv")
