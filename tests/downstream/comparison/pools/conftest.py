"""For tests of pools: processes that begin at once."""

import multiprocessing

import pytest

from downstream.comparison.pools import pool


@pytest.fixture
def quick_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes begin as children of one that has imported all they need: on their own they take seconds for that."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["downstream.comparison.pools.pool"])
    monkeypatch.setattr(pool.multiprocessing, "get_context", lambda _: server)
