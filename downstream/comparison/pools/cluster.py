"""The machines of a Ray cluster, each at work on trials; what one of them had done outlives it."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from ahm_env import AHMError, RunError, SettingsError
from ahm_env.errors import InterruptionError, explain
from ahm_env.files import first_line
from ahm_env.images.dataset.builder import Progress
from ahm_env.runs.cluster import PATIENCE, connect, here
from downstream.comparison.pools.pool import POLL, Pool, add_error, images_shown
from downstream.comparison.pools.remote import Files, Lent, Needs, keep, pack, pack_images, pack_start, train
from downstream.comparison.trials import Trial

TRIES = 3  # machines that may die under a trial


class Cluster:
    """Trains trials on the nodes of a Ray cluster, and tests them here. Use as a context manager.

    Nodes need Ray and this package, but neither the images nor a common disk. After each row of its metrics a trial's
    directory comes here; one whose node dies goes on elsewhere from there.

    Args:
        address: Of a cluster; `auto` starts one on this machine, which no other machine can reach.
        gpu: Whether each trial takes a GPU, where the cluster has any.
        log: Called for each trial that ends, goes on elsewhere, or waits in vain, in a line.
        progress: Called with (done, total) in images that the trials have shown.

    Attributes:
        size: Trials at once, as long as no node joins or leaves.

    Raises:
        SettingsError: There is no Ray, or no such cluster.
    """

    def __init__(self, address: str, gpu: bool, log: Callable[[str], object], progress: Progress) -> None:
        self._ray = ray = connect(address)
        self.log, self.progress = log, progress
        self._here = Pool(1, 1, log, lambda done, total: None)
        self._newest = ray.remote(_Newest).options(num_cpus=0, scheduling_strategy=here(ray)).remote()
        cpus, gpus = (ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU"))
        gpu &= gpus > 0
        self.size = int(gpus if gpu else cpus)
        if not self.size:
            ray.shutdown()
            raise SettingsError(f"--cluster {address}: has no CPU to train on; start its nodes with some")
        self._train, self._gpus = ray.remote(_train), int(gpu)
        self._lent: dict[Path | None, Any] = {}
        self._tasks: dict[Any, _Sent] = {}

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *error: object) -> None:
        self._here.__exit__(*error)
        self._ray.shutdown()

    @property
    def failed(self) -> list[Trial]:
        """Trials that did not come to their end."""
        return self._here.failed

    def work(self, trials: Sequence[Trial]) -> None:
        """Bring trials to their end, first ones first; one that fails does not keep the others from running."""
        for trial in trials:
            self._send(trial, 1)
        total = sum(trial.total for trial in trials)
        while self._tasks or self._here.busy:
            time.sleep(POLL)
            self._here.look()
            if self._tasks:  # else the cluster may be gone
                try:
                    self._collect()
                    self._look_after()
                except self._ray.exceptions.RayError as error:
                    raise RunError(f"the cluster is gone ({first_line(error)}); the same command goes on") from None
            left = sum(sent.trial.total - images_shown(sent.trial.path) for sent in self._tasks.values())
            self.progress(total - left, total)

    def _collect(self) -> None:
        """Write down what nodes have sent, and see which tasks have ended."""
        ready, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        begun, newest = self._ray.get(self._newest.take.remote())
        for sent in self._tasks.values():
            sent.begun |= sent.trial.name in begun
            if sent.trial.name in newest:
                keep(sent.trial, newest[sent.trial.name])
        for task in ready:
            sent = self._tasks.pop(task)
            trial = sent.trial
            try:
                found = self._ray.get(task)
            except self._ray.exceptions.RayTaskError as error:
                found = str(error)
            except self._ray.exceptions.RayError as error:
                found = Elsewhere(first_line(error))
            if isinstance(found, Elsewhere) and sent.tries < TRIES:
                self.log(f"again   {trial.name:<40} from its last row: {found}")
                self._send(trial, sent.tries + 1)
            elif isinstance(found, Elsewhere):
                self._fail(trial, f"its nodes died, or were stopped, {TRIES} times: {found}")
            elif isinstance(found, str):
                self._fail(trial, found)
            else:
                keep(trial, found)
                self._here.add([trial])  # evaluates, or tests, what was trained, while nodes go on

    def _send(self, trial: Trial, tries: int) -> None:
        """Add a task that trains a trial, or goes on with that."""
        try:
            needs = Needs.of(trial)
        except AHMError as error:
            self._fail(trial, str(error))
            return
        images, masks = self._lend(needs.images, pack_images), self._lend(needs.masks, pack)
        start = self._lend(needs.start, pack_start)
        largest = self._largest(self._nodes())
        cpus = min(trial.processes, largest or trial.processes)  # one that is larger than any node has one alone
        train = self._train.options(num_cpus=cpus, num_gpus=self._gpus, max_retries=0)
        task = train.remote(needs, images, masks, start, pack(trial.path), self._newest)
        self._tasks[task] = _Sent(trial, tries, cpus)

    def _look_after(self) -> None:
        """Send anew what no node is large enough for any more; tell of what none takes though it is its turn."""
        nodes, taken, now = self._nodes(), 0, time.monotonic()
        kind, largest = "GPU" if self._gpus else "CPU", self._largest(nodes)
        room = sum(node.get(kind, 0) for node in nodes)
        for task, sent in list(self._tasks.items()):
            before, taken = taken, taken + (self._gpus or sent.cpus)
            if sent.begun:
                continue
            if sent.cpus > largest > 0:  # not known when it was sent: nodes are listed for a while after they died
                self._ray.cancel(task)
                del self._tasks[task]
                self._send(sent.trial, sent.tries)
            elif not before or taken <= room:  # the first has its turn even where there is no node
                sent.since = sent.since or now
                if now - sent.since > PATIENCE:
                    many = f"{sent.cpus} CPUs of a node" if sent.cpus > 1 and not self._gpus else f"a {kind}"
                    why = "something else uses the cluster, nodes are gone, or its images are on their way"
                    self.log(f"waits   {sent.trial.name:<40} for {many}: {why}")
                    sent.since = inf

    def _nodes(self) -> list[Mapping[str, float]]:
        """List what each node has; where trials take GPUs, only of nodes with one."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return [node for node in alive if node.get("GPU", 0) >= self._gpus]

    def _largest(self, nodes: Iterable[Mapping[str, float]]) -> int:
        """CPUs of the largest node; 0 where there is none that has any."""
        return int(max((node.get("CPU", 0) for node in nodes), default=0))

    def _lend(self, directory: Path | None, read: Callable[[Any], Files]) -> Any:
        """Put files where all nodes find them, once."""
        if directory not in self._lent:
            self._lent[directory] = self._ray.put(read(directory))
        return self._lent[directory]

    def _fail(self, trial: Trial, reason: str) -> None:
        add_error(trial.path, reason)
        self._here.conclude(trial, 2)


@dataclass
class _Sent:
    """A trial that was sent to the nodes.

    Attributes:
        trial: The trial.
        tries: Nodes that have had it, with this one.
        cpus: What it takes of a node.
        begun: Whether a node is at work on it.
        since: When its turn came, in seconds; 0 as long as it has not, inf where the user knows that it waits.
    """

    trial: Trial
    tries: int
    cpus: int
    begun: bool = False
    since: float = 0.0


class Elsewhere(str):
    """Why a trial has to go on on another node."""


class _Newest:
    """Where nodes leave the newest files of their trials; lives on the machine that keeps them."""

    def __init__(self) -> None:
        self._begun = set[str]()
        self._files: dict[str, Files] = {}

    def begin(self, trial: str) -> None:
        self._begun.add(trial)

    def put(self, trial: str, files: Files) -> None:
        self._files[trial] = files

    def take(self) -> tuple[set[str], dict[str, Files]]:
        """Give, and forget, the names of trials that nodes have begun, and the files of trials."""
        taken = self._begun, self._files
        self._begun, self._files = set(), {}
        return taken


def _train(needs: Needs, images: Files, masks: Files, start: Files, own: Files, newest: Any) -> Files | str:
    """Train a trial on a node: its files, or why they could not be made."""
    import ray

    def send(files: Files) -> None:
        ray.get(newest.put.remote(needs.trial.name, files))  # there before the task can end

    ray.get(newest.begin.remote(needs.trial.name))
    try:
        return train(needs, Lent(images, masks, start), own, send)
    except InterruptionError:
        return Elsewhere("it was stopped")
    except OSError as error:
        return Elsewhere(explain(error))
    except AHMError as error:
        return str(error)
