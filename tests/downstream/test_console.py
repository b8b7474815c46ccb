"""Comparisons, judgements and reports as a person types them."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ahm

TINY = ["--data", "phantom:80", "--image-size", "32", "--width", "4", "--batch-size", "4", "--images", "32"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `ahm` in this process: status, output, errors."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ahm", *words])
        with pytest.raises(SystemExit) as ended:
            ahm.main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_comparison_grows_keeps_what_is_done_and_outlives_a_failure(call):
    words = ["compare-agents", *TINY, "--seeds", "1", "--jobs", "2", "--out", "cmp", "--algos"]
    status, out, _ = call(*words, "random,a3c+agent_learning_rate=1e30")
    assert status == 1  # the second one failed, and is told with its reason
    assert "lower --agent-learning-rate" in out
    assert [row["agent"] for row in rows("cmp/comparison.csv")] == ["random"]
    stamps = {path: path.stat().st_mtime_ns for path in Path("cmp").rglob("*.safetensors")}

    status, out, _ = call(*words, "random,ppo")
    assert status == 0
    done = rows("cmp/comparison.csv")
    assert [row["agent"] for row in done] == ["random", "ppo"]
    assert len({(row["images"], row["unet_updates"]) for row in done}) == 1
    assert done[0]["random_loss"] == done[1]["random_loss"]  # the same judge, the same random masks
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())  # nothing was run again
    assert "against random" in out
    assert Path("cmp/report.html").stat().st_size > 10_000


def test_agents_of_runs_are_judged_and_reported(call):
    for algo in ("random", "a2c"):
        assert call("train-agent", *TINY, "--workers", "1", "--algo", algo, "--out", algo)[0] == 0
    status, out, _ = call("evaluate-agent", "random", "a2c", "--unet", "random/unet.safetensors", "--out", "e.json")
    assert status == 0
    found = json.loads(Path("e.json").read_text())
    assert [one["agent"] for one in found] == ["random", "a2c"]
    assert found[0]["random_loss"] == found[1]["random_loss"]
    assert 0.3 < found[0]["lesion_hidden"] < 0.7
    assert "a2c" in out
    assert call("evaluate-agent", "random", "--data", "phantom:60:3")[0] == 0
    assert call("report", "random", "a2c", "--out", "page.html")[0] == 0
    assert "<html" in Path("page.html").read_text()[:500]
    assert call("report", "a2c")[0] == 0
    assert Path("a2c/report.html").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["evaluate-agent", "nothing"], "nothing"),
        (["report", "nothing"], "nothing"),
        (["compare-agents", "--out", "cmp", "--algos", "a3c,dqn"], "dqn"),
        (["compare-agents", "--out", "cmp", "--algos", ""], "one agent"),
        (["compare-agents", "--out", "cmp", "--mask-ratio", "2"], "between 0 and 1"),
        (["compare-agents", "--out", "cmp", "--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(call, words: list[str], text: str):
    status, _, err = call(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert text in err
    assert not Path("cmp/comparison.json").exists()
