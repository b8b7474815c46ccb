"""From an archive's export to masks, as a hospital's engineer would go; and what is private stays where it was."""

import re
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from tests.hospital import BROKEN, Hospital, build, build_volumes

SMALL = ("--image-size", "16", "--patch-size", "4", "--width", "4", "--batch-size", "4", "--workers", "1")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever wants to connect anywhere fails."""

    def refuse(*where: object) -> None:
        raise AssertionError(f"a connection was tried: {where}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def run(call):
    """Runs a command that must end with this status; keeps what it said."""

    def command(status: int, *words: str) -> str:
        found, out, err = call(*words)
        command.said.append(out + err)
        assert found == status, (words, out, err)
        return out + err

    command.said = []
    return command


def assert_untold(secrets: Iterable[str], said: Iterable[str], top: Path, written: list[Path]) -> None:
    """None of these words is in what was said, in the names of files below `top`, or in any byte of these files."""
    parts = {part.lower().encode() for word in secrets for part in word.split("^")}
    names = [str(path.relative_to(top)) for path in written]
    texts = [(text[:80], text.lower().encode()) for text in (*said, *names)]
    for where, content in (*texts, *((path, path.read_bytes().lower()) for path in written)):
        assert not [(where, part) for part in parts if part in content]


@pytest.fixture
def hospital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hospital:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return build(tmp_path / "archive")


@pytest.mark.slow
def test_from_raw_files_to_a_segmenter_with_nothing_private_anywhere(run, hospital: Hospital, tmp_path: Path) -> None:
    checked = run(2, "data", "check", "archive")
    assert f"{BROKEN} problems" in checked
    assert re.search(r"patients\W+40\b", checked)
    run(2, "train-agent", "--data", "archive", "--out", "runs/refused", *SMALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "archive").rglob("*") if path.is_file()}
    run(0, "data", "split", "archive", "--train", "0.7", "--val", "0.1", "--test", "0.2", "--skip-bad")
    options = ("--data", "archive", "--skip-bad")
    trained = run(0, "train-agent", *options, "--total-images", "64", "--out", "runs/pretrained", *SMALL)
    assert re.search(
        r"images left out, for they show nothing, or their headers say that text is burned in: \d", trained
    )
    run(0, "finetune", "--from", "runs/pretrained", *options, "--labels", "25", "--steps", "30", "--out", "runs/tuned")
    outputs = ("--out", "evaluated.json", "--page", "evaluated.html", "--pictures", "pictures")
    run(0, "evaluate", "--from", "runs/tuned", *options, *outputs)
    run(0, "report", "runs/pretrained", "--out", "report.html")
    run(0, "data", "show", "archive", "--out", "sheet.png", "--skip-bad")
    run(1, "predict", "--from", "runs/tuned", "archive/images", "--out", "found")

    segmentations = list((tmp_path / "found" / "masks").glob("*.seg.dcm"))
    assert len(segmentations) == hospital.images
    archive = tmp_path / "archive"
    written = [path for path in tmp_path.rglob("*") if not path.is_relative_to(archive) and path.is_file()]
    assert len(written) > 100
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert_untold(hospital.secrets, run.said, tmp_path, [path for path in written if path not in segmentations])
    assert_untold(hospital.secrets, map(str, segmentations), tmp_path, [])


@pytest.mark.slow
def test_names_of_volumes_stay_where_they_were(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    secrets = build_volumes(tmp_path / "scans")
    run(2, "data", "check", "scans")
    options = ("--data", "scans", "--skip-bad")
    run(0, "data", "split", "scans", "--skip-bad")
    run(0, "train-agent", *options, "--total-images", "64", "--out", "runs/pretrained", *SMALL)
    run(0, "finetune", "--from", "runs/pretrained", *options, "--labels", "25", "--steps", "10", "--out", "runs/tuned")
    outputs = ("--out", "evaluated.json", "--page", "evaluated.html", "--pictures", "pictures")
    run(0, "evaluate", "--from", "runs/tuned", *options, *outputs)
    run(0, "report", "runs/pretrained", "--out", "report.html")
    run(0, "data", "show", "scans", "--out", "sheet.png", "--skip-bad")
    written = [path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "scans") and path.is_file()]
    assert len(written) > 20
    assert_untold(secrets, run.said, tmp_path, written)


@pytest.mark.slow
def test_the_secrets_are_there_to_be_found(hospital: Hospital) -> None:
    content = b"".join(path.read_bytes() for path in hospital.root.rglob("*") if path.is_file())
    paths = " ".join(map(str, hospital.root.rglob("*")))
    assert all(word.encode() in content for word in hospital.secrets)
    assert any(word.replace("^", "_") in paths for word in hospital.secrets)
