"""Workers on a Ray cluster of two nodes on this machine: a run like a local one, whatever dies, wherever it goes on."""

import re
import sys
from collections.abc import Callable
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from agents import pretrain
from agents.pretraining import loop
from agents.pretraining.loop import Pretraining
from agents.pretraining.nodes import Nodes, count_workers
from agents.pretraining.pretrain import open_run
from agents.pretraining.settings import RunSettings
from agents.pretraining.workers import Work
from ahm_env import ImageSet, Reconstructor, SettingsError, TrainingError
from ahm_env.errors import InterruptionError
from ahm_env.files import load_tensors, read_rows
from ahm_env.runs.observer import Silent
from tests.killed import kill_once, wait_for

SHAPE = {"data": "phantom:80:3", "image_size": 16, "patch_size": 4, "width": 2, "batch_size": 4, "device": "cpu"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little is measured: these tests ask for other things."""
    for name, value in {"ROWS": 4, "PAIRS": (4, 4), "FINAL_PAIRS": (8, 8), "PICTURED": 1}.items():
        monkeypatch.setattr(loop, name, value)


class Watching(Silent):
    """An observer that acts on each update, and keeps what it is warned of."""

    def __init__(self, act: Callable[[int], object]) -> None:
        self.act, self.warnings = act, list[str]()

    def on_update(self, images: int, loss: float) -> None:
        self.act(images)

    def on_warning(self, text: str) -> None:
        self.warnings.append(text)


def rows(path: Path) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items()} for row in read_rows(path / "metrics.csv")]


def files(path: Path) -> set[str]:
    """Names of all files, without the numbers in them."""
    return {re.sub(r"\d+.*", "", str(one.relative_to(path))) for one in path.rglob("*") if one.is_file()}


def same_weights(one: Path, other: Path) -> bool:
    tensors, others = (load_tensors(path / "unet.safetensors")[0] for path in (one, other))
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


# ---------------------------------------------------------------- without a cluster


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"algo": "ppo"}, "ppo trains in one process; leave out --cluster"),
        ({"algo": "learning-progress"}, "trains in one process"),
        ({"workers": 4}, r"--workers 4: the cluster has 2 CPUs"),
    ],
)
def test_what_a_cluster_cannot_train_is_refused(settings: dict[str, Any], reason: str) -> None:
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0})
    with pytest.raises(SettingsError, match=reason):
        count_workers(ray, RunSettings(**{**SHAPE, **settings}))
    assert count_workers(ray, RunSettings(**SHAPE, workers=3)) == 3  # the first is no actor
    assert count_workers(ray, RunSettings(**SHAPE)) == 2


def test_an_agent_whose_weights_no_server_knows_is_refused(phantoms: ImageSet, reconstructor: Reconstructor) -> None:
    agent = SimpleNamespace(name="mine:Agent", state=lambda: {"generator": None, "weights": None})
    work = Work(RunSettings(**SHAPE), phantoms, phantoms.split("train"), reconstructor, agent)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"mine:Agent keeps .*NetworkAgent"):
        Nodes(None, 2, work, 0, print)


def test_without_ray_a_line_names_the_extra(call: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["train-agent", "--cluster", "auto", "--data", "phantom:80", "--out", str(tmp_path / "run")]
    assert call(*words)[::2] == (2, "error: --cluster needs Ray: pip install 'ahm-env[cluster]'\n")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- two nodes


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"schedule": "staged", "horizon": 2}, {"mask_ratio": "0.3:0.6"}, {"algo": "random"}]
)
def test_one_worker_of_a_cluster_ends_bit_for_bit_like_a_local_one(
    nodes: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    for name, cluster in (("here", None), ("there", nodes[0].address)):
        given = {**SHAPE, **settings, "workers": 1, "total_images": 48}
        pretrain(out=tmp_path / name, cluster=cluster, **given)
    assert same_weights(tmp_path / "here", tmp_path / "there")
    timeless = [
        [{name: row[name] for name in ("images", "unet_loss", "hardness_sampled", "unet_updates")} for row in table]
        for table in (rows(tmp_path / "here"), rows(tmp_path / "there"))
    ]
    assert timeless[0] == timeless[1]


def loss(run: Pretraining) -> float:
    """Mean patch loss of the U-Net on held-out images, half of which is hidden."""
    masks = np.random.default_rng(0).random((len(run.held_out), run.settings.grid.patches)) < 0.5
    return float(run.reconstructor.patch_losses(run.images.images(run.held_out), masks).mean())


@pytest.mark.slow
def test_workers_on_two_nodes_train_like_local_ones_and_are_replaced(nodes: Any, tmp_path: Path) -> None:
    """Both die once they have begun; the run waits for those that take their places."""
    import ray

    given = {**SHAPE, "learning_rate": 3e-3, "total_images": 400}
    with open_run({**given, "workers": 1}, None, tmp_path / "here", False) as run:
        run.run(Silent())
        local = loss(run)
    waited = list[int]()

    def act(images: int) -> None:
        def others_step() -> bool:
            return ray.get(run.workers._server.pull.remote()).seen > images + 40

        if len(waited) < 2:
            wait_for(lambda: ray.available_resources().get("CPU", 0) == 0)
            wait_for(others_step)
            waited.append(images)
        if len(waited) == 1:
            for *_, worker in run.workers._running.values():
                ray.kill(worker)

    watching = Watching(act)
    with open_run({**given, "workers": 3}, None, tmp_path / "there", False, cluster=nodes[0].address) as run:
        untrained = loss(run)
        run.run(watching)
        assert untrained - loss(run) > 0.5 * (untrained - local) > 0  # the U-Net learns as it does here
    assert len(waited) == 2
    assert [re.sub(r"\(.*\)", "()", text) for text in sorted(watching.warnings)] == [
        f"worker {number} has died (); another one takes its place" for number in (1, 2)
    ]
    assert files(tmp_path / "there") == files(tmp_path / "here")
    found = rows(tmp_path / "there")
    assert 400 <= found[-1]["images"] < 400 + 4 * 3
    assert all(row["images"] == 4 * row["unet_updates"] for row in found)
    assert sum(row["staleness"] > 0 for row in found) > 0
    assert all(0 <= row["refused"] < 1 for row in found)
    assert all(isnan(row["staleness"]) for row in rows(tmp_path / "here"))


@pytest.mark.slow
def test_what_dies_again_and_again_ends_the_run_which_goes_on_without_a_cluster(nodes: Any, tmp_path: Path) -> None:
    import ray

    def kill_workers(_: int) -> None:
        for *_, worker in run.workers._running.values():
            ray.kill(worker)
        wait_for(lambda: len(ray.wait(list(run.workers._running), timeout=0)[0]) == 1)

    def kill_server(_: int) -> None:
        ray.kill(run.workers._server)

    watching, out = Watching(kill_workers), tmp_path / "run"
    given, cluster = {**SHAPE, "workers": 2, "total_images": 96}, nodes[0].address
    with (
        open_run(given, None, out, False, cluster=cluster) as run,
        pytest.raises(TrainingError, match=r"worker 1 has died .* 3 times by now; go on with --resume"),
    ):
        run.run(watching)
    assert len(watching.warnings) == 2
    with (
        open_run({"workers": 1}, None, out, True, cluster=cluster) as run,
        pytest.raises(TrainingError, match=r"parameter server.* has died .*--resume"),
    ):
        run.run(Watching(kill_server))
    assert pretrain(out=out, resume=True, workers=1).metrics["images"] == 96


@pytest.mark.slow
def test_a_worker_that_waits_for_a_cpu_is_told_once(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something else has one of the two CPUs; the run ends without that worker."""
    import ray

    def one_is_there() -> bool:
        run.workers.check()
        return len(run.workers._waiting) == 1

    def act(_: int) -> None:
        if not waited:
            wait_for(one_is_there)
            monkeypatch.setattr("agents.pretraining.nodes.PATIENCE", 0.0)
            waited.append(True)

    waited, watching = list[bool](), Watching(act)
    with open_run(
        {**SHAPE, "workers": 3, "total_images": 120}, None, tmp_path / "run", False, cluster=nodes[0].address
    ) as run:
        other = ray.remote(Busy).options(num_cpus=1).remote()
        ray.get(other.__ray_ready__.remote())
        run.run(watching)
        ray.kill(other)
    assert [re.sub(r"\d", "", text) for text in watching.warnings] == [
        "worker  waits for a CPU, as something else uses the cluster; the others go on"
    ]
    assert rows(tmp_path / "run")[-1]["images"] >= 120


class Busy:
    """An actor of somebody else."""


def seen(run: Path) -> int:
    return max((int(path.stem) for path in run.glob("checkpoints/[0-9]*.safetensors")), default=0)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="the kernel does not tell which process has started which")
def test_kill_9_of_the_command_leaves_nothing_behind_and_the_run_goes_on(
    nodes: Any, stopping: Any, tmp_path: Path
) -> None:
    """On another cluster with more workers, where Ctrl-C stops it; it ends on this machine, with one."""
    out = tmp_path / "run"
    given = {**SHAPE, "total_images": 800, "workers": 2}
    flags = [word for key, value in given.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    kill_once(lambda: seen(out) > 0, "train-agent", *flags, "--cluster", "auto", "--out", str(out))
    killed = seen(out)
    with pytest.raises(InterruptionError, match="all is saved"):
        pretrain(out=out, resume=True, workers=3, cluster=nodes[0].address, observer=stopping)
    assert killed < seen(out) < 800
    last = pretrain(out=out, resume=True, workers=1).metrics
    assert last["images"] == 4 * last["unet_updates"] >= 800  # nothing was lost, or counted twice
