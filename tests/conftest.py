"""For all tests: one thread a process, since tests run side by side, kernels that every CPU has, the command line.

The last lines of a run say what tests have counted, and which were left out for want of an extra or a browser.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# before PyTorch looks, so that no machine computes in bf16 unasked
os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")
# before Ray is imported: on loopback, without telemetry, and its processes not behind all others of the machine
os.environ.update(
    dict.fromkeys(("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness"), "0")
)

import torch
from hypothesis import settings

import ahm
from tests.skipped import in_words

torch.set_num_threads(1)
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
os.fsync = lambda descriptor: None  # no file of a test must outlive a power cut, and to wait for a disk takes long


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


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A Ray cluster of two nodes of one CPU, the first this process's own; and the second one's temporary folder."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    common = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**27}
    one, other = ({**common, "env_vars": {"TMPDIR": str(folder)}} for folder in folders)
    found = Cluster(initialize_head=True, head_node_args=one)
    found.add_node(**other)
    found.wait_for_nodes()
    yield found, folders[1]
    found.shutdown()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def stopping() -> Any:
    """An observer of any run that stops it after its first update, as Ctrl-C does."""
    from ahm_env.runs.observer import Silent

    observer: Any = Silent()
    observer.on_update = lambda *_: signal.raise_signal(signal.SIGINT)
    return observer


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what tests have counted, and what was left out."""
    for report in terminalreporter.stats.get("passed", []):
        for name, line in report.user_properties:
            if name == "summary":
                terminalreporter.write_line(line)
    for line in in_words(terminalreporter.stats.get("skipped", []), config.rootpath / "pyproject.toml"):
        terminalreporter.write_line(line, yellow=True)
