"""Fine-tuning within a comparison: which cells there are, on which images, and what is refused."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.settings import RunSettings
from ahm_env import ImageError, ImageSet, RunError, SettingsError, UNet, load_images
from downstream.comparison import Plan
from downstream.crew import run_logged
from downstream.labelled import Split
from downstream.models import Start
from downstream.settings import FinetuneSettings
from downstream.transfer import Downstream, Transfer, TransferCell, run_transfer_cell

COMMON = {"data": "phantom:40:0", "image_size": 16, "patch_size": 4, "width": 2, "images": 24, "device": "cpu"}
QUICK = {"steps": 2, "batch_size": 2, "augment": "none"}


def make(out: Path, labels: tuple[str, ...] = ("random", "a3c"), seeds: int = 2, **changes: Any) -> Transfer:
    given = {"tasks": ("segmentation", "classification"), "counts": (8, None), "settings": QUICK, **changes}
    return Transfer(Plan(out, labels, seeds, COMMON), **given)


def settings_of(transfer: Transfer, cell: TransferCell) -> FinetuneSettings:
    """Those that the cell's own process comes to, where its run has been made."""
    start = Start(cell.start, None, None, {})
    if cell.start != "scratch":
        label = next(one for one in transfer.plan.variants if one.label == cell.agent)
        run = RunSettings.make(**label.given(transfer.plan.shared)).as_dict()
        start = Start(cell.start, UNet(3, 3, run["width"]), None, run)
    return FinetuneSettings.make(start, **transfer.given(cell))


def test_cells_are_agents_and_scratch_x_tasks_x_counts_seed_by_seed(tmp_path: Path) -> None:
    transfer = make(tmp_path)
    assert [(cell.seed, cell.labels, cell.task, cell.agent) for cell in transfer.cells] == [
        (seed, labels, task, agent)
        for seed in (0, 1)
        for labels in (8, None)
        for task in ("segmentation", "classification")
        for agent in ("scratch", "random", "a3c")
    ]
    assert len({cell.path for cell in transfer.cells}) == 24
    assert {cell.path.parent for cell in transfer.cells} == {tmp_path / "finetuned"}
    runs = {(cell.variant.label, cell.seed): str(cell.path) for cell in transfer.plan.cells}
    assert all(cell.start == runs.get((cell.agent, cell.seed), "scratch") for cell in transfer.cells)
    assert transfer.total == 4


def test_all_agents_learn_from_the_same_images_and_few_lie_within_many(tmp_path: Path, drawn: ImageSet) -> None:
    transfer = make(tmp_path, counts=(8, 16, None), seeds=3)
    chosen: dict[Any, set[tuple[int, ...]]] = {}
    for cell in transfer.cells:
        split = Split.make(settings_of(transfer, cell), drawn)
        chosen.setdefault((cell.seed, cell.task, cell.labels), set()).add(tuple(split.learn.tolist()))
        assert split.test.tolist() == drawn.split("test").tolist()
    assert {len(some) for some in chosen.values()} == {1}  # whatever the start
    learn = {key: set(next(iter(some))) for key, some in chosen.items()}
    for seed in range(3):
        for task in transfer.tasks:
            few, more, most = (learn[seed, task, count] for count in (8, 16, None))
            assert (len(few), len(more)) == (8, 16)
            assert few < more < most
            assert most == set(drawn.split("train").tolist())
    assert len({tuple(sorted(learn[seed, "segmentation", 8])) for seed in range(3)}) == 3


def test_what_a_pretrained_u_net_has_decided_is_left_to_it(tmp_path: Path) -> None:
    transfer = make(tmp_path, ("a3c+width=4+image_size=32", "random"), 1, counts=(None,))
    made = {cell.agent: settings_of(transfer, cell) for cell in transfer.cells if cell.task == "segmentation"}
    shapes = {agent: (one.width, one.image_size) for agent, one in made.items()}
    assert shapes == {"scratch": (2, 16), "a3c+width=4+image_size=32": (4, 32), "random": (2, 16)}
    assert {(one.steps, one.data, one.labels) for one in made.values()} == {(2, "phantom:40:0", None)}


def test_how_to_fine_tune_without_what_for_is_refused():
    assert Downstream.asked(None, labels=None, settings=None) is None
    assert Downstream.asked("segmentation", labels=None, sam=None) == Downstream("segmentation", "25,100,all")
    with pytest.raises(SettingsError, match="--finetune needs --downstream"):
        Downstream.asked(None, settings="steps=4")
    with pytest.raises(SettingsError, match="--labels needs --downstream"):
        Downstream.asked(None, labels="25")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (Downstream("segmentaton", "25"), "--downstream segmentaton is unknown"),
        (Downstream("", "25"), "needs a task"),
        (Downstream("segmentation,segmentation", "25"), "once"),
        (Downstream("segmentation", "25,25"), "once"),
        (Downstream("segmentation", " , "), "a number from 1 or all"),
        (Downstream("segmentation", "0"), "a number from 1 or all"),
        (Downstream("segmentation", "-5"), "--labels -5 is neither"),
        (Downstream("segmentation", "25,alll"), "--labels alll is neither"),
        (Downstream("segmentation", "25", "step=400"), "--finetune step=400 is not KEY=VALUE .* steps"),
        (Downstream("segmentation", "25", "steps"), "--finetune steps is not KEY=VALUE"),
        (Downstream("segmentation", "25", "labels=3"), "--finetune labels=3 is not KEY=VALUE"),
        (Downstream("segmentation", "25", "steps=many"), "steps must be a whole number"),
        (Downstream("segmentation", "25", "steps=1.5"), "steps must be a whole number"),
        (Downstream("segmentation", "25", "steps=true"), "steps must be a whole number"),
        (Downstream("segmentation", "25", "learning_rate=fast"), "learning_rate must be a number"),
        (Downstream("segmentation", "25", "flips=1"), "flips must be true or false"),
        (Downstream("segmentation", "25", "augment=3"), "augment must be a name"),
        (Downstream("segmentation", "25", "steps=0"), "--steps 0"),
        (Downstream("segmentation", "25", "augment=wild"), "wild"),
        (Downstream("classification", "25", sam=Path("sam")), "--sam segments"),
    ],
)
def test_what_is_misspelt_is_refused_before_anything_runs(asked: Downstream, text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=text) as caught:
        asked.transfer(make(tmp_path / "out").plan)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_what_is_asked_for_is_read(tmp_path: Path) -> None:
    asked = Downstream(
        "segmentation, classification", "25 ,all", "steps=7,learning_rate=1,flips=true,augment=flips", Path("s"), "grid"
    )
    transfer = asked.transfer(make(tmp_path).plan)
    assert (transfer.tasks, transfer.counts) == (("segmentation", "classification"), (25, None))
    assert transfer.settings == {"steps": 7, "learning_rate": 1, "flips": True, "augment": "flips"}
    assert transfer.zero_shot == tmp_path / "sam-grid"
    assert replace(transfer, prompt="/secret/points.csv").zero_shot == tmp_path / "sam-points"


def test_a_comparison_may_grow_by_labels_and_tasks_but_keeps_its_recipe(tmp_path: Path) -> None:
    make(tmp_path, tasks=("segmentation",), counts=(8,)).begin()
    make(tmp_path, tasks=("segmentation", "classification"), counts=(8, 16, None)).begin()
    about = json.loads((tmp_path / "transfer.json").read_text())
    assert about == {"tasks": ["segmentation", "classification"], "labels": ["8", "16", "all"], "settings": QUICK}
    with pytest.raises(RunError, match="another steps; give the same"):
        make(tmp_path, settings={**QUICK, "steps": 3}).begin()
    with pytest.raises(RunError, match="another average; give the same"):
        make(tmp_path, settings={**QUICK, "average": 0.9}).begin()
    with pytest.raises(RunError, match="another augment; give the same"):
        make(tmp_path, settings={"steps": 2, "batch_size": 2}).begin()
    assert json.loads((tmp_path / "transfer.json").read_text()) == about
    for damage in ("{", "[]", "{}"):
        (tmp_path / "transfer.json").write_text(damage)
        with pytest.raises(RunError, match=r"transfer\.json: damaged"):
            make(tmp_path).begin()


def test_images_that_cannot_give_what_is_asked_for_are_refused_at_once(
    tmp_path: Path, drawn: ImageSet, write_source: Any
) -> None:
    make(tmp_path).check(drawn)
    with pytest.raises(SettingsError, match="--labels 33: phantom:40:0 has 32 labelled images"):
        make(tmp_path, counts=(8, 33)).check(drawn)
    with pytest.raises(ImageError, match=r"is labelled .* which is none of the classes that are learned"):
        make(tmp_path, counts=(1,)).check(drawn)
    make(tmp_path, counts=(1,), tasks=("segmentation",)).check(drawn)

    def images(name: str, **how: Any) -> ImageSet:
        return load_images(str(write_source(name, **how)), 16, cache_dir=tmp_path / "cache")

    tasks = {"counts": (None,), "seeds": 1}
    plain = images("plain", masks=False)
    with pytest.raises(ImageError, match="no image of its train split has a mask"):
        make(tmp_path, **tasks).check(plain)
    with pytest.raises(ImageError, match="no image of its train split has a label"):
        make(tmp_path, tasks=("classification",), **tasks).check(plain)
    untested = images("untested", splits=("train",) * 6, classes=("one", "two"))
    for task, what in (("segmentation", "mask"), ("classification", "label")):
        with pytest.raises(ImageError, match=f"no image of a test or val split has a {what}"):
            make(tmp_path, tasks=(task,), **tasks).check(untested)


def test_the_values_of_a_cell_are_those_of_its_test_images(tmp_path: Path) -> None:
    segmented, classified = make(tmp_path, ("random",), 1, counts=(8,)).cells[:3:2]
    assert segmented.result is None
    for cell, table in (
        (segmented, "image,patient,dice,iou\nb,7,0.25,0.1\na,8,1,1\n"),
        (classified, "image,patient,label,prediction,p x\nb,7,x,y,0.1\na,8,x,x,0.9\n"),
    ):
        cell.path.mkdir(parents=True)
        (cell.path / "test.csv").write_text(table)
        (cell.path / "test.json").write_text('{"labels": 8}')
    assert list(segmented.per_image().items()) == [("b", ("7", 0.25)), ("a", ("8", 1.0))]
    assert list(classified.per_image().items()) == [("b", ("7", 0.0)), ("a", ("8", 1.0))]
    assert segmented.result == {"labels": 8}
    (segmented.path / "test.csv").write_text("image,dice\nb,0.25\n")  # of an older version
    assert segmented.per_image() == {"b": ("b", 0.25)}


@pytest.mark.parametrize(
    "table",
    [
        None,
        "",
        "image,dice\n",
        "image,patient,iou\na,1,1\n",
        "image,patient,dice\na,1,good\n",
        "patient,dice\n1,1\n",
        "image,patient,dice\na,1\n",
    ],
)
def test_a_damaged_table_of_a_cell_is_told_with_what_to_do(table: str | None, tmp_path: Path) -> None:
    cell = make(tmp_path).cells[0]
    cell.path.mkdir(parents=True)
    if table is not None:
        (cell.path / "test.csv").write_text(table)
    with pytest.raises(RunError, match=r"test\.csv: missing or damaged .*; delete .* and run again") as caught:
        cell.per_image()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["{", "", "3"])
def test_a_damaged_result_is_told_and_not_taken_for_none(damage: str, tmp_path: Path) -> None:
    cell = make(tmp_path).cells[0]
    cell.path.mkdir(parents=True)
    (cell.path / "test.json").write_text(damage)
    with pytest.raises(RunError, match=r"test\.json: damaged .*; delete it, and the same command tests again"):
        cell.result  # noqa: B018


def run(transfer: Transfer, cell: TransferCell) -> int:
    with pytest.raises(SystemExit) as ended:
        run_logged(partial(run_transfer_cell, transfer), cell, 1)
    return int(ended.value.code or 0)


@pytest.mark.usefixtures("own_cache")
def test_a_cell_runs_once_and_tests_again_if_asked_to(tmp_path: Path) -> None:
    transfer = make(tmp_path / "out", ("random",), 1, tasks=("segmentation",), counts=(8,))
    cell = transfer.cells[0]
    assert run(transfer, cell) == 0
    result, values = cell.result, cell.per_image()
    assert result is not None
    assert result["labels"] == 8
    assert result["dice"] == pytest.approx(np.mean([value for _, value in values.values()]), abs=1e-5)
    assert cell.images == transfer.total
    log = cell.path.with_name(f"{cell.path.name}.log")
    assert "8 labelled images to learn from" in log.read_text()
    made = [cell.path / "test.csv", *(path for path in cell.path.iterdir() if path.suffix in (".json", ".safetensors"))]
    stamps = {path: path.stat().st_mtime_ns for path in made}
    assert run(transfer, cell) == 0
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    (cell.path / "test.json").unlink()
    (cell.path / "test.csv").unlink()
    assert run(transfer, cell) == 0
    assert (cell.result, cell.per_image()) == (result, values)


@pytest.mark.usefixtures("own_cache")
def test_a_pretrained_cell_starts_from_its_run(tmp_path: Path, pretrained: Path) -> None:
    transfer = make(
        tmp_path / "out", ("random",), 1, tasks=("segmentation",), counts=(8,), settings={**QUICK, "steps": 1}
    )
    scratch, cell = transfer.cells
    assert run(transfer, scratch) == 0
    assert run(transfer, replace(cell, start=str(pretrained))) == 0
    losses = [(one.path / "metrics.csv").read_text().splitlines()[1].split(",")[3] for one in (scratch, cell)]
    assert losses[0] != losses[1]
    assert cell.result is not None


@pytest.mark.usefixtures("own_cache")
def test_a_cell_that_fails_says_so_in_its_log_and_status(tmp_path: Path) -> None:
    transfer = make(tmp_path / "out", ("random",), 1, tasks=("segmentation",), counts=(8,))
    cell = transfer.cells[1]  # its run is not there
    assert run(transfer, cell) == 2
    assert cell.result is None
    last = cell.path.with_name(f"{cell.path.name}.log").read_text().splitlines()[-1]
    assert last.startswith(f"error: {cell.start}: no such run")
