"""Workers on the nodes of a Ray cluster: those of `workers`, whose weights a parameter server holds together."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Any

from agents.policy.networks import NetworkAgent
from agents.pretraining.settings import RunSettings
from agents.pretraining.workers import Work, train
from agents.registry import agent_class
from ahm_env import AHMError, SettingsError, TrainingError
from ahm_env.files import first_line
from ahm_env.images.dataset.lent import LentImages
from ahm_env.model.parameter_server import Learner, Link, ParameterServer
from ahm_env.runs.cluster import PATIENCE, here

STALEST = 4  # times the number of workers is the staleness that is taken: of a worker four times as slow as the others
TRIES = 3  # times that a worker is started


class Nodes:
    """All workers but the first, which is the calling process, on a cluster. Used like `workers.Workers`.

    Nodes need Ray and this package, but neither the images nor a common disk.

    Args:
        ray: The module `ray`, connected to the cluster.
        count: Number of workers, the calling process included.
        work: What they have.
        seen: Images that were shown before.
        warn: Called with what the user should know.

    Attributes:
        shared: Holds their weights together.

    Raises:
        SettingsError: The agent cannot be trained so.
    """

    def __init__(self, ray: Any, count: int, work: Work, seen: int, warn: Callable[[str], object]) -> None:
        if not isinstance(work.agent, NetworkAgent) and work.agent.state().keys() != {"generator"}:
            raise SettingsError(
                f"{work.agent.name} keeps what it learns in a way of its own; on a cluster only an agent of "
                f"agents.policy.networks:NetworkAgent can be trained: leave out --cluster"
            )
        self._ray, self._count, self._warn = ray, count, warn
        server = ray.remote(ParameterServer).options(num_cpus=0, scheduling_strategy=here(ray))
        self._server = server.remote(learners(work), seen, STALEST * count)
        settings = replace(work.settings, device="cpu")
        self._work = ray.put(replace(work.lent(), settings=settings, images=LentImages(work.images)))
        self.shared = Link(ray, self._server, learners(work))
        self._running: dict[Any, tuple[int, int, Any]] = {}
        self._waiting: dict[Any, tuple[int, float]] = {}

    def __enter__(self) -> "Nodes":
        for number in range(1, self._count):
            self._start(number, 1)
        return self

    def __exit__(self, *_: object) -> None:
        for _number, _tries, worker in self._running.values():
            self._ray.kill(worker)
        self._ray.kill(self._server)
        self._server = None
        self.shared.close()

    def measure(self) -> Mapping[str, float]:
        """Give further numbers for a row of `metrics.csv`, over all batches since the last row."""
        return self.shared.measure()

    def check(self) -> None:
        """See whether all are well; one that has died is replaced.

        Raises:
            TrainingError: A worker failed, or has died several times.
        """
        for task in self._ended(self._waiting):
            self._waiting.pop(task)
        for task, (number, since) in list(self._waiting.items()):
            if monotonic() - since > PATIENCE:
                self._warn(f"worker {number} waits for a CPU, as something else uses the cluster; the others go on")
                self._waiting.pop(task)
        for task in self._ended(self._running):
            number, tries, _ = self._running.pop(task)
            try:
                failure = self._ray.get(task)
            except self._ray.exceptions.RayTaskError as error:
                failure = f"worker {number} failed; the last checkpoint is intact, go on with --resume\n{error}"
            except self._ray.exceptions.RayError as error:
                failure = f"worker {number} has died ({first_line(error)})"
                if tries < TRIES:
                    self._warn(f"{failure}; another one takes its place")
                    self._start(number, tries + 1)
                    continue
                failure += f", {TRIES} times by now; go on with --resume"
            if failure is not None:
                raise TrainingError(failure)

    def join(self) -> None:
        """Bring home what was learned; what workers are still at is given up."""
        self.fetch()

    def fetch(self) -> None:
        """Bring here what the server has, as long as it is there."""
        if self._server is not None:
            self.shared.fetch()

    def _ended(self, tasks: Mapping[Any, object]) -> list[Any]:
        return list(self._ray.wait(list(tasks), num_returns=len(tasks), timeout=0)[0]) if tasks else []

    def _start(self, number: int, tries: int) -> None:
        worker = self._ray.remote(Worker).options(num_cpus=1, scheduling_strategy="SPREAD").remote()
        self._waiting[worker.__ray_ready__.remote()] = number, monotonic()
        self._running[worker.train.remote(number, self._work, self._server)] = number, tries, worker


class Worker:
    """A worker on a node, as an actor."""

    def train(self, number: int, work: Work, server: Any) -> str | None:
        """Be the worker of this number; returns what went wrong, if the user can mend it."""
        import ray

        try:
            train(number, work, Link(ray, server, learners(work)), lambda: False)
        except AHMError as error:
            return f"worker {number}: {error}"
        return None


def learners(work: Work) -> list[Learner]:
    """List the networks that learn: the U-Net, and the agent's where it has one."""
    found: list[Learner] = [(work.reconstructor.unet, work.reconstructor.optimiser)]
    if isinstance(work.agent, NetworkAgent):
        found.append((work.agent.network, work.agent.optimiser))
    return found


def count_workers(ray: Any, settings: RunSettings) -> int:
    """Count the workers of a run on a cluster; by default as many as that has CPUs.

    Raises:
        SettingsError: The cluster has not so many, or the agent trains in one process, or on a GPU.
    """
    if not agent_class(settings.algo).parallel:
        raise SettingsError(f"{settings.algo} trains in one process; leave out --cluster")
    if settings.torch_device.type != "cpu":
        raise SettingsError("--cluster: workers train on CPUs; add --device cpu")
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if settings.workers > cpus + 1:
        raise SettingsError(f"--workers {settings.workers}: the cluster has {cpus} CPUs; ask for fewer, or add nodes")
    return settings.workers or max(1, cpus)
