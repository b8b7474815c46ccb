"""Trials on a Ray cluster of two nodes on this machine: they are spread, and outlive a node that is killed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ahm_env import SettingsError
from ahm_env.files import load_tensors
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
