"""The machines of a Ray cluster, each at work on trials; what one of them had done outlives it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ahm_env import AHMError, RunError, SettingsError
from ahm_env.errors import InterruptionError, explain
from ahm_env.files import first_line
from ahm_env.images.dataset.builder import Progress
from ahm_env.runs.cluster import connect, here
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
        log: Called for each trial that ends, in a line.
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
        self._largest = int(max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]))
        self._train, self._gpus = ray.remote(_train), int(gpu)
        self._lent: dict[Path | None, Any] = {}

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
        tasks = dict[Any, tuple[Trial, int]]()
        for trial in trials:
            self._send(trial, 1, tasks)
        total = sum(trial.total for trial in trials)
        while tasks:
            try:
                ready, _ = self._ray.wait(list(tasks), timeout=POLL)
                newest = self._ray.get(self._newest.take.remote())
            except self._ray.exceptions.RayError as error:
                raise RunError(f"the cluster is gone ({first_line(error)}); the same command goes on") from None
            for trial, _ in tasks.values():
                if trial.name in newest:
                    keep(trial, newest[trial.name])
            for task in ready:
                trial, tries = tasks.pop(task)
                try:
                    found = self._ray.get(task)
                except self._ray.exceptions.RayTaskError as error:
                    found = str(error)
                except self._ray.exceptions.RayError as error:
                    found = Elsewhere(first_line(error))
                if isinstance(found, Elsewhere) and tries < TRIES:
                    self.log(f"again   {trial.name:<40} from its last row: {found}")
                    self._send(trial, tries + 1, tasks)
                elif isinstance(found, Elsewhere):
                    self._fail(trial, f"its nodes died, or were stopped, {TRIES} times: {found}")
                elif isinstance(found, str):
                    self._fail(trial, found)
                else:
                    keep(trial, found)
                    self._here.work([trial])  # evaluates, or tests, what was trained
            left = sum(trial.total - images_shown(trial.path) for trial, _ in tasks.values())
            self.progress(total - left, total)

    def _send(self, trial: Trial, tries: int, tasks: dict[Any, tuple[Trial, int]]) -> None:
        """Add to the tasks one that trains a trial, or goes on with that."""
        try:
            needs = Needs.of(trial)
        except AHMError as error:
            self._fail(trial, str(error))
            return
        images, masks = self._lend(needs.images, pack_images), self._lend(needs.masks, pack)
        start = self._lend(needs.start, pack_start)
        cpus = min(trial.processes, self._largest)  # one that is larger than any node has one alone
        train = self._train.options(num_cpus=cpus, num_gpus=self._gpus, max_retries=0)
        task = train.remote(needs, images, masks, start, pack(trial.path), self._newest)
        tasks[task] = trial, tries

    def _lend(self, directory: Path | None, read: Callable[[Any], Files]) -> Any:
        """Put files where all nodes find them, once."""
        if directory not in self._lent:
            self._lent[directory] = self._ray.put(read(directory))
        return self._lent[directory]

    def _fail(self, trial: Trial, reason: str) -> None:
        add_error(trial.path, reason)
        self._here.conclude(trial, 2)


class Elsewhere(str):
    """Why a trial has to go on on another node."""


class _Newest:
    """Where nodes leave the newest files of their trials; lives on the machine that keeps them."""

    def __init__(self) -> None:
        self._files: dict[str, Files] = {}

    def put(self, trial: str, files: Files) -> None:
        self._files[trial] = files

    def take(self) -> dict[str, Files]:
        files, self._files = self._files, {}
        return files


def _train(needs: Needs, images: Files, masks: Files, start: Files, own: Files, newest: Any) -> Files | str:
    """Train a trial on a node: its files, or why they could not be made."""
    import ray

    def send(files: Files) -> None:
        ray.get(newest.put.remote(needs.trial.name, files))  # there before the task can end

    try:
        return train(needs, Lent(images, masks, start), own, send)
    except InterruptionError:
        return Elsewhere("it was stopped")
    except OSError as error:
        return Elsewhere(explain(error))
    except AHMError as error:
        return str(error)
