"""The run directory: what is written, what is read back, and who may hold it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.pretraining.run_directory import COLUMNS, RunDirectory
from agents.pretraining.settings import RunSettings
from ahm_env import CheckpointError, RunError
from ahm_env.files import occupied, read_rows, save_tensors
from ahm_env.runs.directory import Checkpoint, Row, free_directory

IMAGES = {"source": "phantom:40:0", "count": 40, "content_key": "abc"}


def row(images: int, **numbers: float) -> Row:
    """A row in which every number can be told from every other."""
    return (
        {name: images + place / 8 for place, name in enumerate(COLUMNS)}
        | {"images": images, "unet_updates": images + 1}
        | numbers
    )


def events(path: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    found = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def checkpoint(images: int) -> Checkpoint:
    return Checkpoint(images, {"agent/weight": torch.full((3,), float(images))}, {"seconds": images / 2})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a run is to be."""
    return tmp_path / "runs" / "first"


# ---------------------------------------------------------------- config.json


def test_the_config_has_settings_images_versions_and_commit(path: Path) -> None:
    settings = RunSettings(seed=5, agent={"gamma": 0.9})
    with RunDirectory(path) as run:
        assert run.settings() is None
        run.write_config(settings, IMAGES)
        assert run.settings() == settings
        assert run.content_key() == "abc"
    config = json.loads((path / "config.json").read_text())
    assert config["settings"] == settings.as_dict()
    assert config["images"] == IMAGES
    assert config["versions"]["python"] == sys.version.split()[0]
    assert config["versions"]["torch"] == torch.__version__
    assert re.match(r"\d+\.", config["versions"]["numpy"])
    assert {"ahm-env", "gymnasium"} <= set(config["versions"])
    assert isinstance(config["command"], list)
    assert config["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}", config["git_commit"])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": 3}', '{"settings": {"seeds": 1}}', "\x00\xff"])
def test_a_damaged_config_is_refused_by_name(path: Path, content: str) -> None:
    with RunDirectory(path) as run:
        (path / "config.json").write_text(content, encoding="latin-1")
        with pytest.raises(RunError, match=r"config\.json: .*--out"):
            run.settings()


def test_a_config_with_a_value_of_another_kind_is_refused_by_name(path: Path) -> None:
    with RunDirectory(path) as run:
        run.write_config(RunSettings(), IMAGES)
        config = json.loads((path / "config.json").read_text())
        config["settings"]["images"] = "many"
        (path / "config.json").write_text(json.dumps(config))
        with pytest.raises(RunError, match=r"config\.json"):
            run.settings()


def test_of_a_run_that_is_only_read_the_remedy_is_another_directory(path: Path) -> None:
    remedy = "give the directory that `ahm train-agent` wrote"
    with pytest.raises(RunError, match=f"holds no run; {remedy}"):
        RunDirectory.open(path)
    with RunDirectory(path) as run:
        run.write_config(RunSettings(seed=3), {"count": 4})
    directory, settings = RunDirectory.open(path)
    assert settings.seed == 3
    with pytest.raises(RunError, match=rf"config\.json: damaged .*; restore it, or {remedy}$"):
        directory.content_key()
    for text, why in (
        ("{", "damaged .*; restore it, or"),
        ('{"settings": {"augment": 1}}', "another command .*augment.*;"),
    ):
        (path / "config.json").write_text(text)
        with pytest.raises(RunError, match=rf"config\.json: {why} {remedy}$"):
            RunDirectory.open(path)


# ---------------------------------------------------------------- rows


def test_rows_are_written_under_the_agreed_header(path: Path) -> None:
    with RunDirectory(path) as run:
        run.add(row(100))
        run.add(row(200, hardness_sampled=float("nan"), seconds=1 / 3, reward=123456.789))
    lines = (path / "metrics.csv").read_text().splitlines()
    assert lines[0] == (
        "images,seconds,images_per_second,unet_loss,reward,hardness_sampled,hardness_likeliest,entropy,agent_share,"
        "mask_ratio,policy_loss,value_loss,unet_updates,reference_hardness_sampled,reference_hardness_likeliest,"
        "staleness,refused"
    )
    assert lines[1] == (
        "100,100.125,100.25,100.375,100.5,100.625,100.75,100.875,101,101.125,101.25,101.375,101,101.625,101.75,101.875,"
        "102"
    )
    assert lines[2] == (
        "200,0.333333,200.25,200.375,123457,nan,200.75,200.875,201,201.125,201.25,201.375,201,201.625,201.75,201.875,"
        "202"
    )
    assert len(lines) == 3


def test_a_large_number_of_images_is_written_in_full(path: Path) -> None:
    with RunDirectory(path) as run:
        run.add(row(123_456_789))
    assert [read["images"] for read in read_rows(path / "metrics.csv")] == ["123456789"]


def test_tensorboard_shows_the_same_rows(path: Path) -> None:
    rows = [row(100), row(200), row(300)]
    with RunDirectory(path) as run:
        run.write_config(RunSettings(), IMAGES)
        for one in rows:
            run.add(one)
    found = events(path)
    assert set(found) == set(COLUMNS) - {"images"}
    for name, points in found.items():
        assert [step for step, _ in points] == [100, 200, 300]
        assert [value for _, value in points] == pytest.approx([one[name] for one in rows], rel=1e-6)


def test_rows_are_there_before_the_run_ends(path: Path) -> None:
    with RunDirectory(path) as run:
        run.add(row(100))
        assert len((path / "metrics.csv").read_text().splitlines()) == 2
        assert [step for step, _ in events(path)["reward"]] == [100]


def _steps(path: Path) -> tuple[list[int], list[int]]:
    written = [int(read["images"]) for read in read_rows(path / "metrics.csv")]
    return written, [step for step, _ in events(path).get("reward", [])]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_resumed_run_cuts_its_rows_back_and_goes_on(path: Path, kept: int) -> None:
    rows = [row(100), row(200), row(300)]
    with RunDirectory(path) as run:
        run.write_config(RunSettings(), IMAGES)
        for one in rows:
            run.add(one)
    with RunDirectory(path) as run:
        run.restore(rows[:kept], 10**9)
        assert _steps(path) == ([100, 200][:kept], [100, 200][:kept])
        run.add(row(250))
        assert run.rows == [*rows[:kept], row(250)]
    assert _steps(path) == ([*[100, 200][:kept], 250], [*[100, 200][:kept], 250])


def test_rows_can_be_cut_back_while_the_run_is_open(path: Path) -> None:
    with RunDirectory(path) as run:
        for images in (100, 200):
            run.add(row(images))
        run.restore(run.rows[:1], 10**9)
        run.add(row(150))
    assert _steps(path) == ([100, 150], [100, 150])


# ---------------------------------------------------------------- checkpoints


def test_the_newest_checkpoint_comes_back_whole(path: Path) -> None:
    with RunDirectory(path) as run:
        assert run.latest() is None
        run.add(row(100))
        for images in (90, 900, 1000):  # 1000 would come before 900 if names were not padded
            run.save(checkpoint(images))
        found = run.latest()
    assert found is not None
    assert found.images == 1000
    assert found.about["seconds"] == 500
    assert found.about["rows"] == [row(100)]
    assert torch.equal(found.tensors["agent/weight"], torch.full((3,), 1000.0))


def test_rows_without_a_number_come_back_from_a_checkpoint(path: Path) -> None:
    with RunDirectory(path) as run:
        run.add(row(100, policy_loss=float("nan")))
        run.save(checkpoint(100))
        found = run.latest()
        assert found is not None
        run.restore(found.about["rows"], 100)
    assert (path / "metrics.csv").read_text().splitlines()[1].endswith(",nan,101.375,101,101.625,101.75,101.875,102")


def test_two_checkpoints_are_kept(path: Path) -> None:
    with RunDirectory(path) as run:
        for images in (100, 200, 300, 400):
            run.save(checkpoint(images))
    kept = sorted(file.name for file in (path / "checkpoints").iterdir())
    assert kept == ["000000000300.safetensors", "000000000400.safetensors"]


def test_saving_twice_at_the_same_place_keeps_the_one_before(path: Path) -> None:
    with RunDirectory(path) as run:
        for images in (100, 200, 200):
            run.save(checkpoint(images))
    assert len(list((path / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut short", "a byte is another", "empty"])
def test_a_damaged_checkpoint_is_named_with_the_remedy_and_the_remedy_works(path: Path, damage: str) -> None:
    with RunDirectory(path) as run:
        run.save(checkpoint(1100))
        run.save(checkpoint(2200))
        file = path / "checkpoints" / "000000002200.safetensors"
        whole = file.read_bytes()
        file.write_bytes({"cut short": whole[:-5], "a byte is another": whole[:-1] + b"\x55", "empty": b""}[damage])
        with pytest.raises(CheckpointError) as caught:
            run.latest()
        text = str(caught.value)
        assert text.startswith(f"{file}: damaged")
        assert "delete this file to go on from 1,100 images" in text
        assert "\n" not in text
        file.unlink()
        found = run.latest()
        assert found is not None
        assert found.images == 1100


def test_a_damaged_checkpoint_that_is_the_only_one_means_to_start_again(path: Path) -> None:
    with RunDirectory(path) as run:
        run.save(checkpoint(1100))
        (path / "checkpoints" / "000000001100.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"delete this file to start again"):
            run.latest()


def test_a_file_that_is_no_checkpoint_is_refused(path: Path) -> None:

    with RunDirectory(path) as run:
        save_tensors(path / "checkpoints" / "000000000100.safetensors", {"weight": torch.zeros(1)}, {})
        with pytest.raises(CheckpointError, match=r"000000000100\.safetensors: not a checkpoint"):
            run.latest()


def test_what_a_kill_left_half_written_is_not_a_checkpoint(path: Path) -> None:
    with RunDirectory(path) as run:
        run.save(checkpoint(100))
        for name in (".000000000200.safetensors.123.tmp", "000000000200.safetensors.tmp", ".200.safetensors"):
            (path / "checkpoints" / name).write_bytes(b"half")
        found = run.latest()
        assert found is not None
        assert found.images == 100
        run.save(checkpoint(300))
        found = run.latest()
        assert found is not None
        assert found.images == 300


def test_a_kill_while_a_checkpoint_is_written_leaves_the_older_ones(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise KilledError

    with RunDirectory(path) as run:
        run.save(checkpoint(100))
        run.save(checkpoint(200))
        with monkeypatch.context() as patch:
            patch.setattr("os.replace", killed)
            with pytest.raises(KilledError):
                run.save(checkpoint(300))
        found = run.latest()
        assert found is not None
        assert found.images == 200


# ---------------------------------------------------------------- whose it is


def test_a_directory_is_made_with_its_parents(path: Path) -> None:
    assert not occupied(path)
    with RunDirectory(path) as run:
        assert path.is_dir()
        assert not occupied(path)  # the lock does not count
        run.write_config(RunSettings(), IMAGES)
        assert occupied(path)


def test_a_directory_that_is_held_is_refused(path: Path) -> None:
    with RunDirectory(path), pytest.raises(RunError, match=r"first: another process.*--out"), RunDirectory(path):
        pass
    with RunDirectory(path):
        pass  # free again


def test_a_directory_that_another_process_holds_is_refused_until_that_is_gone(path: Path) -> None:
    path.mkdir(parents=True)
    program = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunError, match=r"another process is working in it"), RunDirectory(path):
            pass
        other.kill()
        other.wait()
    with RunDirectory(path):
        pass  # a process that was killed holds nothing


def test_an_error_within_frees_the_directory(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunDirectory(path):
        raise ZeroDivisionError
    with RunDirectory(path):
        pass


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file: is a file"):
        RunDirectory(tmp_path / "file")
    with pytest.raises(RunError, match=r"file is a file, so there can be no directory in it"):
        RunDirectory(tmp_path / "file" / "deeper" / "run")


def test_the_first_free_number_is_taken(tmp_path: Path) -> None:
    assert free_directory(tmp_path, "a3c-phantom") == tmp_path / "a3c-phantom-1"
    for name in ("a3c-phantom-1", "a3c-phantom-2", "a3c-phantom-4"):
        (tmp_path / name).mkdir()
    assert free_directory(tmp_path, "a3c-phantom") == tmp_path / "a3c-phantom-3"


def test_a_row_that_lacks_a_column_is_not_written(tmp_path: Path) -> None:
    row = dict.fromkeys(COLUMNS, 1.0)
    with RunDirectory(tmp_path / "run") as run:
        run.add(row)
        before = (tmp_path / "run" / "metrics.csv").read_text()
        with pytest.raises(KeyError, match="reward"):
            run.add({name: one for name, one in row.items() if name != "reward"})
        assert (tmp_path / "run" / "metrics.csv").read_text() == before
