"""Fine-tuning from Python: what a call gives back, and what it raises."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from agents import PretrainedRun
from agents.pretraining.run_directory import RunDirectory
from ahm_env import CheckpointError, ImageError, RunError, SettingsError
from ahm_env.errors import InterruptionError
from downstream import evaluate, finetune

pytestmark = pytest.mark.usefixtures("own_cache")

TINY: dict[str, Any] = {"steps": 2, "batch_size": 2, "augment": "none", "labels": 8, "device": "cpu"}


def same_weights(one: Path, other: Path) -> bool:
    """Bit for bit; the order of names within the files is not kept."""
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.slow
def test_a_model_from_python_is_that_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ahm

    model = finetune("scratch", "phantom:40:0", tmp_path / "run", image_size=16, width=2, **TINY)
    assert capsys.readouterr() == ("", "")  # nothing is printed
    assert model.path == tmp_path / "run"
    assert model.settings.labels == 8
    assert dict(model.result) == json.loads((tmp_path / "run" / "test.json").read_text())
    assert 0 <= model.result["dice"] <= 1
    shares = model.load().probabilities(np.zeros((1, 3, 16, 16), np.uint8))
    assert shares.shape == (1, 2, 16, 16)
    flags = [word for key, value in TINY.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words = ["finetune", "--data", "phantom:40:0", "--image-size", "16", "--width", "2", *flags, "--out", "same"]
    assert ahm.app(words, standalone_mode=False) in (0, None)
    assert same_weights(model.path / "model.safetensors", Path("same/model.safetensors"))

    again = finetune(out=model.path, resume=True)  # it is finished, and stays as it is
    assert (again.path, again.settings, again.result) == (model.path, model.settings, model.result)


@pytest.mark.slow
def test_a_pretrained_run_is_a_start(tmp_path: Path, pretrained: Path) -> None:
    settings = RunDirectory(pretrained).settings()
    assert settings is not None
    one = finetune(PretrainedRun(pretrained, settings), "phantom:40:0", tmp_path / "one", **TINY)
    two = finetune(pretrained, "phantom:40:0", tmp_path / "two", **TINY)
    assert one.settings == two.settings
    assert one.settings.width == settings.width
    assert one.result == two.result


@pytest.mark.slow
def test_a_start_is_the_same_with_a_slash_and_all_labels_are_not_some(tmp_path: Path, pretrained: Path) -> None:
    import ahm

    finetune(f"{pretrained}/", "phantom:40:0", tmp_path / "run", **TINY)
    words = ["finetune", "--resume", "--out", str(tmp_path / "run")]
    for start in (f"{pretrained}/", str(pretrained)):
        assert ahm.app([*words, "--from", start, "--labels", "8"], standalone_mode=False) in (0, None)
    assert finetune(out=tmp_path / "run", resume=True).settings.start == str(pretrained)
    with pytest.raises(RunError, match="other settings than --from;"):
        finetune("scratch", out=tmp_path / "run", resume=True)
    with pytest.raises(RunError, match="other settings than --labels;"):
        ahm.app([*words, "--labels", "all"], standalone_mode=False)


def test_what_does_not_fit_is_raised(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--labels 0"):
        finetune("scratch", "phantom:40:0", tmp_path / "run", labels=0)
    with pytest.raises(CheckpointError, match="nowhere: no such run"):
        finetune("nowhere", "phantom:40:0", tmp_path / "run")
    with pytest.raises(RunError, match="needs --out"):
        finetune(resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_interruption_is_raised_and_saved(tmp_path: Path, stopping: Any) -> None:
    given = {"image_size": 16, "width": 2, **TINY}
    with pytest.raises(RunError, match="stopped by SIGINT; all is saved"):
        finetune("scratch", "phantom:40:0", tmp_path / "run", observer=stopping, **given)
    stopped = finetune(out=tmp_path / "run", resume=True)
    straight = finetune("scratch", "phantom:40:0", tmp_path / "straight", **given)
    assert same_weights(stopped.path / "model.safetensors", straight.path / "model.safetensors")


@pytest.mark.slow
def test_a_number_to_be_ignored_is_the_runs_the_models_and_that_of_its_resumption(
    tmp_path: Path, write_source: Any, stopping: Any
) -> None:
    source = write_source(values=(0, 1, 255))
    given = {**TINY, "labels": "all", "image_size": 16, "width": 2, "ignore": 255}
    model = finetune(data=source, out=tmp_path / "one", **given)
    spec = model.load().spec
    assert (spec.values, spec.classes, spec.ignore) == ((0, 1), ("background", "foreground"), 255)
    assert evaluate(model, source).as_dict()["dice"] == model.result["dice"]
    with pytest.raises(InterruptionError):
        finetune(data=source, out=tmp_path / "two", observer=stopping, **given)
    with pytest.raises(RunError, match="other settings than --ignore"):
        finetune(out=tmp_path / "two", resume=True, ignore=7)
    resumed = finetune(out=tmp_path / "two", resume=True)
    assert resumed.settings.ignore == 255
    assert same_weights(model.path / "model.safetensors", resumed.path / "model.safetensors")
    other = finetune(data=source, out=tmp_path / "three", **{**given, "ignore": None})
    assert other.load().spec.classes == ("background", "1", "255")


def test_what_cannot_be_ignored(tmp_path: Path, write_source: Any) -> None:
    given = {**TINY, "labels": "all", "image_size": 16, "width": 2}
    for ignore, classes, words in ((0, None, "from 1 to 255"), (256, None, "from 1"), (2, "0,1,2", "among --classes")):
        with pytest.raises(SettingsError, match=f"--ignore {ignore} .*{words}"):
            finetune(data="phantom", out=tmp_path / "run", ignore=ignore, classes=classes, **given)
    with pytest.raises(ImageError, match="masks hold only 0 and 255, which is to be ignored"):
        finetune(data=write_source(values=(0, 255)), out=tmp_path / "run", ignore=255, **given)
