"""Trials: what they do once, what they came to, and what is said of damaged ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ahm_env import RunError
from downstream.comparison.experiment import Experiment
from downstream.comparison.options import Downstream
from downstream.comparison.pools.pool import images_shown, run_logged
from downstream.comparison.results.rows import Row
from downstream.comparison.trials import FinetuneTrial, PretrainTrial, Trial

COMMON = {"data": "phantom:40:0", "image_size": 16, "patch_size": 4, "width": 2, "total_images": 24, "device": "cpu"}


def make(out: Path, tasks: str = "segmentation", steps: int = 2, **changes: Any) -> Experiment:
    settings = f"steps={steps},batch_size=2,augment=none"
    return Experiment(
        out, ("scratch", "random"), 1, COMMON, Downstream(tasks, "8", **{"settings": settings, **changes})
    )


def values(rows: list[Row], metric: str) -> dict[tuple[str, str], float]:
    return {(row.image, row.patient): row.value for row in rows if row.metric == metric}


def run(trial: Trial) -> int:
    with pytest.raises(SystemExit) as ended:
        run_logged(trial, 1)
    return int(ended.value.code or 0)


# Fine-tuning


def test_the_rows_of_a_trial_are_of_images_patients_and_the_whole(tmp_path: Path) -> None:
    segmented, _, classified, _ = make(tmp_path, "segmentation,classification").finetuning
    assert not segmented.done
    assert list(segmented.rows()) == []
    for trial, table in (
        (segmented, "image,patient,dice,iou\nb,7,0.25,0.1\na,8,1,1\nc,8,0,0\n"),
        (classified, "image,patient,label,prediction,p x\nb,7,x,y,0.1\na,8,x,x,0.9\n"),
    ):
        trial.path.mkdir(parents=True)
        (trial.path / "test.csv").write_text(table)
    (segmented.path / "patients.csv").write_text("patient,images,first_image,dice\n7,1,b,0.25\n8,2,a,0.75\n")
    about = {"task": "segmentation", "split": "val", "images": 3, "labels": 8, "patient_dice": 0.5, "hd95": 2.5}
    (segmented.path / "test.json").write_text(json.dumps({**about, "dice": 1.25 / 3}))
    (classified.path / "test.json").write_text(
        json.dumps({"labels": 8, "accuracy": 0.5, "auroc": None, "confusion": []})
    )
    rows = list(segmented.rows())
    assert {row[:6] for row in rows} == {("scratch", None, 0, "segmentation", "8", "none")}
    assert values(rows, "dice") == {("b", "7"): 0.25, ("a", "8"): 1, ("c", "8"): 0, ("", ""): 1.25 / 3}
    assert values(rows, "patient_dice") == {("", "7"): 0.25, ("", "8"): 0.75, ("", ""): 0.5}
    assert values(rows, "hd95") == {("", ""): 2.5}
    assert values(rows, "labels") == {("", ""): 8}
    assert {row.metric for row in rows} == {"dice", "patient_dice", "hd95", "labels"}
    rows = list(classified.rows())
    assert values(rows, "accuracy") == {("b", "7"): 0, ("a", "8"): 1, ("", ""): 0.5}
    assert {row.metric for row in rows} == {"accuracy", "labels"}
    assert (segmented.outcome, classified.outcome) == ("dice 0.417", "accuracy 0.500")
    assert segmented.name == "segmentation-8/none/scratch-draw0"


@pytest.mark.parametrize(
    "table",
    [
        None,
        "",
        "image,dice\n",
        "image,patient,iou\na,1,1\n",
        "image,patient,dice\na,1,good\n",
        "patient,dice\n1,1\n",
        "image,patient,dice\na,1\n",
    ],
)
def test_a_damaged_table_of_a_trial_is_told_with_what_to_do(table: str | None, tmp_path: Path) -> None:
    trial = make(tmp_path).finetuning[0]
    trial.path.mkdir(parents=True)
    (trial.path / "test.json").write_text('{"labels": 8}')
    if table is not None:
        (trial.path / "test.csv").write_text(table)
    with pytest.raises(RunError, match=r"test\.csv: missing or damaged .*; delete .* and run again") as caught:
        list(trial.rows())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["{", "", "3"])
def test_a_damaged_result_is_told_and_not_taken_for_none(damage: str, tmp_path: Path) -> None:
    trial = make(tmp_path).finetuning[0]
    trial.path.mkdir(parents=True)
    (trial.path / "test.json").write_text(damage)
    with pytest.raises(RunError, match=r"test\.json: missing or damaged .*; delete .* and run again"):
        list(trial.rows())


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_trial_runs_once_and_tests_again_if_asked_to(tmp_path: Path) -> None:
    trial = make(tmp_path / "out").finetuning[0]
    assert run(trial) == 0
    rows = list(trial.rows())
    dice = values(rows, "dice")
    mean = dice.pop(("", ""))
    assert mean == pytest.approx(np.mean(list(dice.values())), abs=1e-5)
    assert values(rows, "labels") == {("", ""): 8}
    assert values(rows, "nothing_dice")
    assert images_shown(trial.path) == trial.total == 4
    log = trial.path.with_name(f"{trial.path.name}.log")
    assert log.read_text() == ""
    names = [path for path in trial.path.iterdir() if path.suffix in (".json", ".safetensors")]
    stamps = {path: path.stat().st_mtime_ns for path in [trial.path / "test.csv", *names]}
    assert run(trial) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    (trial.path / "test.json").unlink()
    (trial.path / "test.csv").unlink()
    assert run(trial) == 0
    assert list(trial.rows()) == rows


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_pretrained_trial_starts_from_its_run(tmp_path: Path, pretrained: Path) -> None:
    scratch, trial = make(tmp_path / "out", steps=1).finetuning
    assert not trial.ready  # its run is not there
    assert run(scratch) == 0
    assert run(replace(trial, start=str(pretrained))) == 0
    losses = [(one.path / "metrics.csv").read_text().splitlines()[1].split(",")[3] for one in (scratch, trial)]
    assert losses[0] != losses[1]
    assert trial.done


@pytest.mark.usefixtures("own_cache")
def test_a_trial_that_fails_says_so_in_its_log_and_status(tmp_path: Path) -> None:
    trial = make(tmp_path / "out").finetuning[1]
    assert isinstance(trial, FinetuneTrial)
    assert run(trial) == 2
    assert not trial.done
    last = trial.path.with_name(f"{trial.path.name}.log").read_text().splitlines()[-1]
    assert last.startswith(f"error: {trial.start}: no such run")


# Pretraining

EVALUATION = {
    **{"images": 100.0, "unet_updates": 10.0, "seconds": 2.0, "unet_loss": 0.1, "agent_share": 1.0},
    **{"own_hardness_sampled": 1.25, "own_hardness_likeliest": 1.75},
    **{"lesion_hidden": float("nan"), "background_hidden": float("nan"), "shown": ["b", "a"], "patients": [4, 5]},
}
LOSSES = {
    **{"loss_sampled": [2.0, 4.0], "random_loss_sampled": [1.0, 3.0]},
    **{"loss_likeliest": [5.0, 7.0], "random_loss_likeliest": [2.0, 4.0]},
}
TWICE = {kind: [2 * value for value in values] for kind, values in LOSSES.items()}


def evaluated(path: Path, **changes: Any) -> PretrainTrial:
    """A run whose masks were evaluated on two U-Nets; changes are of what is told of the first."""
    trial = make(path).pretraining[0]
    trial.path.mkdir(parents=True)
    found = {**EVALUATION, "references": [{**LOSSES, **changes}, {**TWICE, "random_loss_likeliest": [1.0, 1.0]}]}
    (trial.path / "mask_evaluation.json").write_text(json.dumps(found))
    return trial


def test_the_rows_of_an_agent_are_losses_of_images_and_what_is_told_of_the_run(tmp_path: Path) -> None:
    trial = evaluated(tmp_path)
    rows = list(trial.rows())
    assert {row[:6] for row in rows if not row.image} == {("random", 0, None, "masking", "", "")}
    first, second = ([row for row in rows if row.draw == number] for number in (0, 1))
    assert values(first, "loss_sampled") == {("b", "4"): 2, ("a", "5"): 4}
    assert values(first, "random_loss_sampled") == {("b", "4"): 1, ("a", "5"): 3}
    assert values(first, "loss_likeliest") == {("b", "4"): 5, ("a", "5"): 7}
    assert values(first, "random_loss_likeliest") == {("b", "4"): 2, ("a", "5"): 4}
    assert values(second, "loss_likeliest") == {("b", "4"): 10, ("a", "5"): 14}
    assert values(rows, "hardness_sampled") == {("", ""): 1.5}
    assert values(rows, "hardness_likeliest") == {("", ""): 36 / 8}
    assert values(rows, "own_hardness_likeliest") == {("", ""): 1.75}
    assert values(rows, "images_per_second") == {("", ""): 50}
    assert not values(rows, "lesion_hidden")  # there are no masks
    assert (trial.done, trial.outcome, trial.name) == (True, "hardness 1.500 sampled, 4.500 likeliest", "random-0")


def test_masks_that_were_evaluated_with_other_pixels_ignored_are_evaluated_again(tmp_path: Path) -> None:
    trial = evaluated(tmp_path)
    assert trial.done
    assert not replace(trial, ignore=255).done
    (trial.path / "mask_evaluation.json").write_text(json.dumps({**trial.evaluation, "ignored": [255]}))
    assert not trial.done
    assert replace(trial, ignore=255).done


def test_the_share_of_the_lesion_is_told_only_where_the_pixels_to_be_ignored_are_the_experiment_s(
    tmp_path: Path,
) -> None:
    trial = evaluated(tmp_path)
    shares = {"lesion_hidden": 0.6, "background_hidden": 0.4}
    (trial.path / "mask_evaluation.json").write_text(json.dumps({**trial.evaluation, **shares}))
    for ignore, told in ((None, shares), (2, {})):
        rows = list(replace(trial, ignore=ignore).rows())
        assert {row.metric: row.value for row in rows if row.metric in shares} == told
        assert values(rows, "hardness_sampled")  # is of all pixels


def test_a_verdict_that_is_damaged_is_judged_again_or_told(tmp_path: Path) -> None:
    trial = make(tmp_path).pretraining[0]
    assert (trial.evaluation, trial.done, list(trial.rows())) == (None, False, [])
    trial.path.mkdir(parents=True)
    for text in ('{"loss', "null", "3", "{}", '{"references": 3}'):
        (trial.path / "mask_evaluation.json").write_text(text)
        assert (trial.evaluation, trial.done) == (None, False)
    damaged = (
        ("few", {"loss_sampled": [1.0]}),
        ("word", {"loss_likeliest": ["much", 1.0]}),
        ("none", {"loss_sampled": None}),
    )
    for name, changes in damaged:
        with pytest.raises(RunError, match=r"mask_evaluation\.json: damaged .*; delete it"):
            list(evaluated(tmp_path / name, **changes).rows())


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_masks_are_evaluated_on_every_reference_u_net_and_later_ones_are_added(tmp_path: Path) -> None:
    one, two = (Experiment(tmp_path, ("random",), 1, COMMON, reference_unets=count) for count in (1, 2))
    for trial in two.references:
        assert not trial.done
        assert run(trial) == 0
        assert (trial.done, trial.outcome, list(trial.rows())) == (True, "", [])
    losses = [trial.unet.read_bytes() for trial in two.references]
    assert losses[0] != losses[1]  # each has a seed of its own
    before, after = one.pretraining[0], two.pretraining[0]
    assert run(before) == 0
    first = [row for row in before.rows() if row.image]
    assert (before.done, after.done, {row.draw for row in first}) == (True, False, {0})
    stamp = before.unet.stat().st_mtime_ns
    assert run(after) == 0
    assert (before.done, after.done, before.unet.stat().st_mtime_ns) == (True, True, stamp)  # nothing is trained again
    told = {row.metric: row.value for row in after.rows() if not row.image}
    assert 0.9 < told["patch_use_likeliest"] <= 1
    assert 0.3 < told["between_images_likeliest"] < 0.7  # masks are random
    rows = [row for row in after.rows() if row.image]
    assert [row for row in rows if row.draw == 0] == first
    assert [row._replace(draw=0, value=0) for row in rows if row.draw == 1] == [row._replace(value=0) for row in first]
    assert values(rows[: len(first)], "loss_sampled") != values(rows[len(first) :], "loss_sampled")


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_an_experiment_that_has_moved_goes_on_with_what_it_has_begun(tmp_path: Path) -> None:
    """So does one that is called from another directory."""
    here, there = (replace(make(tmp_path / name), reference_unets=1) for name in ("here", "moved/there"))
    for trial in (*here.references, *here.pretraining, here.finetuning[1]):
        assert run(trial) == 0
    before = list(here.finetuning[1].rows())
    (tmp_path / "moved").mkdir()
    here.out.rename(there.out)
    (pretraining,), (_, finetuning) = there.pretraining, there.finetuning
    for trial, result in ((pretraining, "mask_evaluation.json"), (finetuning, "test.json")):
        (trial.path / result).unlink()
        assert not trial.done
        assert run(trial) == 0
        assert trial.done
    assert list(finetuning.rows()) == before


def test_a_u_net_that_is_half_trained_is_no_reference(tmp_path: Path) -> None:
    trial = make(tmp_path).references[0]
    trial.path.mkdir(parents=True)
    trial.unet.touch()  # there after the first row of metrics.csv
    assert not trial.done
