"""The run of fine-tuning: who learns and who tests, that a kill changes nothing, and that numbers are what they say."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ahm_env import CheckpointError, ImageError, ImageSet, SettingsError, TrainingError, load_images
from ahm_env.errors import InterruptionError
from ahm_env.files import load_tensors, read_rows
from ahm_env.images.pixels.opencv import cv2
from ahm_env.runs import run as runs
from downstream.evaluation.metrics import score_mask
from downstream.finetuning import mean_teacher
from downstream.finetuning import run as finetuning
from downstream.finetuning.labelled import Split, choose_unlabelled, only_labelled
from downstream.finetuning.run import PATIENCE, FinetuneDirectory, Finetuning
from downstream.finetuning.settings import FinetuneSettings
from downstream.models.model import MODEL_FILE, Model
from downstream.models.pretrained import PretrainedWeights
from downstream.models.resizing import to_square

pytestmark = pytest.mark.usefixtures("own_cache")

TEACHER = ["unlabelled_loss", "confident"]
TINY = {"image_size": 16, "width": 2, "steps": 6, "batch_size": 4, "augment": "flips", "device": "cpu"}


class Observer:
    """Counts, and does something after a step."""

    def __init__(self, at: int = 0, predict: Callable[[], None] = lambda: None) -> None:
        self.at, self.predict = at, predict
        self.steps, self.rows, self.warnings = 0, list[dict[str, float]](), list[str]()

    def on_update(self, images: int, loss: float) -> None:
        self.steps += 1
        if self.steps == self.at:
            self.predict()

    def on_row(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


class Copying(Observer):
    """Copies a run's directory after some steps: what is there if it is killed then."""

    def __init__(self, path: Path, *steps: int) -> None:
        super().__init__()
        self.path, self.wanted = path, steps

    def on_update(self, images: int, loss: float) -> None:
        super().on_update(images, loss)
        if self.steps in self.wanted:
            shutil.copytree(self.path, self.path.with_name(f"killed{self.steps}"))


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class KilledError(BaseException):
    """Ends a run in which nothing more can be saved."""


def die() -> None:
    raise KilledError


def tune(path: Path, images: ImageSet, start: str = "scratch", observer: Observer | None = None, **given: Any):
    """Begin a run, or go on with it; what `test.json` holds, or None where it was interrupted."""
    found = PretrainedWeights.find(start)
    settings = FinetuneSettings.make(found, **{**({} if found.run else TINY), **given})
    with FinetuneDirectory(path) as directory:
        if directory.settings() is None:
            directory.write_config(settings, {"content_key": only_labelled(settings, images).content_key})
        try:
            return Finetuning(settings, images, directory, found).run(observer or Observer())
        except InterruptionError:
            return None


def timeless(path: Path) -> list[dict[str, str]]:
    table = read_rows(path / "metrics.csv")
    return [{key: value for key, value in row.items() if "second" not in key} for row in table]


def assert_same(ours: Path, theirs: Path) -> None:
    """Weights, rows and tests are the same, bit for bit."""
    first, second = load_tensors(ours / MODEL_FILE), load_tensors(theirs / MODEL_FILE)
    assert first[1] == second[1]
    assert all(torch.equal(tensor, second[0][name]) for name, tensor in first[0].items())
    assert timeless(ours) == timeless(theirs)
    assert (ours / "test.csv").read_bytes() == (theirs / "test.csv").read_bytes()
    assert (ours / "test.json").read_bytes() == (theirs / "test.json").read_bytes()


# Splits


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("labels", [None, 12])
def test_what_is_tested_on_is_neither_learned_from_nor_selected_by(drawn: ImageSet, task: str, labels: int | None):
    split = Split.make(FinetuneSettings(task=task, labels=labels, val_fraction=0.25), drawn)
    learn, select, test = (set(some.tolist()) for some in (split.learn, split.select, split.test))
    train = set(drawn.split("train").tolist())
    assert learn | select <= train
    assert not learn & select
    assert len(learn | select) == (labels or 32)
    assert len(select) == (labels or 32) // 4
    assert (split.test_name, test) == ("test", set(drawn.split("test").tolist()))
    assert split.learn.tolist() == sorted(learn)
    assert split.select.tolist() == sorted(select)


def test_the_labelled_images_are_the_same_for_every_start_and_recipe(drawn: ImageSet):
    one = Split.make(FinetuneSettings(labels=10, seed=3), drawn)
    other = Split.make(
        FinetuneSettings(labels=10, seed=3, start="run", width=4, steps=5, augment="none", transfer="encoder"), drawn
    )
    assert one.learn.tolist() == other.learn.tolist()
    assert one.learn.tolist() != Split.make(FinetuneSettings(labels=10, seed=4), drawn).learn.tolist()
    more = Split.make(FinetuneSettings(labels=11, seed=3, task="classification"), drawn)
    assert set(one.learn.tolist()) < set(more.learn.tolist())


@pytest.mark.slow
def test_without_a_test_split_it_is_tested_on_val_and_without_both_on_nothing(write_source):
    images = load_images(write_source("val", ("train", "train", "val")), 16)
    split = Split.make(FinetuneSettings(), images)
    assert (split.test_name, split.test.tolist()) == ("val", [2])
    images = load_images(write_source("none", ("train", "train")), 16)
    assert Split.make(FinetuneSettings(), images).test.size == 0
    result = tune(Path("run"), images)
    assert (result["split"], result["images"], result["labels"]) == (None, 0, 2)
    assert not Path("run/test.csv").exists()
    assert json.loads(Path("run/test.json").read_text()) == result


def test_a_test_split_without_labels_is_no_test(write_source):
    root = write_source(classes=("a", "b"))
    lines = [
        line if "test" not in line else line.replace(",a,", ",,").replace(",b,", ",,")
        for line in (root / "labels.csv").read_text().splitlines()
    ]
    (root / "labels.csv").write_text("\n".join(lines))
    split = Split.make(FinetuneSettings(task="classification"), load_images(root, 16))
    assert (split.test_name, len(split.test)) == ("val", 1)


def test_a_share_that_leaves_nothing_is_refused(drawn: ImageSet):
    with pytest.raises(SettingsError, match=r"--val-fraction 0\.1 of 4 images leaves none; ask for more labels"):
        Split.make(FinetuneSettings(val_fraction=0.1, labels=4), drawn)
    with pytest.raises(SettingsError, match=r"--val-fraction 0\.9 of 4 images leaves none"):
        Split.make(FinetuneSettings(val_fraction=0.9, labels=4), drawn)
    with pytest.raises(SettingsError, match="--labels 33"):
        Split.make(FinetuneSettings(labels=33), drawn)


# Interruptions


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"augment": "full", "ema_decay": 0.9, "weight_decay": 0.01, "tta": True},
        {"task": "classification", "val_fraction": 0.25, "schedule": "steps"},
        {"val_fraction": 0.25, "norm": "group", "labels": 12},
        {"labels": 8, "unlabelled": "auto", "confidence": 0.4},
        {"labels": 12, "unlabelled": "auto", "confidence": 0.2, "task": "classification"},
    ],
    ids=["mean", "classification", "selection", "unlabelled", "unlabelled-classification"],
)
def test_a_run_that_was_stopped_and_killed_is_one_run_bit_for_bit(
    drawn: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, object]
):
    monkeypatch.setattr(finetuning, "ROWS", 5)
    given = {**given, "steps": 15}  # a row every three steps
    assert tune(tmp_path / "whole", drawn, **given) is not None
    path = tmp_path / "parts"
    assert tune(path, drawn, observer=Observer(4, terminate), **given) is None
    assert not (path / MODEL_FILE).exists()
    assert len(read_rows(path / "metrics.csv")) == 1
    with pytest.raises(KilledError):
        tune(path, drawn, observer=Observer(10, die), **given)  # steps 13 and 14 are lost
    assert len(read_rows(path / "metrics.csv")) == 4
    assert tune(path, drawn, observer=Observer(1, terminate), **given) is None
    rest = Observer()
    assert tune(path, drawn, observer=rest, **given) is not None
    assert rest.steps == 15 - 13
    assert_same(path, tmp_path / "whole")


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_again(drawn: ImageSet, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(finetuning, "ROWS", 2)
    tune(tmp_path / "whole", drawn)
    with pytest.raises(KilledError):
        tune(tmp_path / "parts", drawn, observer=Observer(1, die))
    tune(tmp_path / "parts", drawn)
    assert_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.slow
def test_of_a_finished_run_nothing_is_lost_with_its_checkpoints(drawn: ImageSet, tmp_path: Path):
    tune(tmp_path / "run", drawn)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    files = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    with FinetuneDirectory(tmp_path / "run") as directory:
        settings = directory.settings()
        assert settings is not None
        assert Finetuning(settings, drawn, directory, PretrainedWeights.find("scratch")).finished
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()} == files
    assert {"metrics.csv", "test.json"} < files.keys()


@pytest.mark.slow
def test_a_run_killed_while_it_is_tested_is_tested_again(drawn: ImageSet, tmp_path: Path, monkeypatch):
    tune(tmp_path / "whole", drawn)
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "assess_segmenter", lambda *_: die())
        with pytest.raises(KilledError):
            tune(tmp_path / "parts", drawn)
    again = Observer()
    tune(tmp_path / "parts", drawn, observer=again)
    assert again.steps == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_the_handlers_of_signals_are_put_back(drawn: ImageSet, tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    tune(tmp_path / "run", drawn, observer=Observer(2, terminate))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
def test_a_checkpoint_is_saved_between_rows_where_rows_are_far_apart(drawn: ImageSet, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(KilledError):
        tune(tmp_path / "run", drawn, steps=200, observer=Observer(5, die))
    rest = Observer(1, terminate)
    tune(tmp_path / "run", drawn, steps=200, observer=rest)
    assert max((tmp_path / "run" / "checkpoints").iterdir()).stem == f"{5 * 4:012d}"  # four steps, and this one


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(drawn: ImageSet, tmp_path: Path, monkeypatch):
    observer = Observer(
        2,
        lambda: monkeypatch.setattr(
            finetuning.Trainer, "_loss", lambda *_: torch.tensor(torch.nan, requires_grad=True)
        ),
    )
    with pytest.raises(TrainingError, match="lower --learning-rate"):
        tune(tmp_path / "run", drawn, observer=observer)
    monkeypatch.undo()
    assert max((tmp_path / "run" / "checkpoints").iterdir()).stem == f"{2 * 4:012d}"


# Unlabelled images


def test_the_rest_of_the_train_split_is_unlabelled(drawn: ImageSet):
    settings = FinetuneSettings(labels=10, val_fraction=0.2, unlabelled="auto")
    split = Split.make(settings, drawn)
    found = choose_unlabelled(settings, drawn, split, None)
    assert found is not None
    parts = [set(some.tolist()) for some in (split.learn, split.select, found.indices)]
    assert set.union(*parts) == set(drawn.split("train").tolist())
    assert sum(map(len, parts)) == 32
    for none in (replace(settings, unlabelled="none"), replace(settings, labels=17), replace(settings, labels=None)):
        assert choose_unlabelled(none, drawn, Split.make(none, drawn), None) is None
    even = replace(settings, labels=16)
    assert choose_unlabelled(even, drawn, Split.make(even, drawn), None) is not None


def test_images_of_a_patient_by_whom_the_state_is_selected_take_no_part(write_source):
    root = write_source(splits=("train",) * 12 + ("test",))
    lines = [f"{number:02},{'test' if number == 12 else 'train'},P{number // 3}" for number in range(13)]
    (root / "labels.csv").write_text("\n".join(["image,split,patient", *lines]) + "\n")
    images = load_images(root, 16)
    settings = FinetuneSettings(labels=4, val_fraction=0.3, unlabelled="auto")
    split = Split.make(settings, images)
    found = choose_unlabelled(settings, images, split, None)
    assert found is not None
    learned, selects, others = (
        set(images.patients(part).tolist()) for part in (split.learn, split.select, found.indices)
    )
    assert selects
    assert others == learned
    assert not selects & others


def test_another_source_takes_part_but_for_images_that_are_tested_on(drawn: ImageSet, write_source):
    settings = FinetuneSettings(labels=8, unlabelled="elsewhere", val_fraction=0.25)
    split = Split.make(settings, drawn)
    assert split.select.size
    root = write_source("elsewhere", splits=("train",) * 3 + ("val", "test"))
    text = (root / "labels.csv").read_text()
    for number in (*split.test[:1].tolist(), *split.select[:1].tolist()):
        pixels = drawn.images(number)[0].transpose(1, 2, 0)[..., ::-1]
        cv2.imwrite(str(root / "images" / f"copy{number}.png"), pixels)
        text += f"copy{number},,train\n"
    (root / "labels.csv").write_text(text)
    others = load_images(root, 16, 3)
    assert len(others.split("train")) == 5
    found = choose_unlabelled(settings, drawn, split, others)
    assert found is not None
    assert [others.names[index] for index in found.indices] == ["00.png", "01.png", "02.png"]
    with pytest.raises(SettingsError, match="--unlabelled elsewhere: the images of that source are not given"):
        choose_unlabelled(settings, drawn, split, None)
    only_copies = load_images(write_source("copies", splits=("val",)), 16, 3)
    with pytest.raises(SettingsError, match="none of its images is for training and of no patient who is tested on"):
        choose_unlabelled(settings, drawn, split, only_copies)


def test_of_another_source_no_image_of_a_patient_who_is_tested_on_takes_part(write_source):
    patients = ("P0", "P0", "P1", "P1", "P2", "P3", "")
    roots = {
        "own": write_source("own", splits=("train",) * 4 + ("test",) * 3),
        "other": write_source("other", splits=("train",) * 7, sizes=((20, 18),)),
    }
    for name, root in roots.items():
        splits = ["train"] * 4 + ["train" if name == "other" else "test"] * 3
        lines = [f"{number:02},{split},{patients[number]}" for number, split in enumerate(splits)]
        (root / "labels.csv").write_text("\n".join(["image,split,patient", *lines]) + "\n")
    images, other = (load_images(root, 16) for root in roots.values())
    settings = FinetuneSettings(labels=3, unlabelled="elsewhere")
    split = Split.make(settings, images)
    found = choose_unlabelled(settings, images, split, other)
    assert found is not None
    assert [other.names[index] for index in found.indices] == ["00.png", "01.png", "02.png", "03.png", "06.png"]
    assert found.left_out == 2
    found = choose_unlabelled(settings, images, split, load_images(roots["own"], 16))
    assert found is not None
    assert set(found.indices.tolist()) == set(range(4)) - set(split.learn.tolist())


def test_a_copy_of_a_tested_image_in_the_train_split_takes_no_part(write_source):
    root = write_source(splits=("train",) * 6 + ("test",), sizes=((16, 16),))
    shutil.copy(root / "images" / "06.png", root / "images" / "05.png")
    images = load_images(root, 16)
    settings = FinetuneSettings(labels=1, unlabelled="auto", seed=1)
    split = Split.make(settings, images)
    found = choose_unlabelled(settings, images, split, None)
    assert found is not None
    assert 5 not in found.indices
    assert set(found.indices) | set(split.learn) | {5} == set(range(6))


@pytest.mark.slow
def test_what_is_written_tells_of_the_unlabelled_images(drawn: ImageSet, tmp_path: Path):
    result = tune(tmp_path / "run", drawn, labels=8, unlabelled="auto", steps=20, confidence=0.5)
    assert (result["labels"], result["unlabelled"]) == (8, 24)
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert [isnan(float(row["confident"])) for row in rows] == [True] * 8 + [False] * 12
    assert all(0 <= float(row["confident"]) <= 1 for row in rows[8:])
    assert cv2.imread(str(tmp_path / "run" / "mixing.png")).shape[1] > 1000
    tune(tmp_path / "alone", drawn, labels=8, unlabelled="none")
    assert not (tmp_path / "alone" / "mixing.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [20, 21])  # 21: they join between two rows
def test_a_run_whose_teacher_goes_astray_is_the_supervised_one(drawn, tmp_path: Path, monkeypatch, steps: int):
    monkeypatch.setattr(mean_teacher, "FOREGROUND", (5.0, 5.1))
    monkeypatch.setattr(mean_teacher, "WATCHED_STEPS", 5)
    observer = Copying(tmp_path / "run", 12, 13, 15, 22)
    given = {"labels": 8, "unlabelled": "auto", "steps": steps}
    result = tune(tmp_path / "run", drawn, observer=observer, **given)
    assert len(observer.warnings) == 1
    assert f"goes back to step {steps - 12}, and on with the labelled images alone" in observer.warnings[0]
    assert (observer.steps, result["unlabelled"]) == (steps + 5, 0)
    assert (tmp_path / "run" / "mixing.png").exists()  # what the teacher said
    tune(tmp_path / "alone", drawn, **{**given, "unlabelled": "none"})
    assert_same(tmp_path / "run", tmp_path / "alone")
    # killed on the way back, or after it, it is the same run
    for at in observer.wanted:
        path = tmp_path / f"killed{at}"
        assert not (path / "test.json").exists()
        tune(path, drawn, **given)
        assert_same(path, tmp_path / "alone")


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])  # 1: they are sent away in the step in which they join
def test_what_was_selected_with_a_teacher_gone_astray_is_taken_back(drawn, tmp_path: Path, monkeypatch, steps: int):
    monkeypatch.setattr(mean_teacher, "FOREGROUND", (5.0, 5.1))
    monkeypatch.setattr(mean_teacher, "WATCHED_STEPS", steps)
    given = {"labels": 8, "val_fraction": 0.25, "steps": 20, "unlabelled": "auto"}
    values = [0.5] * 8 + [0.9] * (steps - 1) + [0.4] * 9  # those in the middle are of steps that are taken back
    script(monkeypatch, drawn, values)
    tune(tmp_path / "run", drawn, **given)
    script(monkeypatch, drawn, [0.5] * 8 + [0.4] * 9)
    tune(tmp_path / "alone", drawn, **{**given, "unlabelled": "none"})
    ours, theirs = (load_tensors(tmp_path / name / MODEL_FILE)[0] for name in ("run", "alone"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


# Rounds


def test_the_teacher_of_a_second_round_is_what_one_round_comes_to_and_its_pupil_begins_afresh(drawn, tmp_path: Path):
    given = {"labels": 8, "unlabelled": "auto", "confidence": 0.4}
    tune(tmp_path / "one", drawn, **given)
    settings = FinetuneSettings.make(PretrainedWeights.find("scratch"), **TINY, **given, rounds=2)
    with FinetuneDirectory(tmp_path / "two") as directory:
        directory.write_config(settings, {"content_key": drawn.content_key})
        run = Finetuning(settings, drawn, directory, PretrainedWeights.find("scratch"))
        first = {name: one.clone() for name, one in run.model.network.state_dict().items()}
        joined = list[int | None]()
        observer = Observer(7, lambda: joined.append(run.trainer.joined))
        result = run.run(observer)
    (teacher, _), (pupil, _) = (load_tensors(tmp_path / name / MODEL_FILE) for name in ("one", "two"))
    assert run._teacher is not None
    assert all(torch.equal(one, run._teacher[name]) for name, one in teacher.items())
    assert all(torch.equal(one, run._start[name]) for name, one in first.items())
    assert any(not torch.equal(one, pupil[name]) for name, one in teacher.items())
    assert (joined, observer.steps, result["unlabelled"]) == ([0], 12, 24)
    rows = read_rows(tmp_path / "two" / "metrics.csv")
    assert [int(row["images"]) for row in rows] == [4 * step for step in range(1, 13)]
    assert timeless(tmp_path / "two")[:6] == timeless(tmp_path / "one")
    assert all(float(row["confident"]) == 1 for row in rows[6:])  # all that this teacher says counts


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"task": "classification"}, {"val_fraction": 0.25}])
def test_a_run_of_two_rounds_that_was_stopped_and_killed_is_one_run_bit_for_bit(drawn, tmp_path: Path, more):
    given = {"labels": 12, "unlabelled": "auto", "confidence": 0.4, "rounds": 2, **more}
    observer = Copying(tmp_path / "whole", 3, 6, 7, 9)
    assert tune(tmp_path / "whole", drawn, observer=observer, **given) is not None
    for at in observer.wanted:
        path = tmp_path / f"killed{at}"
        assert tune(path, drawn, observer=Observer(2, terminate), **given) is None
        assert tune(path, drawn, **given) is not None
        assert_same(path, tmp_path / "whole")


@pytest.mark.slow
def test_the_picture_of_the_teacher_is_that_of_the_round_in_which_it_learns(drawn, tmp_path: Path):
    for rounds in (1, 2):
        tune(tmp_path / f"{rounds}", drawn, labels=12, unlabelled="auto", confidence=0.4, rounds=rounds)
    one, two = ((tmp_path / name / "mixing.png").read_bytes() for name in "12")
    assert one == two


@pytest.mark.slow
def test_selection_ends_a_round_and_the_next_one_has_its_own_time(drawn, tmp_path: Path, monkeypatch):
    given = {"labels": 8, "val_fraction": 0.25, "steps": 20, "unlabelled": "auto", "ramp": 2, "rounds": 2}
    script(monkeypatch, drawn, [0.5] + [0.4] * 16 + [0.6] + [0.1] * 20)
    result = tune(tmp_path / "run", drawn, **given)
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert len(rows) == 10 + PATIENCE + 1 + PATIENCE + 1  # in the second round they have had their time
    assert result["unlabelled"] == 24  # the state kept is the second round's


@pytest.mark.slow
def test_there_is_no_second_round_where_the_teacher_went_astray_or_nothing_is_unlabelled(drawn, tmp_path, monkeypatch):
    tune(tmp_path / "few", drawn, unlabelled="auto", rounds=2)  # all images are labelled
    assert len(read_rows(tmp_path / "few" / "metrics.csv")) == 6
    monkeypatch.setattr(mean_teacher, "FOREGROUND", (5.0, 5.1))
    monkeypatch.setattr(mean_teacher, "WATCHED_STEPS", 2)
    given = {"labels": 8, "steps": 20}
    tune(tmp_path / "astray", drawn, unlabelled="auto", rounds=2, **given)
    tune(tmp_path / "alone", drawn, unlabelled="none", **given)
    assert_same(tmp_path / "astray", tmp_path / "alone")


def test_rounds_without_unlabelled_images_are_refused():
    with pytest.raises(SettingsError, match="--rounds is for --unlabelled"):
        FinetuneSettings(rounds=2)
    with pytest.raises(SettingsError, match="--rounds 0 must be 1 or more"):
        FinetuneSettings(rounds=0)


# What is unlabelled is not known


def without_masks(root: Path) -> ImageSet:
    return load_images(root, 16, masks=False)


def content_key(path: str) -> str:
    return FinetuneDirectory(Path(path)).content_key()


@pytest.mark.slow
@pytest.mark.parametrize("unlabelled", ["none", "auto"])
def test_unlabelled_masks_change_no_byte_and_are_not_opened(write_source, unlabelled: str):
    root = write_source(splits=("train",) * 12 + ("test",) * 3)
    given = {"labels": 4, "unlabelled": unlabelled, "confidence": 0.5}
    images = without_masks(root)
    learned = {Path(images.names[index]).stem for index in Split.make(FinetuneSettings(labels=4), images).learn}
    tune(Path("run"), images, **given)
    others = [path for path in sorted((root / "masks").iterdir()) if path.stem not in learned and int(path.stem) < 12]
    assert len(others) == 8
    rng = np.random.default_rng(0)
    for path in others:
        size = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape
        cv2.imwrite(str(path), rng.integers(0, 256, size, np.uint8))
    tune(Path("noise"), without_masks(root), **given)
    for path in others:
        path.write_bytes(b"not an image")
    tune(Path("unreadable"), without_masks(root), **given)
    for name in ("noise", "unreadable"):
        assert_same(Path(name), Path("run"))
        assert content_key(name) == content_key("run")
    with pytest.raises(ImageError):  # of all labels, these are some
        tune(Path("all"), without_masks(root), **{**given, "labels": None})


@pytest.mark.slow
def test_what_is_marked_in_slices_that_show_nothing_is_tested_and_no_unlabelled_mask_is_opened(tmp_path, call):
    nibabel = pytest.importorskip("nibabel")
    generator = np.random.default_rng(0)
    for number in range(8):
        volume = generator.integers(1, 200, (16, 16, 6)).astype(np.uint8)
        volume[..., 4:] = 0  # the last two are dark
        mask = np.zeros_like(volume)
        mask[3:9, 2:12, :5] = 1  # nothing is marked in the very last
        for folder, pixels in (("images", volume), ("masks", mask)):
            (tmp_path / "scans" / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), tmp_path / "scans" / folder / f"{number}.nii.gz")
    splits = ("train",) * 5 + ("val",) + ("test",) * 2
    lines = [f"{number},{split}" for number, split in enumerate(splits)]
    (tmp_path / "scans" / "labels.csv").write_text("\n".join(["image,split", *lines]))
    images = load_images("scans", 16, masks=False)
    learned = images.positions(Split.make(FinetuneSettings(labels=2), images).learn) // 6
    others = {*range(6)} - {*learned.tolist()}
    assert len(others) == 4
    for number in others:
        (tmp_path / "scans" / "masks" / f"{number}.nii.gz").write_bytes(b"not a volume")
    words = ["finetune", "--data", "scans", "--labels", "2", "--device", "cpu", "--image-size", "16", "--width", "2"]
    status, out, _ = call(*words, "--steps", "2", "--batch-size", "2", "--out", "run")
    assert (status, "something is marked, so that they count: 2\n" in out) == (0, True)
    tested = json.loads(Path("run/test.json").read_text())
    assert (tested["images"], tested["labels"]) == (10, 2)
    assert call("evaluate", "--from", "run", "--data", "scans", "--out", "found.json", "--device", "cpu")[0] == 0
    evaluated = json.loads(Path("found.json").read_text())
    for name in ("images", "patient_dice", "dice", "nothing_dice"):
        assert evaluated[name] == tested[name]


@pytest.mark.slow
def test_unlabelled_classes_change_no_byte(write_source):
    root = write_source(splits=("train",) * 12 + ("test",) * 3, classes=("a", "b"))
    given = {"labels": 6, "unlabelled": "auto", "task": "classification", "confidence": 0.4}
    images = load_images(root, 16)
    learned = {Path(images.names[index]).stem for index in Split.make(FinetuneSettings(labels=6), images).learn}
    tune(Path("run"), images, **given)
    lines = (root / "labels.csv").read_text().splitlines()
    for number, line in enumerate(lines):
        stem, _, split = line.split(",")
        if split == "train" and stem not in learned:
            lines[number] = f"{stem},7{number % 5},{split}"
    (root / "labels.csv").write_text("\n".join(lines))
    tune(Path("noise"), load_images(root, 16), **given)
    assert_same(Path("noise"), Path("run"))
    assert content_key("noise") == content_key("run")
    assert Model.load(Path("run")).spec.classes == ("a", "b")


@pytest.mark.slow
def test_bad_masks_are_named_or_left_out_and_told(write_source, call):
    root = write_source(splits=("train",) * 8 + ("test",) * 3)
    chosen = Split.make(FinetuneSettings(labels=4), without_masks(root)).learn.tolist()
    for number in (chosen[0], 9):
        (root / "masks" / f"{number:02}.png").write_bytes(b"damaged")
    words = ["finetune", "--data", "source", "--labels", "4", "--device", "cpu", "--image-size", "16", "--width", "2"]
    words += ["--steps", "2", "--batch-size", "2", "--out"]
    status, _, err = call(*words, "run")
    assert status == 2
    assert f"{chosen[0]:02}.png" in err
    status, out, _ = call(*words, "rest", "--skip-bad")
    assert status == 0
    assert "2 bad masks were left out" in out
    test = json.loads(Path("rest/test.json").read_text())
    assert (test["labels"], test["images"]) == (3, 2)
    status, out, _ = call("evaluate", "--from", "rest", "--data", "source", "--skip-bad")
    assert (status, "1 bad masks were left out" in out) == (0, True)


@pytest.mark.slow
def test_masks_of_which_nothing_is_known_are_told_apart_from_bad_ones(write_source, call):
    root = write_source(splits=("train",) * 6 + ("test",) * 3)
    for number in (2, 7):
        path = str(root / "masks" / f"{number:02}.png")
        cv2.imwrite(path, np.full_like(cv2.imread(path, cv2.IMREAD_UNCHANGED), 7))
    words = ["finetune", "--data", "source", "--labels", "6", "--ignore", "7", "--device", "cpu", "--image-size", "16"]
    told = "warning: masks that hold nothing but the number to be ignored: {}; their images count as unlabelled\n"
    status, out, _ = call(*words, "--width", "2", "--steps", "2", "--batch-size", "2", "--out", "run")
    assert (status, told.format(2) in out, "bad masks" in out) == (0, True, False)
    test = json.loads(Path("run/test.json").read_text())
    assert (test["labels"], test["images"]) == (5, 2)
    status, out, _ = call("evaluate", "--from", "run", "--data", "source", "--device", "cpu")
    assert (status, told.format(1) in out, "bad masks" in out) == (0, True, False)


@pytest.mark.slow
def test_a_classifier_reads_no_mask_and_is_evaluated_on_classes_in_its_own_order(write_source, call):
    root = write_source(splits=("train",) * 8 + ("test",) * 4, classes=("a", "b"))
    for path in (root / "masks").iterdir():
        path.write_bytes(b"damaged")
    words = ["finetune", "--data", "source", "--device", "cpu", "--image-size", "16", "--width", "2", "--steps", "2"]
    assert call(*words, "--task", "classification", "--classes", "b,a", "--out", "run")[0] == 0
    assert Model.load(Path("run")).spec.classes == ("b", "a")
    tested = json.loads(Path("run/test.json").read_text())
    assert call("evaluate", "--from", "run", "--data", "source", "--out", "e.json")[0] == 0
    evaluated = json.loads(Path("e.json").read_text())
    assert evaluated["confusion"] == tested["confusion"]
    assert evaluated["accuracy"] == pytest.approx(tested["accuracy"])


@pytest.mark.slow
def test_another_unlabelled_source_must_stay_as_it_was(write_source, call):
    write_source()
    more = write_source("more", splits=("train",) * 4)
    words = ["finetune", "--data", "source", "--labels", "2", "--unlabelled", "more", "--steps", "4", "--width", "2"]
    words += ["--image-size", "16", "--device", "cpu", "--out", "run"]
    assert call(*words)[0] == 0
    shutil.copy(more / "images" / "00.png", more / "images" / "03.png")
    status, _, err = call("finetune", "--resume", "--out", "run")
    assert status == 2
    assert "the images of source or more have changed since this run began" in err


def test_two_values_of_masks_may_be_named_as_they_stand_there(write_source):
    tune(Path("run"), load_images(write_source(), 16), classes="0,255", steps=1)
    assert Model.load(Path("run")).spec.values == (0, 1)


@pytest.mark.slow
def test_classes_that_are_named_are_the_model_s(write_source):
    root = write_source(values=(0, 2, 5))
    images = load_images(root, 16)
    tune(Path("run"), images, classes="0,2,5,7")
    assert Model.load(Path("run")).spec.values == (0, 2, 5, 7)
    with pytest.raises(ImageError, match=r"mask of 00\.png, to learn from, holds 5, which --classes does not"):
        tune(Path("few"), images, classes="0,2")
    for odd in ("2", "2,,5", "2,2", "2,x", "2,256"):
        with pytest.raises(SettingsError, match=f"--classes {odd}"):
            FinetuneSettings(classes=odd)


# Rows and selection


@pytest.mark.slow
def test_rows_say_how_it_went(drawn: ImageSet, tmp_path: Path):
    observer = Observer()
    tune(tmp_path / "run", drawn, observer=observer, steps=21)
    rows = read_rows(tmp_path / "run" / "metrics.csv")
    assert list(rows[0]) == ["images", "seconds", "images_per_second", "loss", "learning_rate", "selection", *TEACHER]
    assert [int(row["images"]) for row in rows] == [*range(8, 84, 8), 84]
    assert [row["images"] for row in observer.rows] == [float(row["images"]) for row in rows]
    assert all(isnan(float(row["selection"])) for row in rows)
    assert float(rows[-1]["learning_rate"]) == pytest.approx(1e-5)
    assert [float(row["seconds"]) for row in rows] == sorted(float(row["seconds"]) for row in rows)


def script(
    monkeypatch: pytest.MonkeyPatch, images: ImageSet, values: list[float]
) -> list[tuple[dict[str, Any], list[int]]]:
    """Make assessments say these values, one after the other; gives the states and images that were assessed."""
    seen: list[tuple[dict[str, Any], list[int]]] = []

    def assess(model: Model, _: ImageSet, indices: Any, tta: bool = False) -> Any:
        state = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
        seen.append((state, indices.tolist()))
        value = values[len(seen) - 1] if len(seen) <= len(values) else 0.0
        return SimpleNamespace(summary={"dice": 1 - value, "marked_dice": value}, write=lambda _: None)

    monkeypatch.setattr(finetuning, "assess_segmenter", assess)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("average", [0.0, 0.9])
def test_the_best_state_is_kept_and_the_run_stops_once_it_gets_no_better(
    drawn: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: float
):
    seen = script(monkeypatch, drawn, [0.2, 0.5, 0.4, 0.6, 0.6, 0.5, 0.4, 0.5, 0.3, 0.2, 0.1, 0.9])
    tune(tmp_path / "run", drawn, val_fraction=0.25, steps=20, ema_decay=average)
    # the second 0.6 is as good as the first, and the six after it are worse
    assert len(read_rows(tmp_path / "run" / "metrics.csv")) == 5 + PATIENCE
    weights = load_tensors(tmp_path / "run" / MODEL_FILE)[0]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in seen[3][0].items())  # the first 0.6
    assert any(not torch.equal(tensor, weights[name]) for name, tensor in seen[4][0].items())
    split = Split.make(FinetuneSettings(val_fraction=0.25), drawn)
    assert all(indices == split.select.tolist() for _, indices in seen[:-1])
    assert seen[-1][1] == split.test.tolist()  # once, at the end
    assert all(torch.equal(tensor, weights[name]) for name, tensor in seen[-1][0].items())


@pytest.mark.slow
def test_a_run_that_was_stopped_by_selection_is_learned_when_it_goes_on(drawn: ImageSet, tmp_path: Path, monkeypatch):
    script(monkeypatch, drawn, [0.5] + [0.1] * PATIENCE)
    with pytest.raises(KilledError):
        tune(tmp_path / "run", drawn, val_fraction=0.25, steps=20, observer=Observer(PATIENCE + 1, die))
    script(monkeypatch, drawn, [0.1])
    rest = Observer()
    tune(tmp_path / "run", drawn, val_fraction=0.25, steps=20, observer=rest)
    assert rest.steps == 1  # the one that was lost
    assert len(read_rows(tmp_path / "run" / "metrics.csv")) == PATIENCE + 1


@pytest.mark.slow
@pytest.mark.parametrize(("ramp", "rows"), [(2, 10 + PATIENCE + 1), (300, 20)])
def test_no_run_stops_before_the_unlabelled_images_have_had_their_time(
    drawn: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ramp: int, rows: int
):
    """They join after 8 of 20 steps, and their weight rises for so many more."""
    script(monkeypatch, drawn, [0.5] + [0.4] * 30)
    given = {"labels": 8, "val_fraction": 0.25, "steps": 20, "unlabelled": "auto", "ramp": ramp}
    tested = tune(tmp_path / "run", drawn, **given)
    assert len(read_rows(tmp_path / "run" / "metrics.csv")) == rows
    assert tested["unlabelled"] == 0  # the state that is kept is the first one


@pytest.mark.slow
def test_without_selection_the_last_state_is_kept_or_the_running_mean(drawn: ImageSet, tmp_path: Path, monkeypatch):
    states = []
    for average in (0.0, 0.9):
        seen = script(monkeypatch, drawn, [])
        tune(tmp_path / f"run{average}", drawn, ema_decay=average)
        assert len(seen) == 1
        checkpoint = load_tensors(max((tmp_path / f"run{average}" / "checkpoints").iterdir()))[0]
        part = "trainer/average." if average else "trainer/network."
        name = "inc.double_conv.0.weight"
        assert torch.equal(seen[0][0][name], checkpoint[part + name])
        states.append(seen[0][0][name])
    assert not torch.equal(*states)


# Tests at the images' own size


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("tta", [False, True])
def test_the_scores_of_every_image_are_those_at_its_own_size(write_source, fit: str, tta: bool):
    root = write_source(splits=("train",) * 4 + ("test",) * 6)
    result = tune(Path("run"), load_images(root, 16, fit=fit), fit=fit, tta=tta, learning_rate=0.03)
    model = Model.load(Path("run"))
    paths = [root / "images" / f"{number:02}.png" for number in range(4, 10)]
    pixels = [cv2.imread(str(path))[..., ::-1] for path in paths]
    found = model.probabilities(np.stack([to_square(image, model.spec) for image in pixels]), tta)
    expected = []
    for path, image, maps in zip(paths, pixels, found, strict=True):
        height, width = image.shape[:2]
        if fit == "pad":
            inner = [max(1, round(side * 16 / max(height, width))) for side in (height, width)]
            top, left = ((16 - side) // 2 for side in inner)
            maps = maps[:, top : top + inner[0], left : left + inner[1]]
        wide = [cv2.resize(np.ascontiguousarray(one), (width, height)) for one in maps]
        truth = cv2.imread(str(root / "masks" / path.name), cv2.IMREAD_UNCHANGED) == 255
        expected.append(score_mask(truth, wide[1] > wide[0]))
    rows = read_rows(Path("run/test.csv"))
    assert [row["image"] for row in rows] == [path.name for path in paths]
    for measure in ("dice", "iou", "hd95", "sensitivity", "specificity"):
        values = [getattr(one, measure) for one in expected]
        assert [float(row[measure]) for row in rows] == pytest.approx(values, rel=1e-5)
        assert result[measure] == pytest.approx(np.mean(values))
    assert (result["split"], result["images"], result["labels"]) == ("test", 6, 4)
    assert cv2.imread("run/cases.png") is not None


@pytest.mark.slow
def test_a_few_masks_among_many_images_suffice(write_source):
    root = write_source()
    masks = sorted((root / "masks").iterdir())
    for number, path in enumerate(masks):
        if number % 3:
            path.unlink()
    images = load_images(root, 16)
    kept = {path.stem for path in masks[::3]}
    split = Split.make(FinetuneSettings.make(PretrainedWeights.find("scratch"), task="segmentation"), images)
    chosen = {Path(images.names[index]).stem for index in (*split.learn, *split.select, *split.test)}
    assert chosen <= kept
    assert {Path(images.names[index]).stem for index in split.test} == {
        Path(images.names[index]).stem for index in images.split(split.test_name)
    } & kept
    assert tune(Path("run"), images)["images"] == len(split.test)


@pytest.mark.slow
def test_masks_of_several_classes_are_learned_and_told_apart(write_source):
    images = load_images(write_source(values=(0, 2, 5)), 16)
    result = tune(Path("run"), images)
    model = Model.load(Path("run"))
    assert (model.spec.classes, model.spec.values) == (("background", "2", "5"), (0, 2, 5))
    rows = read_rows(Path("run/test.csv"))
    assert {"dice", "dice 2", "dice 5", "hd95 2"} <= set(rows[0])
    for row in rows:
        assert float(row["dice"]) == pytest.approx((float(row["dice 2"]) + float(row["dice 5"])) / 2, rel=1e-4)
    assert result["dice 5"] == pytest.approx(np.mean([float(row["dice 5"]) for row in rows]), rel=1e-4)
    assert model.probabilities(images.images([0])).shape == (1, 3, 16, 16)


def test_an_unknown_number_in_a_mask_of_the_test_split_is_told_with_its_file(write_source):
    root = write_source(values=(0, 2, 5))
    mask = cv2.imread(str(root / "masks" / "08.png"), cv2.IMREAD_UNCHANGED)
    mask[0, 0] = 9
    cv2.imwrite(str(root / "masks" / "08.png"), mask)
    with pytest.raises(ImageError, match=r"mask of 08\.png, to test on, holds 9, but those to learn from hold 0, 2, 5"):
        tune(Path("run"), load_images(root, 16))


def speck(root: Path, stem: str) -> None:
    """Add a class to a mask of which nothing is left at 16 pixels."""
    path = str(root / "masks" / f"{stem}.png")
    mask = cv2.imread(path, cv2.IMREAD_UNCHANGED)
    mask[0, 0] = 9
    cv2.imwrite(path, mask)


@pytest.mark.parametrize("masks_read", [True, False])
def test_a_class_that_resizing_leaves_nothing_of_is_known_before_anything_is_learned(
    write_source, masks_read: bool
) -> None:
    root = write_source(values=(0, 2, 5), sizes=[(64, 64)])
    speck(root, "08")
    images = load_images(root, 16, masks=masks_read)
    for classes in (None, "0,2,5"):
        with pytest.raises(ImageError, match=r"mask of 08\.png, to test on, holds 9, but those to learn from hold"):
            tune(Path("run"), images, classes=classes)
    speck(root, "01")
    images = load_images(root, 16, masks=masks_read)
    with pytest.raises(ImageError, match=r"9 is a class in masks to learn from, but no pixel of it is left"):
        tune(Path("run"), images)
    assert not (Path("run") / "metrics.csv").exists()
    assert tune(Path("run"), images, classes="0,2,5,9", steps=1)["images"] == 2  # if that is how it shall be


@pytest.mark.parametrize("masks_read", [True, False])
def test_two_values_of_masks_are_what_they_are_where_other_classes_are_named(write_source, masks_read: bool) -> None:
    images = load_images(write_source(), 16, masks=masks_read)
    with pytest.raises(ImageError, match=r"mask of 00\.png, to learn from, holds 255, which --classes does not name"):
        tune(Path("run"), images, classes="0,1,2")
    tune(Path("run"), images, classes="0,2,255", steps=1)
    model = Model.load(Path("run"))
    assert model.spec.values == (0, 2, 255)
    assert only_labelled(FinetuneSettings(classes="0,2,255"), images).mask_values(0) == (0, 255)


# What a model is, and what does not go together


@pytest.mark.slow
def test_a_classifier_is_tested_on_labels(drawn: ImageSet, tmp_path: Path):
    result = tune(tmp_path / "run", drawn, task="classification")
    model = Model.load(tmp_path / "run")
    assert (model.spec.classes, model.spec.values) == (drawn.classes, ())
    shares = model.probabilities(drawn.images(drawn.split("test")))
    right = shares.argmax(1) == drawn.labels(drawn.split("test"))
    assert result["accuracy"] == pytest.approx(right.mean())
    assert np.sum(result["confusion"]) == 4
    assert [row["image"] for row in read_rows(tmp_path / "run" / "test.csv")] == [
        drawn.names[index] for index in drawn.split("test")
    ]


@pytest.mark.slow
def test_images_are_standardised_as_in_pretraining_or_by_the_train_split(drawn: ImageSet, pretrained: Path, tmp_path):
    tune(tmp_path / "tuned", drawn, str(pretrained), steps=1)
    about = load_tensors(pretrained / "unet.safetensors")[1]
    spec = Model.load(tmp_path / "tuned").spec
    assert (list(spec.mean), list(spec.std)) == (about["mean"], about["std"])
    tune(tmp_path / "scratch", drawn, steps=1)
    mean, std = drawn.standardisation(drawn.split("train"))
    spec = Model.load(tmp_path / "scratch").spec
    assert (spec.mean, spec.std) == (tuple(mean.tolist()), tuple(std.tolist()))


@pytest.mark.parametrize("transfer", ["all", "encoder"])
def test_learning_starts_from_what_was_pretrained(drawn: ImageSet, pretrained: Path, tmp_path: Path, transfer: str):
    given = load_tensors(pretrained / "unet.safetensors")[0]
    settings = FinetuneSettings.make(PretrainedWeights.find(str(pretrained)), transfer=transfer, device="cpu", steps=1)
    with FinetuneDirectory(tmp_path / "run") as directory:
        network = Finetuning(
            settings, drawn, directory, PretrainedWeights.find(str(pretrained))
        ).model.network.state_dict()
    same = {
        name
        for name, tensor in given.items()
        if network[name].shape == tensor.shape and torch.equal(network[name], tensor)
    }
    for name in ("inc.double_conv.0.weight", "down4.maxpool_conv.1.double_conv.4.running_var"):
        assert name in same
    assert ("up1.up.weight" in same) == (transfer == "all")
    assert "outc.conv.weight" not in same


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["affine", "full"])
def test_grey_images_are_learned_in_grey_from_scratch_and_in_colour_from_a_unet_that_takes_colour(
    write_source, pretrained: Path, augment: str
):
    root = write_source(grey=True)
    tune(Path("grey"), load_images(root, 16), augment=augment, steps=2)
    assert Model.load(Path("grey")).spec.channels == 1
    settings = FinetuneSettings.make(PretrainedWeights.find(str(pretrained)))
    assert settings.channels == 3
    tune(Path("colour"), load_images(root, 16, settings.channels), str(pretrained), augment=augment, steps=2)
    assert Model.load(Path("colour")).spec.channels == 3


def test_images_without_what_a_task_needs_are_refused(write_source, drawn: ImageSet):
    images = load_images(write_source("bare", masks=False), 16)
    for task, what in (("segmentation", "mask"), ("classification", "label")):
        with pytest.raises(ImageError, match=rf"bare: no image of its train split has a {what}; check with `ahm data"):
            tune(Path(task), images, task=task)
    empty = load_images(write_source("empty", values=(0,), classes=("a",)), 16)
    with pytest.raises(ImageError, match=r"empty: its masks are all background; nothing can be learned"):
        tune(Path("empty-run"), empty)
    with pytest.raises(ImageError, match=r"empty: it has labels of fewer than two classes"):
        tune(Path("one-class"), empty, task="classification")
    assert not list(Path.cwd().glob("*/checkpoints"))


def test_a_class_without_a_labelled_image_is_named(drawn: ImageSet, write_source):
    with pytest.raises(ImageError, match=r"is labelled \w+, which is none of the classes .* ask for more --labels"):
        tune(Path("one"), drawn, task="classification", labels=1)
    names = ",".join(drawn.classes)
    with pytest.raises(SettingsError, match=r"no image of class \w+, \w+ among the 1 to learn from; ask for more"):
        tune(Path("one"), drawn, task="classification", labels=1, classes=names)
    root = write_source(classes=("a", "b"))
    text = (root / "labels.csv").read_text().replace("08,a,test", "08,rare,test")
    (root / "labels.csv").write_text(text)
    with pytest.raises(ImageError, match=r"08\.png is labelled rare, which is none of the classes that are learned"):
        tune(Path("rare"), load_images(root, 16), task="classification")


@pytest.mark.slow
def test_masks_that_cover_everything_still_have_a_background(write_source):
    root = write_source()
    for path in (root / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.full_like(mask, 255))
    tune(Path("run"), load_images(root, 16), steps=2)
    assert Model.load(Path("run")).spec.values == (0, 1)


def test_other_channels_than_the_unet_s_are_refused(write_source, pretrained: Path):
    start = PretrainedWeights.find(str(pretrained))
    settings = replace(FinetuneSettings.make(start), channels=1)
    images = load_images(write_source(grey=True), 16)
    with FinetuneDirectory(Path("run")) as directory, pytest.raises(CheckpointError, match=r"3 channels.*1 channels"):
        Finetuning(settings, images, directory, start)
