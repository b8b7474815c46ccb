"""Trials on a Ray cluster of two nodes on this machine: they are spread, and outlive a node that is killed."""

import importlib
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ahm_env import SettingsError
from ahm_env.files import load_tensors
from ahm_env.images.dataset.cache import IDENTITIES
from ahm_env.runs.cluster import LOOPBACK
from downstream.comparison.experiment import Experiment
from downstream.comparison.pools import cluster, remote
from downstream.comparison.pools.cluster import Cluster
from downstream.comparison.pools.pool import images_shown
from tests.killed import kill_once

COMMON = {"data": "phantom:48:0", "image_size": 16, "patch_size": 4, "width": 2, "batch_size": 8, "device": "cpu"}


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


def assert_same_weights(trial: Any, other: Any) -> None:
    one, two = (load_tensors(each.path / "unet.safetensors")[0] for each in (trial, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_without_ray_a_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"--cluster needs Ray: pip install 'ahm-env\[cluster\]'"):
        Cluster("auto", False, print, silent)


def test_ray_that_would_listen_on_every_interface_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", sys)
    monkeypatch.delenv(LOOPBACK, raising=False)
    with pytest.raises(SettingsError, match="Ray was imported before"):
        Cluster("auto", False, print, silent)


def test_ray_that_does_not_start_here_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room in /dev/shm\nand more")

    for name in ("ray", "ray.util", "ray.util.scheduling_strategies"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(init=init))  # type: ignore[misc]
    monkeypatch.setenv(LOOPBACK, "0")
    with pytest.raises(SettingsError, match=r"^--cluster auto: Ray does not start here .no room in /dev/shm.$"):
        Cluster("auto", False, print, silent)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there_is_one_line(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SettingsError, match=f"--cluster {address}: no Ray cluster answers .*`ray start --head`"):
        Cluster(address, False, print, silent)


# ---------------------------------------------------------------- without Ray


class Task:
    """A task that was asked for; ends once it has a result."""

    def __init__(self, asked: dict[str, Any], arguments: tuple[Any, ...]) -> None:
        self.asked, self.trial, self.images, self.result = asked, arguments[0].trial, arguments[1], None


class Ray:
    """Stands for the module `ray`: a task has begun where there is room, and ends when the test says so."""

    exceptions = SimpleNamespace(RayError=ConnectionError, RayTaskError=ConnectionRefusedError)

    def __init__(self, *has: dict[str, float]) -> None:
        self.has = list(has)
        self.sent, self.cancelled, self.lent = list[Task](), list[Task](), list[Any]()
        self.newest: Any = None
        self.look: Any = lambda: None  # called at each look at the tasks

    def remote(self, what: Any) -> Any:
        return SimpleNamespace(options=lambda **asked: SimpleNamespace(remote=partial(self._start, what, asked)))

    def _start(self, what: Any, asked: dict[str, Any], *arguments: Any) -> Any:
        if isinstance(what, type):
            self.newest = what()
            return SimpleNamespace(take=SimpleNamespace(remote=self.newest.take))
        self.sent.append(Task(asked, arguments))
        return self.sent[-1]

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": one} for one in self.has] + [{"Alive": False, "Resources": {"CPU": 99}}]

    def cluster_resources(self) -> dict[str, float]:
        return {kind: sum(one.get(kind, 0) for one in self.has) for kind in ("CPU", "GPU")}

    def wait(self, tasks: list[Task], **_: Any) -> tuple[list[Task], list[Task]]:
        assert tasks  # while trials are tested here, nothing is asked of the cluster
        self.look()
        return [task for task in tasks if task.result is not None], []

    def get(self, what: Any) -> Any:
        return what.result if isinstance(what, Task) else what

    def put(self, what: Any) -> Any:
        self.lent.append(what)
        return what

    def cancel(self, task: Task) -> None:
        self.cancelled.append(task)

    def shutdown(self) -> None:
        pass


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, own_cache: None) -> Any:
    """Make a stand-in for Ray, of nodes that have this, which a cluster connects to."""

    def make(*has: dict[str, float]) -> Ray:
        ray = Ray(*has)
        monkeypatch.setattr(cluster, "connect", lambda address: ray)
        monkeypatch.setattr(cluster, "here", lambda ray: None)
        monkeypatch.setattr(cluster, "POLL", 0.02)
        return ray

    return make


def test_a_trial_that_no_node_takes_is_told_of_once(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only node dies under the first of two trials; the second one's turn has not come."""
    monkeypatch.setattr(cluster, "PATIENCE", 0.0)
    ray, logged, looks = stand_in({"CPU": 1.0}), list[str](), list[int]()

    def look() -> None:
        looks.append(len(looks))
        if looks[-1] == 0:
            ray.newest.begin(trials[0].name)
        elif looks[-1] == 4:
            assert logged == []  # one is at work, the other one waits for that
            ray.has.clear()
            ray.sent[0].result = cluster.Elsewhere("the node died")
        elif looks[-1] == 8:
            for task in ray.sent:
                task.result = "not today"

    ray.look = look
    trials = Experiment(tmp_path / "out", ("random",), 2, COMMON, None, 1).pretraining
    with Cluster("somewhere", False, logged.append, silent) as pool:
        pool.work(trials)
    told = [line.split() for line in logged]
    assert [(line[0], line[1]) for line in told if line[0] != "failed"] == [
        ("again", trials[0].name),
        ("waits", trials[1].name),
    ]
    assert told[1][2:5] == ["for", "a", "CPU:"]


def test_a_trial_larger_than_any_node_that_is_left_takes_a_smaller_one(stand_in: Any, tmp_path: Path) -> None:
    """The larger node, with the first trial, dies; it is listed for some time after that, and the second one waits."""
    ray, looks = stand_in({"CPU": 4.0}, {"CPU": 2.0}), list[int]()

    def look() -> None:
        looks.append(len(looks))
        if looks[-1] == 0:
            ray.newest.begin(trials[0].name)
        elif looks[-1] == 1:
            ray.sent[0].result = cluster.Elsewhere("the node died")
        elif looks[-1] == 2:
            del ray.has[0]
        elif looks[-1] == 4:
            for task in ray.sent:
                task.result = "not today"

    ray.look = look
    trials = Experiment(tmp_path / "out", ("a3c+workers=8",), 2, COMMON, None, 1).pretraining
    with Cluster("somewhere", False, str, silent) as pool:
        pool.work(trials)
    asked = [(task.trial, task.asked["num_cpus"]) for task in ray.sent]
    one, two = trials
    assert asked == [(one, 4), (two, 4), (one, 4), (two, 2), (one, 2)]
    assert ray.cancelled == [ray.sent[1], ray.sent[2]]


@pytest.mark.parametrize(
    ("gpu", "nodes", "size", "asked"),
    [
        (False, [{"CPU": 4.0, "GPU": 2.0}, {"CPU": 2.0}], 6, [(1, 0), (2, 0), (4, 0)]),
        (True, [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 2.0}], 3, [(1, 1), (2, 1), (2, 1)]),
        (True, [{"CPU": 4.0}, {"CPU": 2.0}], 6, [(1, 0), (2, 0), (4, 0)]),  # no GPU is there to ask for
    ],
)
def test_a_trial_asks_for_a_cpu_for_each_of_its_workers_or_for_a_gpu(
    gpu: bool, nodes: Any, size: int, asked: Any, stand_in: Any, tmp_path: Path
) -> None:
    """CPUs and GPUs that tasks ask of Ray; a trial with more workers than a node has CPUs has the largest alone."""
    ray = stand_in(*nodes)
    ray.look = lambda: [setattr(task, "result", "not today") for task in ray.sent]
    agents = ("random", "a3c+workers=2", "a3c+workers=8")
    with Cluster("somewhere", gpu, str, silent) as pool:
        assert pool.size == size
        pool.work(Experiment(tmp_path / "out", agents, 1, COMMON, None, 1).pretraining)
    assert [(task.asked["num_cpus"], task.asked["num_gpus"]) for task in ray.sent] == asked
    assert all(task.asked["max_retries"] == 0 for task in ray.sent)  # Ray would begin anew, not from the last row


def test_a_cluster_without_a_cpu_is_refused(stand_in: Any) -> None:
    stand_in({"memory": 1.0})
    with pytest.raises(SettingsError, match="--cluster somewhere: has no CPU to train on"):
        Cluster("somewhere", True, print, silent)


def test_pixels_are_lent_once_to_all_trials_of_a_data_set(stand_in: Any, tmp_path: Path) -> None:
    """Ray brings what is lent once to each node; two experiments have images of two sizes, and one trial is resent."""
    ray, other = stand_in({"CPU": 2.0}), {**COMMON, "image_size": 32}
    one, two = (
        Experiment(tmp_path / str(it["image_size"]), ("random", "a3c"), 2, it, None, 1) for it in (COMMON, other)
    )

    def look() -> None:
        for task in ray.sent[1:]:
            task.result = "not today"
        ray.sent[0].result = cluster.Elsewhere("the node died")

    ray.look = look
    with Cluster("somewhere", False, str, silent) as pool:
        for trials in (one.references, one.pretraining, two.pretraining):
            pool.work(trials)
    lent = [files for files in ray.lent if IDENTITIES in files]
    assert len(lent) == 2
    assert not any(files[IDENTITIES].any() for files in lent)  # who is on them is nobody's to know
    assert [task.images is lent[0] for task in ray.sent] == [True] * 6 + [False] * 4
    assert all(task.images is lent[1] for task in ray.sent[6:])


# In a file of its own, since the process that tests it must be able to import it
TRIAL = """
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from ahm_env import AHMError


@dataclass(frozen=True)
class Trial:
    path: Path
    given: ClassVar = {}
    outcome: ClassVar = "tested"
    processes: ClassVar = 1
    total: ClassVar = 1

    @property
    def name(self):
        return self.path.name

    def work(self):
        deadline = time.monotonic() + 20
        while not all((self.path.parent / f"long.{name}").exists() for name in ("row", "log")):
            if time.monotonic() > deadline:
                raise AHMError("of the other trial no row was written down, or not why it failed")
            time.sleep(0.02)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("quick_processes")
def test_rows_are_written_down_while_another_trial_is_tested(
    stand_in: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trial_of_a_cluster.py").write_text(TRIAL)
    monkeypatch.syspath_prepend(tmp_path)
    # the test of the short one ends when the long one, after a row, has failed
    trial = importlib.import_module("trial_of_a_cluster").Trial
    short, long = trial(tmp_path / "short"), trial(tmp_path / "long")
    monkeypatch.setattr(cluster.Needs, "of", lambda trial: cluster.Needs(trial, "", tmp_path / "images", None, None))
    monkeypatch.setattr(cluster, "pack_images", lambda directory: {})
    monkeypatch.setattr(cluster, "keep", lambda trial, files: trial.path.with_suffix(".row").write_text(str(files)))
    ray, logged, looks = stand_in({"CPU": 2.0}), list[str](), list[int]()

    def look() -> None:
        looks.append(len(looks))
        ray.sent[0].result = {"its": "files"}
        if looks[-1] == 2:
            ray.newest.put("long", {"a": "row"})
        elif looks[-1] == 4:
            ray.sent[1].result = "not today"

    ray.look = look
    with Cluster("somewhere", False, logged.append, silent) as pool:
        pool.work([short, long])
    assert [line.split()[:3] for line in logged] == [["failed", "long", "status"], ["done", "short", "tested"]]
    assert (tmp_path / "long.row").read_text() == "{'a': 'row'}"


# ---------------------------------------------------------------- two nodes


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_trials_are_spread_and_outlive_a_node(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two long trials, one a node; the second node dies with its folder once both are under way."""
    common = {**COMMON, "total_images": 240, "precision": "fp32"}
    here, there = (Experiment(tmp_path / name, ("random", "a3c"), 1, common, None, 1) for name in ("here", "there"))
    for one in (here, there):
        one.references[0].work()
    cluster_of_two, folder = nodes
    logged, killed, used = list[str](), list[Any](), list[Path]()
    begun = set[str]()

    def keep(trial: Any, files: Any) -> None:
        remote.keep(trial, files)
        begun.add(trial.name)
        if len(begun) == 2 and not killed:
            killed.extend(cluster_of_two.worker_nodes)
            used.extend(folder.glob("ahm-trial-*"))
            cluster_of_two.remove_node(killed[0], allow_graceful=False)
            shutil.rmtree(folder, ignore_errors=True)

    monkeypatch.setattr(cluster, "keep", keep)
    with Cluster(cluster_of_two.address, False, logged.append, silent) as pool:
        assert pool.size == 2
        pool.work(there.pretraining)
        assert pool.failed == []
    assert len(used) == 1  # of the two trials, one was there
    assert [line.split()[0] for line in logged].count("again") == 1, logged
    for mine, theirs in zip(here.pretraining, there.pretraining, strict=True):
        assert theirs.done
        mine.work()
        assert_same_weights(mine, theirs)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.skipif(not Path("/proc").exists(), reason="the kernel does not tell which process has started which")
def test_kill_9_of_the_command_loses_no_row_of_a_trial(nodes: Any, call: Any, tmp_path: Path) -> None:
    """The same command goes on, here on another cluster; trials end bit for bit like those that nothing disturbed."""
    common = {**COMMON, "total_images": 480, "precision": "fp32"}
    here, there = (Experiment(tmp_path / name, ("random", "a3c"), 1, common, None, 1) for name in ("here", "there"))
    flags = [word for key, value in common.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    words = ["compare-agents", "--algos", "random,a3c", "--seeds", "1", "--reference-unets", "1", *flags]
    words += ["--out", str(tmp_path / "there"), "--cluster"]
    kill_once(lambda: any(images_shown(trial.path) for trial in there.pretraining), *words, "auto")
    assert not all(trial.done for trial in there.pretraining)
    tables = [trial.path / "metrics.csv" for trial in there.pretraining]
    kept = {table: table.read_text() for table in tables if table.exists()}
    assert call(*words, nodes[0].address)[0] == 0
    assert all(table.read_text().startswith(text) for table, text in kept.items())  # also their seconds
    here.references[0].work()
    for mine, theirs in zip(here.pretraining, there.pretraining, strict=True):
        assert theirs.done
        mine.work()
        assert_same_weights(mine, theirs)


# Says which addresses the processes of a cluster that was started here listen on, as the kernel tells them
LISTENING = """
import os
from pathlib import Path

from downstream.comparison.pools.cluster import Cluster

with Cluster("auto", False, print, print) as pool:
    assert pool._ray.get(pool._ray.remote(lambda: 5).remote()) == 5
    family, grown = {os.getpid()}, True
    while grown:
        children = {
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if int(stat.read_text().rpartition(")")[2].split()[1]) in family
        }
        grown, family = not children <= family, family | children
    own = set()
    for pid in family:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                own.add(os.readlink(link))
            except OSError:
                pass
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                found.append(words[1].partition(":")[0])
    print("listening", *sorted(set(found)), len(found))
    print("telemetry", os.environ["RAY_USAGE_STATS_ENABLED"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel does not tell who listens")
def test_a_cluster_of_this_machine_listens_on_loopback_alone(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", LISTENING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("listening", "telemetry")))
    *addresses, count = lines["listening"].split()
    assert set(addresses) <= {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert int(count) >= 4  # they were seen
    assert lines["telemetry"] == "0"


def test_how_many_run_at_once_is_the_clusters_to_say(call: Any, tmp_path: Path) -> None:
    words = ["compare-agents", "--cluster", "auto", "--jobs", "2", "--out", str(tmp_path / "out"), "--data", "phantom"]
    status, _, error = call(*words)
    assert (status, error.startswith("error: --jobs 2: a cluster")) == (2, True)
