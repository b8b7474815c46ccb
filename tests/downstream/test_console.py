"""Comparisons, judgements and reports as a person types them."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from downstream import console
from downstream.crew import Crew, run_logged
from downstream.sam import SegmentAnything

TINY = ["--data", "phantom:80", "--image-size", "32", "--width", "4", "--batch-size", "4", "--images", "32"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


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


SMALL = ["--data", "phantom:40", "--image-size", "16", "--patch-size", "4", "--width", "2", "--batch-size", "4"]
SMALL += ["--images", "16", "--device", "cpu", "--seeds", "1", "--jobs", "2", "--out", "cmp"]
FINETUNE = ["--finetune", "steps=2,batch_size=2,augment=none"]


class AtHome(Crew):
    """Works in this process, one after the other: starting processes takes longer than all that they do here."""

    def work(self, jobs: Sequence[Any], run: Callable[[Any], int], images: int, result: Callable[[Any], str]) -> None:
        for job in jobs:
            with pytest.raises(SystemExit) as ended:
                run_logged(run, job, 1)
            self._tell(job, int(ended.value.code or 0), result)


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "Crew", AtHome)


def stamps(*endings: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for ending in endings for path in Path("cmp").rglob(f"*{ending}")}


def test_u_nets_are_fine_tuned_in_processes_of_their_own(call):
    words = ["compare-agents", *SMALL, *FINETUNE, "--algos", "random", "--downstream", "segmentation", "--labels", "8"]
    status, out, err = call(*words)
    assert (status, err) == (0, "")
    assert "Segmentation of phantom:40 with 8 labels" in out
    assert "done    segmentation-8-scratch-0" in out
    done = rows("cmp/transfer.csv")
    assert [(row["agent"], row["labels"], row["measure"]) for row in done] == [
        ("scratch", "8", "dice"),
        ("random", "8", "dice"),
    ]
    assert all(0 <= float(row["value"]) == float(row["dice"]) <= 1 for row in done)
    assert "Segmentation of phantom:40 with 8 labels" in Path("cmp/report.html").read_text()


@pytest.mark.usefixtures("at_home")
def test_what_is_fine_tuned_is_kept_and_grows(call):
    words = ["compare-agents", *SMALL, *FINETUNE, "--algos", "random,edges", "--downstream"]
    assert call(*words, "segmentation", "--labels", "8")[0] == 0
    before = stamps("test.csv", "model.safetensors", "judgement.json")
    assert len(before) == 2 * 3 + 2
    status, out, _ = call(*words, "segmentation", "--labels", "8")
    assert status == 0
    assert "done    segmentation" not in out
    assert stamps("test.csv", "model.safetensors", "judgement.json") == before

    status, out, _ = call(*words, "segmentation,classification", "--labels", "8,all")
    assert status == 0
    assert before.items() <= stamps("test.csv", "model.safetensors", "judgement.json").items()
    found = {(row["task"], row["labels"], row["agent"]) for row in rows("cmp/transfer.csv")}
    tasks = ("segmentation", "classification")
    assert found == {
        (task, count, agent) for task in tasks for count in ("8", "all") for agent in ("scratch", "random", "edges")
    }
    assert "against scratch" in out
    assert "against random" in out
    page = Path("cmp/report.html").read_text()
    for text in ("Dice against labels", "Accuracy against labels", "all (32)", "What pretraining is good for"):
        assert text in page

    status, _, err = call(*words[:-1], "--downstream", "segmentation", "--labels", "8", "--finetune", "steps=3")
    assert (status, err.count("\n")) == (2, 1)
    assert "was fine-tuned with another augment" in err
    assert before.items() <= stamps("test.csv", "model.safetensors", "judgement.json").items()


@pytest.mark.usefixtures("at_home")
def test_a_cell_that_fails_loses_no_other_and_gives_status_1(call):
    broken = Path("cmp/finetuned/segmentation-8-scratch-0")
    words = [
        "compare-agents",
        *SMALL,
        *FINETUNE,
        "--algos",
        "random",
        "--downstream",
        "segmentation",
        "--labels",
        "8,all",
    ]
    assert call("compare-agents", *SMALL, "--algos", "random")[0] == 0
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    status, out, _ = call(*words)
    assert status == 1
    assert out.count("failed  segmentation-8-scratch-0") == 1
    assert f"failed: {broken.name}: error: {broken / 'config.json'}: damaged" in out
    assert [(row["labels"], row["agent"]) for row in rows("cmp/transfer.csv")] == [
        ("8", "random"),
        ("all", "scratch"),
        ("all", "random"),
    ]
    (broken / "config.json").unlink()
    status, out, _ = call(*words)
    assert status == 0
    assert len(rows("cmp/transfer.csv")) == 4


@pytest.mark.usefixtures("at_home")
def test_scratch_alone_is_shown_where_all_agents_failed(call):
    words = ["compare-agents", *SMALL, *FINETUNE, "--downstream", "segmentation", "--labels", "8", "--algos"]
    status, out, _ = call(*words, "a3c+agent_learning_rate=1e30")
    assert status == 1
    assert "failed: a3c+agent_learning_rate=1e30-0" in out
    assert [row["agent"] for row in rows("cmp/transfer.csv")] == ["scratch"]
    assert not Path("cmp/report.html").exists()


@pytest.mark.usefixtures("at_home")
def test_segment_anything_segments_the_same_test_images(call, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def annotate(directory: Path, prompt: str, data: str, out: Path, split: str, device: str) -> int:
        asked.append((str(directory), prompt, data, str(out), split, device))
        out.mkdir(exist_ok=True)
        (out / "scores.csv").write_text("image,split,dice\none,test,0.25\ntwo,test,0.75\n")
        return 0

    monkeypatch.setattr(console, "annotate", annotate)
    monkeypatch.setattr(SegmentAnything, "load", lambda *_: None)
    words = ["compare-agents", *SMALL, *FINETUNE, "--algos", "random", "--downstream", "segmentation", "--labels", "8"]
    status, out, _ = call(*words, "--sam", "models/sam", "--prompt", "center")
    assert status == 0
    assert asked == [("models/sam", "center", "phantom:40", "cmp/sam-center", "test", "cpu")]
    assert "SAM, center, no labels" in out
    assert "0.500 (0.250 to 0.750)" in out
    assert "SAM, center, no labels" in Path("cmp/report.html").read_text()


def test_a_segment_anything_that_is_not_there_is_told_before_anything_runs(call, monkeypatch: pytest.MonkeyPatch):
    words = [
        "compare-agents",
        *SMALL,
        "--algos",
        "random",
        "--downstream",
        "segmentation",
        "--labels",
        "8",
        "--sam",
        "sam",
    ]
    status, _, err = call(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert "sam" in err
    monkeypatch.setattr(SegmentAnything, "load", lambda *_: None)
    status, _, err = call(*words, "--prompt", "middle")
    assert (status, err.count("\n")) == (2, 1)
    assert "--prompt middle is unknown" in err
    assert not Path("cmp").exists()


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
        (["compare-agents", *SMALL, "--downstream", "segmentation,detection"], "--downstream detection is unknown"),
        (["compare-agents", *SMALL, "--downstream", "segmentation", "--labels", "some"], "--labels some"),
        (["compare-agents", *SMALL, "--downstream", "segmentation", "--labels", "8,1000"], "--labels 1000"),
        (["compare-agents", *SMALL, "--downstream", "segmentation", "--finetune", "epochs=3"], "--finetune epochs=3"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(call, words: list[str], text: str):
    status, _, err = call(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert text in err
    assert not Path("cmp/comparison.json").exists()
