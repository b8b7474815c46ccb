"""Comparisons, judgements and reports as a person types them."""

import csv
import json
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ahm_env import ImageError, RunError
from ahm_env.images.pixels.fit import PixelSettings
from downstream.comparison import compare, console
from downstream.comparison.experiment import Experiment
from downstream.comparison.pools.pool import Pool, run_logged
from downstream.comparison.results.rows import Row, write_results
from downstream.comparison.trials import Trial
from downstream.sam.annotation import Annotation
from downstream.sam.sam import SegmentAnything

TINY = ["--data", "phantom:80", "--image-size", "32", "--width", "4", "--batch-size", "4", "--total-images", "32"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def trials(*columns: str) -> set[tuple[str, ...]]:
    """What there are results of."""
    found = [row for row in rows("cmp/results.csv") if row["labels"] or "draw" not in columns]  # or of fine-tuning
    return {tuple(row[name] for name in columns) for row in found}


SMALL = ["--data", "phantom:40", "--image-size", "16", "--patch-size", "4", "--width", "2", "--batch-size", "4"]
SMALL += ["--total-images", "16", "--device", "cpu", "--seeds", "1", "--jobs", "2", "--reference-unets", "1"]
SMALL += ["--out", "cmp"]
FINETUNE = ["--finetune", "steps=2,batch_size=2,augment=none"]
BOTH = ["compare-agents", *SMALL, *FINETUNE, "--algos", "scratch,random", "--downstream", "segmentation"]


class AtHome(Pool):
    """Works in this process, one after the other: starting processes takes longer than all that they do here."""

    def work(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            with pytest.raises(SystemExit) as ended:
                run_logged(trial, 1)
            self.conclude(trial, int(ended.value.code or 0))


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "Pool", AtHome)


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_an_agent_of_one_s_own_is_compared_like_ours(call, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(Path(compare.__file__).parents[2] / "examples")
    own = "own_agent:MomentsAgent+temperature=0.1"
    status, out, _ = call("compare-agents", *SMALL, "--algos", f"random,{own}")
    assert status == 0
    assert trials("agent") == {("random",), (own,)}
    assert own in out
    assert call("compare-agents", *SMALL, "--algos", "random")[0] == 0  # its results stay, without its class
    assert trials("agent") == {("random",), (own,)}


def stamps(*endings: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for ending in endings for path in Path("cmp").rglob(f"*{ending}")}


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_a_comparison_grows_keeps_what_is_done_and_outlives_a_failure(call):
    words = ["compare-agents", *TINY, "--seeds", "1", "--jobs", "2", "--out", "cmp", "--algos"]
    status, out, _ = call(*words, "random,a3c+agent_learning_rate=1e30", "--reference-unets", "1")
    assert status == 1  # the second one failed, and is told with its reason
    assert "lower --agent-learning-rate" in out
    assert {row["agent"] for row in rows("cmp/results.csv")} == {"random"}
    stamps = {path: path.stat().st_mtime_ns for path in Path("cmp").rglob("*.safetensors")}

    status, out, _ = call(*words, "random,ppo")
    assert status == 0
    assert trials("agent") == {("random",), ("ppo",)}
    assert len({row["value"] for row in rows("cmp/results.csv") if row["metric"] == "unet_updates"}) == 1
    losses = {
        agent: [
            (row["draw"], row["image"], row["value"])
            for row in rows("cmp/results.csv")
            if row["agent"] == agent and row["metric"] == "random_loss_sampled"
        ]
        for agent in ("random", "ppo")
    }
    assert losses["random"] == losses["ppo"]  # the same two U-Nets, the same random masks
    assert {draw for draw, *_ in losses["random"]} == {"0", "1"}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())  # nothing was run again
    assert "against random" in out
    assert Path("cmp/report.html").stat().st_size > 10_000


@pytest.mark.usefixtures("at_home")
def test_images_that_are_left_out_are_told_at_the_start(call, write_source, monkeypatch: pytest.MonkeyPatch):
    source = write_source("scans")
    (source / "images" / "torn.png").write_bytes(b"")
    told = list[str]()
    monkeypatch.setattr(AtHome, "work", lambda *_: told.append("at work"))
    monkeypatch.setattr(console, "warn_left_out", lambda _, images: told.append(f"{images.skipped} left out"))
    call("compare-agents", *SMALL, "--data", str(source), "--skip-bad", "--algos", "random")
    assert told[:2] == ["1 left out", "at work"]


@pytest.mark.slow
def test_u_nets_are_fine_tuned_in_processes_of_their_own(call):
    words = [*BOTH, "--labels", "8"]
    status, out, err = call(*words)
    assert (status, err) == (0, "")
    assert "Segmentation of phantom:40 with 8 labels" in out
    assert "done    segmentation-8/none/scratch-draw0" in out
    assert trials("agent", "labels", "draw") == {("scratch", "8", "0"), ("random", "8", "0")}
    assert all(0 <= float(row["value"]) <= 1 for row in rows("cmp/results.csv") if row["metric"] == "dice")
    assert "Segmentation of phantom:40 with 8 labels" in Path("cmp/report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_what_is_fine_tuned_is_kept_and_grows(call):
    words = ["compare-agents", *SMALL, *FINETUNE, "--algos", "scratch,random,edges", "--downstream"]
    assert call(*words, "segmentation", "--labels", "8")[0] == 0
    before = stamps("test.csv", "model.safetensors", "mask_evaluation.json")
    assert len(before) == 2 * 3 + 3  # the last ones of two agents, and of the reference U-Net
    status, out, _ = call(*words, "segmentation", "--labels", "8")
    assert status == 0
    assert "done    segmentation" not in out
    assert stamps("test.csv", "model.safetensors", "mask_evaluation.json") == before

    status, out, _ = call(*words, "segmentation,classification", "--labels", "8,all")
    assert status == 0
    assert before.items() <= stamps("test.csv", "model.safetensors", "mask_evaluation.json").items()
    found = trials("task", "labels", "agent", "draw")
    tasks = ("segmentation", "classification")
    assert found == {
        (task, count, agent, "0")
        for task in tasks
        for count in ("8", "all")
        for agent in ("scratch", "random", "edges")
    }
    assert "against scratch" in out
    assert "against random" in out
    page = Path("cmp/report.html").read_text()
    for text in ("Dice against labels", "Accuracy against labels", "all (32)", "What few labels give"):
        assert text in page

    status, _, err = call(*words[:-1], "--downstream", "segmentation", "--labels", "8", "--finetune", "steps=3")
    assert (status, err.count("\n")) == (2, 1)
    assert "holds an experiment with another finetune augment" in err
    assert before.items() <= stamps("test.csv", "model.safetensors", "mask_evaluation.json").items()


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_a_cell_that_fails_loses_no_other_and_gives_status_1(call):
    broken = Path("cmp/finetuned/segmentation-8/none/scratch-draw0")
    words = [*BOTH, "--labels", "8,all"]
    assert call("compare-agents", *SMALL, "--algos", "random")[0] == 0
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    status, out, _ = call(*words)
    assert status == 1
    assert out.count("failed  segmentation-8/none/scratch-draw0") == 1
    assert f"failed: segmentation-8/none/scratch-draw0: error: {broken / 'config.json'}: damaged" in out
    found = {("8", "random", "0"), ("all", "scratch", "0"), ("all", "random", "0")}
    assert trials("labels", "agent", "draw") == found
    (broken / "config.json").unlink()
    status, out, _ = call(*words)
    assert status == 0
    assert trials("labels", "agent", "draw") == found | {("8", "scratch", "0")}


SCRATCH = ["compare-agents", *SMALL, *FINETUNE, "--algos", "scratch", "--downstream", "segmentation", "--labels", "8"]


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_what_is_done_is_shown_where_an_experiment_is_stopped(call, monkeypatch: pytest.MonkeyPatch):
    conclude, done = AtHome.conclude, list[set[tuple[str, ...]]]()

    def stop_after_two(pool: AtHome, trial: Trial, status: int) -> None:
        conclude(pool, trial, status)
        done.append(trials("draw"))  # before anything has ended the experiment
        if len(done) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(AtHome, "conclude", stop_after_two)
    assert call(*SCRATCH, "--draws", "3")[0] == 128 + signal.SIGTERM
    assert done == [{("0",)}, {("0",), ("1",)}]
    assert trials("draw") == done[1]
    page = Path("cmp/report.html")
    assert "Segmentation of phantom:40 with 8 labels" in page.read_text()
    page.unlink()
    assert call("report", "cmp")[0] == 0
    assert call(*SCRATCH, "--draws", "3")[0] == 0
    assert trials("draw") == {("0",), ("1",), ("2",)}


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_a_cell_whose_results_are_damaged_keeps_no_other_from_running(call):
    assert call(*SCRATCH)[0] == 0
    broken = Path("cmp/finetuned/segmentation-8/none/scratch-draw0/test.csv")
    broken.write_text("image\n")
    status, _, err = call(*SCRATCH, "--draws", "2")
    assert (status, err.count("\n")) == (2, 1)
    assert str(broken) in err
    assert (broken.parents[1] / "scratch-draw1" / "test.json").exists()
    assert trials("draw") == {("0",)}  # what was written stays


def test_a_command_that_is_refused_is_not_remembered(call, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise RunError("cmp: the images have changed")

    monkeypatch.setattr(compare, "refuse_changed", refuse)
    status, _, err = call("compare-agents", *SMALL, "--algos", "random")
    assert (status, err) == (2, "error: cmp: the images have changed\n")
    assert not Path("cmp/experiment.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_scratch_alone_is_shown_where_all_agents_failed(call):
    words = ["compare-agents", *SMALL, *FINETUNE, "--downstream", "segmentation", "--labels", "8", "--algos"]
    status, out, _ = call(*words, "scratch,a3c+agent_learning_rate=1e30")
    assert status == 1
    assert "failed: a3c+agent_learning_rate=1e30-0" in out
    assert trials("agent") == {("scratch",)}
    assert "Segmentation of phantom:40" in Path("cmp/report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_ways_to_use_unlabelled_images_are_compared_without_any_pretraining(call):
    words = ["compare-agents", *SMALL, *FINETUNE, "--algos", "scratch", "--downstream", "segmentation"]
    status, out, _ = call(*words, "--labels", "8,16", "--draws", "2", "--unlabelled", "none,auto+mix=none")
    assert status == 0
    assert not Path("cmp/reference").exists()
    assert trials("labels", "draw", "arm") == {
        (labels, draw, arm) for labels in ("8", "16") for draw in "01" for arm in ("none", "auto+mix=none")
    }
    assert "against unlabelled none" in out
    page = Path("cmp/report.html").read_text()
    for text in ("Segmentation of phantom:40 with 8 labels", "Dice against labels", "scratch, auto+mix=none"):
        assert text in page
    Path("cmp/report.html").unlink()
    assert call("report", "cmp")[0] == 0
    assert Path("cmp/report.html").read_text() == page
    shutil.copytree("cmp", "other")
    about = Path("other/experiment.json")
    about.write_text(about.read_text().replace("phantom:40", "elsewhere/scans"))
    assert call("report", "cmp", "other", "--out", "both.html")[0] == 0
    page = Path("both.html").read_text()
    for text in (
        "Dice, phantom:40 against labels",
        "Dice, scans against labels",
        "Segmentation of scans with 16 labels",
    ):
        assert text in page
    assert "elsewhere" not in page
    call("train-agent", *TINY, "--workers", "1", "--algo", "random", "--out", "run")
    status, _, err = call("report", "cmp", "run")
    assert (status, err.count("\n")) == (2, 1)
    assert "cmp: is an experiment" in err


def test_the_page_of_an_experiment_tells_no_path_of_its_agents(call):
    Experiment(Path("cmp"), ("random",), 1, {"data": "/home/jane-doe/scans"}).begin()
    agents = [f"a3c+backbone_weights=/home/jane-doe/{place}/vgg.pth" for place in ("old", "new")]
    about = ("segmentation", "8", "none", "", "")
    told = {"dice": 0.5, "labels": 8}
    rows = [Row(agent, 0, 0, *about, metric, value) for agent in agents for metric, value in told.items()]
    write_results(Path("cmp/results.csv"), rows)
    assert call("report", "cmp")[0] == 0
    page = Path("cmp/report.html").read_text()
    assert "jane-doe" not in page
    for text in ("Segmentation of scans", "a3c+backbone_weights=vgg.pth<", "a3c+backbone_weights=vgg.pth (2)<"):
        assert text in page


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_segment_anything_segments_the_same_test_images(call, monkeypatch: pytest.MonkeyPatch):
    checked, asked = [], []

    def annotate(*, sam: Path, data: str, out: Path, pixels: PixelSettings, device: str, **how: Any) -> Any:
        asked.append((str(sam), data, str(out), pixels.axis, device, how))
        out.mkdir(exist_ok=True)
        (out / "scores.csv").write_text("image,split,dice\none,test,0.25\ntwo,test,0.75\n")
        return Annotation(out, problems=["three: damaged"])

    monkeypatch.setattr(compare, "annotate", annotate)
    monkeypatch.setattr(compare, "check_annotation", lambda **how: checked.append(how["prompt"]))
    words = [*BOTH, "--labels", "8"]
    status, out, _ = call(*words, "--axis", "coronal", "--sam", "models/sam", "--prompt", "center")
    assert status == 0
    assert checked == ["center"]
    how = {"prompt": "center", "split": "test", "ignore": None}
    assert asked == [("models/sam", "phantom:40", "cmp/sam-center", "coronal", "cpu", how)]
    assert "three: damaged" in out
    assert "SAM, center, no labels" in out
    assert "0.500 (" in out
    assert "SAM, center, no labels" in Path("cmp/report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("at_home")
def test_where_segment_anything_fails_in_the_end_there_are_tables_and_a_page_all_the_same(
    call, monkeypatch: pytest.MonkeyPatch
):
    def fail(**_: object) -> None:
        raise ImageError("cmp/sam-box: no image could be annotated")

    monkeypatch.setattr(compare, "annotate", fail)
    monkeypatch.setattr(compare, "check_annotation", lambda **_: None)
    words = ["compare-agents", *SMALL, *FINETUNE, "--algos", "scratch", "--downstream", "segmentation"]
    status, out, _ = call(*words, "--labels", "8", "--sam", "models/sam")
    assert status == 1
    assert "failed: sam-box: cmp/sam-box: no image could be annotated" in out
    assert trials("agent") == {("scratch",)}
    assert "Segmentation of phantom:40" in Path("cmp/report.html").read_text()


@pytest.mark.slow
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


@pytest.mark.slow
def test_agents_of_runs_are_judged_and_reported(call):
    for algo in ("random", "a2c"):
        assert call("train-agent", *TINY, "--workers", "1", "--algo", algo, "--out", algo)[0] == 0
    status, out, _ = call(
        "evaluate-agent", "random", "a2c", "--reference-unet", "random/unet.safetensors", "--out", "e.json"
    )
    assert status == 0
    found = json.loads(Path("e.json").read_text())
    assert [one["agent"] for one in found] == ["random", "a2c"]
    assert found[0]["random_loss_sampled"] == found[1]["random_loss_sampled"]
    assert 0.3 < found[0]["lesion_hidden"] < 0.7
    assert "a2c" in out
    assert call("evaluate-agent", "random", "--data", "phantom:60:3")[0] == 0
    assert call("report", "random", "a2c", "--out", "page.html")[0] == 0
    assert "<html" in Path("page.html").read_text()[:500]
    assert call("report", "a2c")[0] == 0
    assert Path("a2c/report.html").exists()


@pytest.mark.slow
def test_what_one_image_or_an_empty_mask_does_not_tell_is_a_dash_and_null(call, write_source):
    source = write_source("one", splits=("test",), values=(0,))
    assert call("train-agent", *TINY, "--workers", "1", "--algo", "random", "--out", "random")[0] == 0
    status, out, _ = call("evaluate-agent", "random", "--data", str(source), "--out", "e.json")
    assert status == 0
    (found,) = json.loads(Path("e.json").read_text(), parse_constant=pytest.fail)
    assert (found["between_images"], found["lesion_hidden"]) == (None, None)
    assert f"– – {found['within_images']:.3f}" in out
    assert f"– – {found['background_hidden']:.2f}" in out
    assert "nan" not in out


@pytest.mark.parametrize("name", ["config.json", "mask_evaluation.json", "unet.safetensors"])
def test_no_file_of_a_run_is_overwritten_with_numbers_of_masks(call, name: str):
    Path("run").mkdir()
    for one in ("config.json", name):
        Path("run", one).write_text("mine")
    status, _, err = call("evaluate-agent", "run", "--out", f"run/{name}")
    assert (status, err.count("\n")) == (2, 1)
    assert f"--out run/{name}" in err
    assert Path("run", name).read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["evaluate-agent", "nothing"], "nothing"),
        (["report", "nothing"], "nothing"),
        (["compare-agents", "--out", "cmp", "--algos", "scratch"], "scratch is not pretrained"),
        (["compare-agents", *SMALL, "--draws", "3"], "--draws needs --downstream"),
        (["compare-agents", *SMALL, "--downstream", "segmentation", "--unlabelled", "box"], "--unlabelled box"),
        (["compare-agents", "--out", "cmp", "--algos", "a3c,dqn"], "dqn"),
        (["compare-agents", "--out", "cmp", "--algos", ""], "one agent"),
        (["compare-agents", "--out", "cmp", "--mask-ratio", "2"], "between 0 and 1"),
        (["compare-agents", "--out", "cmp", "--data", "nowhere"], "nowhere"),
        (["compare-agents", *SMALL, "--downstream", "segmentation,detection"], "--downstream detection is unknown"),
        (["compare-agents", *SMALL, "--downstream", "segmentation", "--labels", "some"], "--labels some"),
        (["compare-agents", *SMALL, "--downstream", "segmentation", "--labels", "8,1000"], "--labels 1000"),
        (["compare-agents", *SMALL, "--downstream", "segmentation", "--finetune", "epochs=3"], "--finetune epochs"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(call, words: list[str], text: str):
    status, _, err = call(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert text in err
    assert not Path("cmp/experiment.json").exists()
