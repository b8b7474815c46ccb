"""A training run, whatever it trains: its steps, rows, checkpoints and signals, and how it is begun or resumed."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import isnan, nan
from typing import Any, Generic, TypeVar

from torch import Tensor

from ahm_env.errors import CheckpointError, InterruptionError
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.model import ranks
from ahm_env.runs.directory import Checkpoint, Directory, Interruption, Row, S
from ahm_env.runs.observer import Observer, Silent

CHECKPOINT_SECONDS = 60.0

R = TypeVar("R")
A = TypeVar("A", bound="Run[Any, Any]")


class Run(ABC, Generic[S, R]):
    """One run from its start, or from its last checkpoint, to its end; bit for bit the same either way.

    A kind of run calls `restore` once it is made, and `after_step` after each step.

    Args:
        settings: What to compute.
        directory: The run directory, held by this process.

    Attributes:
        seen: Images shown so far.
        seconds: Time spent on that.
        sums: Name of a number to its sum since the last row, and how many were summed.
        observer: Follows the run.
    """

    def __init__(self, settings: S, directory: Directory[S]) -> None:
        self.settings = settings
        self.directory = directory
        self.observer: Observer = Silent()
        self.seen, self.seconds = 0, 0.0
        self.sums: dict[str, tuple[float, int]] = {}
        self.row_start = (0, 0.0)
        self.start_clock()
        self._interruption = Interruption()

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether all is done and written."""

    @abstractmethod
    def train(self) -> None:
        """Take steps to the end, or until `stopped_by` is a signal."""

    @abstractmethod
    def measure_row(self) -> Mapping[str, float]:
        """Numbers of a row that are measured, beside the means over its steps."""

    @abstractmethod
    def conclude(self) -> R:
        """Write what the run came to, once all steps are done."""

    @abstractmethod
    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """All that changes: tensors by the part that they belong to, and what JSON can hold."""

    @abstractmethod
    def load_state(self, checkpoint: Checkpoint) -> None:
        """Go back to what `state` returned."""

    def write_results(self) -> None:
        """Bring further files up to date after a row."""

    @property
    def stopped_by(self) -> int | None:
        """The signal that ended the run, on whatever rank it came; None where none did."""
        return ranks.largest(self._interruption.signal or 0) or None

    def run(self, observer: Observer) -> R:
        """Train to the end, or until interrupted; the state is saved either way.

        Args:
            observer: Called as it goes on.

        Raises:
            InterruptionError: A signal came.
            TrainingError: A loss is not finite, or a worker died; the last checkpoint stays as it is.
        """
        with ranks.sharing():
            self.learn(observer)
            return self.conclude()

    def learn(self, observer: Observer) -> None:
        """Train to the end, or until interrupted, but conclude nothing yet.

        Args:
            observer: Called as it goes on.

        Raises:
            InterruptionError: A signal came.
            TrainingError: A loss is not finite, or a worker died; the last checkpoint stays as it is.
        """
        self.observer = observer
        self.start_clock()
        with self._interruption.watch():
            self.train()
            self.save()  # what is measured now may take long, and be interrupted
        if (stopped_by := self.stopped_by) is not None:
            raise InterruptionError(self.directory.path, stopped_by)

    def start_clock(self) -> None:
        """Count seconds from here on."""
        self._saved = time.monotonic()
        self._began = self._saved - self.seconds

    def after_step(self, loss: float, row_due: bool, resumable: bool = True) -> None:
        """Tell of a step, and add a row or save a checkpoint where it is time.

        Args:
            loss: Of the step.
            row_due: Whether a row ends here.
            resumable: Whether the state is whole; rows and checkpoints wait where it is not.
        """
        self.seconds = time.monotonic() - self._began
        self.observer.on_update(self.seen, loss)
        if resumable and row_due:
            self.record()
        elif resumable and time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def tally(self, numbers: Mapping[str, float]) -> None:
        """Add numbers of a step to those that the next row is the mean of; NaN is none."""
        for name, value in numbers.items():
            if not isnan(value):
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = (total + value, count + 1)

    def record(self) -> None:
        """Add a row, and bring every file of the run up to date.

        Raises:
            TrainingError: The ranks do not compute the same any more.
        """
        ranks.check_same(self._tensors())
        self.seconds = time.monotonic() - self._began
        measured = self.measure_row()
        images, seconds = self.row_start
        means = {name: total / count for name, (total, count) in self.sums.items()}
        if not means and self.directory.rows:
            means = self.directory.rows[-1]  # other workers took all steps since, for which it stands
        row: Row = {
            **dict.fromkeys(self.directory.columns, nan),
            **means,
            "images": self.seen,
            "seconds": self.seconds,
            "images_per_second": (self.seen - images) / max(1e-9, self.seconds - seconds),
            **measured,
        }
        self.row_start, self.sums = (self.seen, self.seconds), {}
        self.directory.add(row)
        self.write_results()
        self.save()
        self.observer.on_row(row)

    def _tensors(self) -> Iterator[Tensor]:
        """Yield all that learning changes; a generator, so that one rank alone gathers nothing."""
        for part in self.state()[0].values():
            yield from part.values()

    def save(self) -> None:
        """Write a checkpoint, from which all ranks go on."""
        self._saved = time.monotonic()
        if ranks.number():
            return
        parts, about = self.state()
        tensors = {f"{part}/{name}": tensor for part, some in parts.items() for name, tensor in some.items()}
        about = {**about, "seconds": self.seconds, "sums": self.sums, "row_start": self.row_start}
        self.directory.save(Checkpoint(self.seen, tensors, about))

    def restore(self) -> None:
        """Go back to the last checkpoint, or to the start where there is none.

        Raises:
            CheckpointError: It is damaged, of another version, or gone though there are rows.
        """
        checkpoint = self.directory.latest()
        if checkpoint is None:
            if (lost := self.directory.written_rows()) > 1:  # the first one is there just before a checkpoint is
                cause = f"{self.directory.path}: has {lost} rows, but no checkpoint to go on from"
                raise CheckpointError(f"{cause}; bring checkpoints/ back, or delete metrics.csv to start again")
            self.directory.restore([], 0)
            return
        about = checkpoint.about
        try:
            self.seen, self.seconds = checkpoint.images, about["seconds"]
            self.sums, self.row_start = about["sums"], about["row_start"]
            self.load_state(checkpoint)
            self.directory.restore(about["rows"], self.seen)
        except KeyError as error:
            cause = f"its checkpoint is of another version, without {error}"
            raise CheckpointError(f"{self.directory.path}: {cause}; start again in another --out") from None


@contextmanager
def held_run(
    directory: Directory[S], settings: S, images: ImageSet, make: Callable[[], A], others: ImageSet | None = None
) -> Iterator[A]:
    """Hold a directory, and begin a run in it or go on with the one that is there.

    Args:
        directory: The run directory.
        settings: Of the run.
        images: Its images; of a run that has begun, they must be the same.
        make: Makes the run.
        others: Further images that it uses.

    Raises:
        AHMError: The images have changed, or the run cannot be made; one that cannot begin, for whatever reason,
            leaves its place free.
    """
    with directory:
        begins = directory.write_or_check_config(settings, images, others)
        try:
            run = make()
        except BaseException:  # full memory and Ctrl-C, too
            for name in ("config.json", "metrics.csv") if begins else ():
                (directory.path / name).unlink(missing_ok=True)
            raise
        ranks.leave_note(str(directory.path.resolve()))
        yield run
