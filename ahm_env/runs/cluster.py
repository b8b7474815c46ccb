"""Ray, by which other machines work for this one.

It executes code on them: whoever reaches its ports is let in.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from socket import create_connection
from typing import Any

from ahm_env.errors import SettingsError
from ahm_env.files import first_line

AUTO = "auto"
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0 when Ray is imported: it listens on the loopback interface alone
CONNECT_SECONDS = 10.0
PATIENCE = 60.0  # seconds for work to find a CPU or GPU, until the user is told


def connect(address: str, cpus: int | None = None) -> Any:
    """Import Ray, and connect to a cluster, or start one on this machine.

    Args:
        address: Of a cluster; `auto` starts one, which no other machine can reach.
        cpus: How many CPUs a cluster that is started counts; by default those that there are.

    Returns:
        The module `ray`, whose `shutdown` ends the connection, and the cluster that was started.

    Raises:
        SettingsError: There is no Ray, or no such cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address == AUTO:
        if sys.modules.get("ray") is not None and os.environ.get(LOOPBACK) != "0":
            raise SettingsError(f"--cluster {AUTO}: Ray was imported before; set {LOOPBACK}=0 before that")
        os.environ[LOOPBACK] = "0"
        os.environ.setdefault("RAY_worker_niceness", "0")  # else all of it waits for whatever else this machine does
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise SettingsError("--cluster needs Ray: pip install 'ahm-env[cluster]'") from None
    start = partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        if address == AUTO:
            start("local", include_dashboard=False, num_cpus=cpus)
        else:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            create_connection((host, int(port)), CONNECT_SECONDS).close()  # Ray itself would try for minutes
            start(address)
    except (RuntimeError, ValueError, OSError) as error:
        if address == AUTO:
            raise SettingsError(f"--cluster {AUTO}: Ray does not start here ({first_line(error)})") from None
        raise SettingsError(
            f"--cluster {address}: no Ray cluster answers ({first_line(error)}); start one with `ray start --head`"
        ) from None
    finally:
        if signal.getsignal(signal.SIGTERM) is not terminate:  # Ray's own would end a run before it is saved
            signal.signal(signal.SIGTERM, terminate)
    return ray


@contextmanager
def connected(address: str | None, cpus: int | None = None) -> Iterator[Any]:
    """Connect to a cluster until the block ends: see `connect`; yields None where there is no address."""
    if address is None:
        yield None
        return
    ray = connect(address, cpus)
    try:
        yield ray
    finally:
        ray.shutdown()


def here(ray: Any) -> Any:
    """Return the scheduling strategy by which something runs on this machine."""
    node = ray.get_runtime_context().get_node_id()
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
