"""Trials on a Ray cluster of two nodes on this machine: they are spread, and outlive a node that is killed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ahm_env import SettingsError
from ahm_env.files import load_tensors
from ahm_env.runs.cluster import LOOPBACK
from downstream.comparison import cluster, remote
from downstream.comparison.cluster import Cluster
from downstream.comparison.experiment import Experiment

COMMON = {"data": "phantom:48:0", "image_size": 16, "patch_size": 4, "width": 2, "batch_size": 8, "device": "cpu"}

# before Ray is imported: on loopback, without telemetry, and its processes not behind all others of the machine
os.environ.update(dict.fromkeys((LOOPBACK, "RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness"), "0"))


def silent(done: int, total: int) -> None:
    assert 0 <= done <= total


def test_without_ray_a_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"--cluster needs Ray: pip install 'ahm-env\[cluster\]'"):
        Cluster("auto", 1, False, print, silent)


def test_ray_that_would_listen_on_every_interface_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", sys)
    monkeypatch.delenv(LOOPBACK, raising=False)
    with pytest.raises(SettingsError, match="Ray was imported before"):
        Cluster("auto", 1, False, print, silent)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there_is_one_line(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(SettingsError, match=f"--cluster {address}: no Ray cluster answers .*`ray start --head`"):
        Cluster(address, 1, False, print, silent)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster whose first node is this process's, with one CPU, and a second one; each with a temporary folder."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Nodes

    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    one, other = (
        {"num_cpus": 1, "include_dashboard": False, "env_vars": {"TMPDIR": str(folder)}} for folder in folders
    )
    found = Nodes(initialize_head=True, head_node_args=one)
    found.add_node(**other)
    found.wait_for_nodes()
    yield found, folders[1]
    found.shutdown()


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
    with Cluster(cluster_of_two.address, 1, False, logged.append, silent) as pool:
        assert pool.size == 2
        pool.work(there.pretraining)
        assert pool.failed == []
    assert len(used) == 1  # of the two trials, one was there
    assert [line.split()[0] for line in logged].count("again") == 1, logged
    for mine, theirs in zip(here.pretraining, there.pretraining, strict=True):
        assert theirs.done
        mine.work()
        one, two = (load_tensors(trial.path / "unet.safetensors")[0] for trial in (mine, theirs))
        assert all(torch.equal(one[name], two[name]) for name in one)


# Says which addresses the processes of a cluster that was started here listen on, as the kernel tells them
LISTENING = """
import os
from pathlib import Path

from downstream.comparison.cluster import Cluster

with Cluster("auto", 1, False, print, print) as pool:
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
