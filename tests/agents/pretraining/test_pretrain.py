"""Pretraining from Python: what a call gives back, and what it raises."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from agents import A3C, AGENTS, pretrain
from ahm_env import RunError, SettingsError

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
    with pytest.raises(TypeError, match="total"):
        pretrain(total=3)
    with pytest.raises(RunError, match="holds no run to resume"):
        pretrain(out=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_an_interruption_is_raised_and_saved(tmp_path: Path, stopping: Any) -> None:
    with pytest.raises(RunError, match="stopped by SIGINT; all is saved"):
        pretrain("phantom:40", tmp_path / "run", algo="random", device="cpu", observer=stopping, **TINY)
    assert pretrain(out=tmp_path / "run", resume=True).metrics["images"] == 16


def test_the_registry_is_what_the_package_shows() -> None:
    assert "a3c" in AGENTS
