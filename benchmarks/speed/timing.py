"""CPU time of functions and commands, taken in turn, so that ratios hold where a machine is busy or its speed drifts.

In one thread CPU time is the time that a thing would take on a core of its own.
"""

import resource
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ahm_env.masks import Floats

PAIRS = 20


def cpu_of_children() -> float:
    """Seconds of processors that the processes took that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def in_turn(*functions: Callable[[], object], clock: Callable[[], float] = time.process_time) -> Floats:
    """Call functions A B A B …; gives their seconds of CPU, `(PAIRS, len(functions))`, after a first call of each."""
    seconds = np.empty((PAIRS + 1, len(functions)))
    for row in seconds:
        for column, function in enumerate(functions):
            start = clock()
            function()
            row[column] = clock() - start
    return seconds[1:]


def commands_in_turn(*commands: Sequence[str]) -> Floats:
    """As `in_turn`, of processes that run commands."""
    runs = [partial(subprocess.run, command, check=True, capture_output=True) for command in commands]
    return in_turn(*runs, clock=cpu_of_children)


def shown(values: Floats) -> str:
    """Median, and its 95 % interval between two of the values, by rank; of up to five, the least and the most."""
    ordered = np.sort(values)
    edge = max(0, int((len(ordered) - 1.96 * len(ordered) ** 0.5) / 2))
    return f"{np.median(ordered):.2f} ({ordered[edge]:.2f} – {ordered[-1 - edge]:.2f})"
