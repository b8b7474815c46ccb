"""Pretraining from Python: what a call gives back, and what it raises."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.torch import load_file

from agents import A3C, AGENTS, pretrain
from ahm_env import RunError, SettingsError, load_images
from ahm_env.runs.observer import Silent

TINY: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 4,
    "width": 2,
    "batch_size": 4,
    "total_images": 16,
    "workers": 1,
}


def same_weights(one: Path, other: Path) -> bool:
    """Bit for bit; the order of names within the files is not kept."""
    first, second = load_file(one), load_file(other)
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_a_run_from_python_is_that_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ahm

    run = pretrain("phantom:40", tmp_path / "run", algo="a3c", device="cpu", **TINY)
    assert capsys.readouterr() == ("", "")  # nothing is printed
    assert run.path == tmp_path / "run"
    assert run.settings.algo == "a3c"
    assert run.metrics["images"] == 16
    assert isinstance(run.load_agent(), A3C)
    flags = [word for key, value in TINY.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words = ["train-agent", "--data", "phantom:40", "--device", "cpu", *flags, "--out", "same"]
    assert ahm.app(words, standalone_mode=False) in (0, None)
    assert same_weights(run.unet, Path("same/unet.safetensors"))

    again = pretrain(out=run.path, resume=True)  # it is finished, and stays as it is
    assert (again.path, again.settings) == (run.path, run.settings)


@pytest.mark.slow
def test_without_a_place_of_its_own_a_run_gets_a_new_one() -> None:
    first, second = (pretrain("phantom:40", algo="random", device="cpu", **TINY) for _ in range(2))
    assert (first.path, second.path) == (Path("runs/random-phantom-1"), Path("runs/random-phantom-2"))


def test_what_does_not_fit_is_raised(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--preset huge is unknown"):
        pretrain(preset="huge")
    with pytest.raises(SettingsError, match="there is no setting total; see the fields of RunSettings"):
        pretrain(total=3)
    with pytest.raises(RunError, match="holds no run to resume"):
        pretrain(out=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"algo": "a2c", "batch_size": 1, "norm": "group"}, "a2c needs 2 images or more an update"),
        (
            {"algo": "ppo", "batch_size": 1, "norm": "group", "agent": {"n_steps": 4}},
            "ppo needs 2 images or more a minibatch",
        ),
        (
            {"algo": "ppo", "horizon": 3, "agent": {"own_weight": 1, "n_steps": 4}},
            "n_steps 4 must be a multiple of the horizon",
        ),
        (
            {"algo": "a3c", "wrapper": "gymnasium.wrappers.vector:FlattenObservation"},
            "FlattenObservation: cannot be put around the environment",
        ),
    ],
)
@pytest.mark.parametrize("schedule", ["joint", "staged"])
def test_what_cannot_learn_is_refused_before_the_run_begins_and_leaves_its_place_free(
    tmp_path: Path, settings: dict[str, Any], text: str, schedule: str
) -> None:
    updates = list[int]()

    class Counting(Silent):
        def on_update(self, images: int, loss: float) -> None:
            updates.append(images)

    given = {**TINY, "total_images": 48, **settings, "schedule": schedule}
    with pytest.raises(SettingsError, match=text):
        pretrain("phantom:40", tmp_path / "run", device="cpu", observer=Counting(), **given)
    assert updates == []
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_an_interruption_is_raised_and_saved(tmp_path: Path, stopping: Any) -> None:
    with pytest.raises(RunError, match="stopped by SIGINT; all is saved"):
        pretrain("phantom:40", tmp_path / "run", algo="random", device="cpu", observer=stopping, **TINY)
    assert pretrain(out=tmp_path / "run", resume=True).metrics["images"] == 16


@pytest.mark.slow
def test_a_run_in_a_thread_is_one_like_any_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as threads:
        run = threads.submit(pretrain, "phantom:40", tmp_path / "run", **TINY).result()
    assert run.metrics["images"] == 16


def test_the_registry_is_what_the_package_shows() -> None:
    assert "a3c" in AGENTS


def negative(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A function of one's own between `load_images` and `pretrain`."""
    return 255 - images


@pytest.mark.slow
def test_images_that_are_loaded_and_changed_on_the_way(tmp_path: Path) -> None:
    given = {name: value for name, value in TINY.items() if name not in ("data", "image_size")}
    images = load_images("phantom:40", TINY["image_size"])
    named = pretrain("phantom:40", tmp_path / "named", image_size=TINY["image_size"], algo="random", **given)
    loaded = pretrain(images, tmp_path / "loaded", algo="random", **given)
    assert loaded.settings.data == "phantom:40"
    assert same_weights(loaded.unet, named.unet)
    changed = images.mapped(negative)
    assert (changed.images([0, 3]) == 255 - images.images([0, 3])).all()
    assert (pickle.loads(pickle.dumps(changed)).images(0) == changed.images(0)).all()  # as workers get it
    assert changed.standardisation([0])[0] == pytest.approx(255 - images.standardisation([0])[0], abs=1e-4)
    other = pretrain(changed, tmp_path / "changed", algo="random", **given)
    assert not same_weights(other.unet, named.unet)
    with pytest.raises(RunError, match="have changed since this run began"):
        pretrain(images, tmp_path / "changed", resume=True)
    with pytest.raises(SettingsError, match="image_size 32: the images have 16; load them otherwise"):
        pretrain(images, tmp_path / "other", image_size=32)
