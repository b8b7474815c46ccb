"""Fine-tuning as a person types it: what is shown, what is written, and what is refused in one line."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ahm_env.files import load_tensors
from ahm_env.images.pixels.opencv import cv2
from downstream.evaluation.metrics import measure_name
from downstream.finetuning.run import Finetuning
from downstream.finetuning.settings import FinetuneSettings
from downstream.finetuning.training import Trainer
from downstream.models.model import Model

pytestmark = pytest.mark.usefixtures("own_cache")

TINY = ["--data", "phantom:40", "--steps", "3", "--batch-size", "4", "--augment", "flips", "--device", "cpu"]
SMALL = ["--image-size", "16", "--width", "2"]


@pytest.fixture
def call(call: Callable[..., tuple[int, str, str]]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run `ahm finetune` in this process: status, output, errors."""
    before = signal.getsignal(signal.SIGTERM)
    yield partial(call, "finetune")
    signal.signal(signal.SIGTERM, before)


def files(path: str) -> set[str]:
    return {one.name for one in Path(path).iterdir() if not one.name.startswith((".", "events"))}


@pytest.mark.slow
@pytest.mark.parametrize(("task", "picture"), [("segmentation", "cases.png"), ("classification", "confusion.png")])
def test_a_run_ends_with_a_table_a_picture_and_what_to_do_next(call, pretrained: Path, task: str, picture: str):
    status, out, err = call(*TINY, "--task", task, "--from", str(pretrained), "--labels", "12", "--out", "run")
    assert (status, err) == (0, "")
    written = {"config.json", "metrics.csv", "checkpoints", "model.safetensors", "test.csv", "test.json"}
    mixing = {"mixing.png"} if task == "segmentation" else set()  # unlabelled images take part by default
    assert files("run") == {*written, picture, *mixing}
    assert cv2.imread(f"run/{picture}") is not None
    result = json.loads(Path("run/test.json").read_text())
    assert (result["task"], result["split"], result["images"], result["labels"]) == (task, "test", 4, 12)
    name = "dice" if task == "segmentation" else "balanced_accuracy"
    assert f"{result[name]:.3f}" in out
    assert f"run/{picture}" in out
    assert "12 labelled images to learn from, 4 to test on; 3 steps of 4" in out
    assert "Next: ahm predict --from run" in out
    assert "\x1b" not in out
    config = json.loads(Path("run/config.json").read_text())["settings"]
    assert (config["start"], config["image_size"], config["width"], config["labels"]) == (str(pretrained), 16, 2, 12)
    status, out, _ = call("--resume", "--out", "run")
    assert status == 0
    assert "run is finished" in out


@pytest.mark.slow
def test_runs_without_a_name_get_the_next_free_one(call):
    for number in (1, 2):
        assert call(*TINY, *SMALL, "--seed", str(number))[0] == 0
        assert Path(f"runs/segmentation-{number}/test.json").is_file()


@pytest.mark.slow
def test_a_run_that_was_stopped_says_how_to_go_on_and_goes_on(call, monkeypatch: pytest.MonkeyPatch):
    words = [*TINY, *SMALL, "--steps", "6"]
    assert call(*words, "--out", "whole")[0] == 0
    learn = Trainer.learn

    def stopped(trainer: Trainer) -> float:
        if trainer.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "learn", stopped)
        status, out, err = call(*words, "--out", "parts")
    assert (status, err) == (128 + signal.SIGTERM, "")
    assert (
        "Stopped by SIGTERM after 2 of 6 steps; all is saved. Go on with\n  ahm finetune --resume --out parts\n" in out
    )
    assert not Path("parts/model.safetensors").exists()
    status, out, _ = call("--resume", "--out", "parts")
    assert status == 0
    assert "Going on after 2 steps" in out
    ours, theirs = (load_tensors(Path(name) / "model.safetensors")[0] for name in ("parts", "whole"))
    assert all((tensor == theirs[name]).all() for name, tensor in ours.items())


@pytest.mark.slow
def test_a_resumed_run_keeps_its_settings(call):
    assert call(*TINY, *SMALL, "--out", "run")[0] == 0
    status, _, err = call("--resume", "--out", "run", "--steps", "9", "--seed", "0", "--preset", "paper")
    assert (status, err.count("\n")) == (2, 1)
    assert "--augment" in err
    assert "--steps" in err
    assert "--seed" not in err


@pytest.mark.slow
def test_every_setting_reaches_the_run(call):
    pixels = {"data": "phantom:40", "image_size": 32, "channels": 1, "fit": "pad"}
    learning = {"steps": 2, "batch_size": 5, "learning_rate": 0.01, "schedule": "steps", "weight_decay": 0.1}
    learning |= {"ema_decay": 0.5, "augment": "none", "val_fraction": 0.2, "transfer": "encoder"}
    words = {"task": "classification", "labels": 20, "seed": 3, "width": 4, "norm": "group", "device": "cpu"}
    words |= pixels | learning
    flags = [word for name, value in words.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert call(*flags, "--tta", "--skip-bad", "--no-class-weights", "--out", "run")[0] == 0
    settings = json.loads(Path("run/config.json").read_text())["settings"]
    assert (
        settings == FinetuneSettings(**words, tta=True, skip_bad=True, class_weights=False, precision="fp32").as_dict()
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--task", "detection"], "--task detection is unknown"),
        (["--labels", "0"], "--labels 0 must be 1 or more"),
        (["--labels", "x"], "--labels x is neither a number nor all"),
        (["--labels", "²"], "--labels ² is neither a number nor all"),
        (["--labels", "33"], "--labels 33: phantom:40 has 32 labelled images"),
        (["--task", "classification", "--labels", "1"], "ask for more --labels"),
        (["--from", "nowhere"], "nowhere: no such run or file"),
        (["--data", "nowhere"], "nowhere: no such file or folder"),
        (["--preset", "papre"], "--preset papre is unknown"),
        (["--augment", "mixup"], "--augment mixup is unknown"),
        (["--val-fraction", "0.01"], "--val-fraction 0.01 of 32 images leaves none"),
        (["--width", "3"], "width 3 must be an even number"),
        (["--norm", "layer"], "norm 'layer' is unknown"),
        (["--image-size", "8"], "--image-size 8 is too small"),
        (["--device", "gpu"], "--device gpu is not on this machine"),
        (["--model", "vgg16"], "--model vgg16 classifies"),
        (["--task", "classification", "--crop-with", "nowhere"], "nowhere: no such file"),
        (
            ["--task", "classification", "--model", "vgg16", "--image-size", "32", "--weights", "nowhere.pth"],
            "nowhere.pth: no such file",
        ),
        (["--resume"], "holds no run to resume"),
        (["--learning-rate", "1e36"], "lower --learning-rate"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(call, words: list[str], text: str):
    status, _, err = call(*TINY, *([] if "vgg16" in words else SMALL), "--out", "run", *words)
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("error: ")
    assert text in err
    assert not Path("run/model.safetensors").exists()


def test_measures_are_named_for_people_of_one_class_too():
    assert measure_name("hd95") == "HD95, pixels"
    assert measure_name("hd95 2") == "HD95 2, pixels"
    assert measure_name("dice 2") == "Dice 2"
    assert measure_name("sensitivity left lung") == "sensitivity left lung"


def test_resume_needs_a_run(call):
    status, _, err = call("--resume")
    assert (status, err.count("\n")) == (2, 1)
    assert "--resume needs --out RUN" in err


def test_what_a_run_has_decided_cannot_be_chosen_otherwise(call, pretrained: Path):
    for flag, value, decided in (("--image-size", "32", "16"), ("--width", "4", "2"), ("--channels", "1", "3")):
        status, _, err = call(*TINY, "--from", str(pretrained), flag, value, "--out", "run")
        assert (status, err.count("\n")) == (2, 1)
        assert f"was pretrained with {decided}; leave {flag} out" in err
    assert not Path("run").exists()


@pytest.mark.slow
def test_a_place_that_is_taken_is_refused(call, pretrained: Path):
    assert call(*TINY, *SMALL, "--out", "run")[0] == 0
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    for out, words, text in (
        ("run", [], "holds this run already; add --resume"),
        ("run", ["--seed", "1"], "holds a run with another --seed; choose another --out"),
        ("full", [], "is not an empty directory and holds no run"),
        ("file", [], "is a file"),
        (str(pretrained), [], "choose another --out"),
    ):
        status, _, err = call(*TINY, *SMALL, "--out", out, *words)
        assert (status, err.count("\n")) == (2, 1)
        assert text in err


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--labels", "5000"], ["--width", "3"], ["--val-fraction", "0.01"]])
def test_a_run_that_could_not_begin_leaves_its_place_free(call, words: list[str]):
    assert call(*TINY, *SMALL, *words, "--out", "run")[0] == 2
    assert call(*TINY, *SMALL, "--out", "run")[0] == 0


@pytest.mark.slow
def test_images_that_have_changed_are_refused(call, write_source):
    root = write_source()
    words = ["--data", str(root), "--steps", "2", "--batch-size", "2", "--device", "cpu", *SMALL]
    assert call(*words, "--out", "run")[0] == 0
    Path("run/test.json").unlink()
    os.utime(root / "images" / "00.png", ns=(5, 5))
    assert call("--resume", "--out", "run")[0] == 0  # as after a copy: what they hold is the same
    Path("run/test.json").unlink()
    shutil.copy(root / "images" / "01.png", root / "images" / "00.png")
    shutil.copy(root / "masks" / "01.png", root / "masks" / "00.png")
    status, _, err = call("--resume", "--out", "run")
    assert (status, err.count("\n")) == (2, 1)
    assert "have changed since this run began" in err


def test_nothing_to_test_on_is_told_before_learning(call, write_source):
    root = write_source(splits=("train",) * 4)
    status, out, _ = call(
        "--data", str(root), "--steps", "2", "--batch-size", "2", "--device", "cpu", *SMALL, "--out", "run"
    )
    assert status == 0
    assert "warning: no test or val split with masks: nothing will be tested" in out
    assert "tested on" in out
    assert "cases.png" not in out


@pytest.mark.slow
def test_a_classifier_of_lesions_keeps_its_segmenter(call, write_source):
    root = write_source(classes=("mel", "nev"))
    words = ["--data", str(root), "--steps", "2", "--batch-size", "4", "--device", "cpu", *SMALL]
    assert call(*words, "--out", "segmenter")[0] == 0
    words += ["--task", "classification"]
    assert call(*words, "--crop-with", "segmenter", "--out", "run")[0] == 0
    kept, given = load_tensors(Path("run/segmenter.safetensors")), load_tensors(Path("segmenter/model.safetensors"))
    assert kept[1] == given[1]
    assert all((tensor == given[0][name]).all() for name, tensor in kept[0].items())
    assert Model.load(Path("run")).spec.cropped
    assert call(*words, "--out", "plain")[0] == 0
    assert not Path("plain/segmenter.safetensors").exists()
    assert not Model.load(Path("plain")).spec.cropped
    status, _, err = call(*words, "--crop-with", "run", "--out", "other")
    assert (status, err.count("\n")) == (2, 1)
    assert "holds a classifier, not a segmenter" in err
    for flag, value, remedy in (("--window", "soft", "leave out --window"), ("--axis", "coronal", "add --axis axial")):
        status, _, err = call(*words, "--crop-with", "segmenter", flag, value, "--out", "other")
        assert (status, err.count("\n")) == (2, 1)  # it would look at other pixels than it has learned on
        assert "it segments with" in err
        assert remedy in err


@pytest.mark.slow
def test_the_segmenter_kept_is_the_one_that_cut_the_images(call, write_source, monkeypatch):
    """Though its file is replaced, or gone, when the run ends."""
    root = write_source(classes=("mel", "nev"))
    words = ["--data", str(root), "--steps", "2", "--batch-size", "4", "--device", "cpu", *SMALL]
    assert call(*words, "--out", "segmenter")[0] == 0
    given, train = load_tensors(Path("segmenter/model.safetensors"))[0], Finetuning.train

    def forget(run):
        train(run)
        Path("segmenter/model.safetensors").unlink()

    monkeypatch.setattr(Finetuning, "train", forget)
    assert call(*words, "--task", "classification", "--crop-with", "segmenter", "--out", "run")[0] == 0
    kept = load_tensors(Path("run/segmenter.safetensors"))[0]
    assert all((tensor == given[name]).all() for name, tensor in kept.items())
