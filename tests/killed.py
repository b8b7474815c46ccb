"""A command that is killed, and whether it leaves processes behind."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def wait_for(happened: Callable[[], bool], seconds: float = 480) -> None:
    """Wait until something has happened; so long only where the machine is busy."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def kill_once(happened: Callable[[], bool], *words: str, launcher: Sequence[str] = ()) -> None:
    """Start `ahm`, and kill it, as `kill -9` does, once something has happened; all that it has started ends, too.

    Args:
        happened: Whether that has happened.
        words: Of the command.
        launcher: What starts `ahm`, and is killed: a module with its arguments, such as `torchrun`'s.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, "-m", "ahm", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, text=True) as process:
        try:
            wait_for(lambda: happened() or process.poll() is not None)
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            family = _descendants(process.pid)
        finally:
            process.kill()
    assert family
    wait_for(lambda: not any(_alive(pid) for pid in family))


def _descendants(pid: int) -> set[int]:
    family, grown = {pid}, True
    while grown:
        children = set()
        for stat in Path("/proc").glob("[0-9]*"):
            parent = _status(int(stat.name))[1:2]
            if parent and int(parent[0]) in family:
                children.add(int(stat.name))
        grown, family = not children <= family, family | children
    return family - {pid}


def _alive(pid: int) -> bool:
    return _status(pid)[:1] not in ([], ["Z"])


def _status(pid: int) -> list[str]:
    """State and parent of a process; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return []
