"""A directory that says what made it: what is refused, and what is left alone."""

from pathlib import Path

import pytest
from filelock import FileLock

from ahm_env.errors import RunError, SettingsError
from ahm_env.runs.owned_directory import OwnedDirectory, check_json


def make(path: Path) -> OwnedDirectory:
    return OwnedDirectory(path, "about.json", "predictions")


def test_the_same_settings_go_on_and_others_are_named(tmp_path: Path) -> None:
    for _ in range(2):
        with make(tmp_path / "out") as directory:
            directory.write_or_check({"model": "a", "tta": False})
    assert make(tmp_path / "out").read() == {"model": "a", "tta": False}
    with (
        make(tmp_path / "out") as directory,
        pytest.raises(RunError, match="predictions with another model, tta; give"),
    ):
        directory.write_or_check({"model": "b", "tta": True})
    assert make(tmp_path / "out").read() == {"model": "a", "tta": False}


def test_what_others_made_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for path in (tmp_path, tmp_path / "thesis.txt"):
        with pytest.raises(RunError, match="is not an empty directory and holds no predictions"), make(path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with make(tmp_path):
        pass
    with FileLock(tmp_path / ".lock"), pytest.raises(RunError, match="another process"), make(tmp_path):
        pass
    with make(tmp_path):  # a lock that was left is none
        pass


@pytest.mark.parametrize("content", ["{", "7"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "about.json").write_text(content)
    with pytest.raises(RunError, match=r"about\.json: damaged"):
        make(tmp_path).read()


@pytest.mark.parametrize("name", ["config.json", "test.json", "mask_evaluation.json", "unet.safetensors"])
def test_a_slip_overwrites_no_file_of_a_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(SettingsError, match=r"belongs to the run .*give another name|must end in \.json"):
        check_json(tmp_path / name)
    check_json(tmp_path / "hardness.json")
    check_json(tmp_path / "elsewhere" / "test.json")
