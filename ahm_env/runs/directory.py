"""A directory that a run writes: settings, metrics, and the states from which it can go on."""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from math import isnan
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ahm_env.errors import CheckpointError, RunError, SettingsError
from ahm_env.files import load_tensors, read_rows, save_tensors, write_rows
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.runs.flags import flag_name
from ahm_env.runs.owned_directory import OwnedDirectory
from ahm_env.runs.provenance import provenance
from ahm_env.runs.settings import Settings

Row = dict[str, float]
_KEPT = 2  # checkpoints


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Checkpoint:
    """A state from which a run goes on as if it had never stopped."""

    images: int
    tensors: dict[str, Tensor]
    about: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Return the tensors whose names begin with `name/`, under the rest of their names."""
        start = f"{name}/"
        return {one.removeprefix(start): tensor for one, tensor in self.tensors.items() if one.startswith(start)}


class Directory(OwnedDirectory, Generic[S]):
    """A run on disk, held by one process at a time. Use as a context manager.

    Args:
        path: The directory; made where it does not exist.

    Attributes:
        settings_type: What its settings are.
        columns: Of `metrics.csv`; the first is `images`.

    Raises:
        RunError: The path is a file, or another process holds it.
        OSError: The path cannot be written.
    """

    settings_type: type[S]
    columns: ClassVar[Sequence[str]]

    def __init__(self, path: Path) -> None:
        super().__init__(path, "config.json", "a run")
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: is a file, not a run directory; choose another --out")
        for parent in path.parents:
            if parent.exists() and not parent.is_dir():
                raise RunError(f"{path}: {parent} is a file, so there can be no directory in it; choose another --out")
        self.rows: list[Row] = []
        self._writer: SummaryWriter | None = None

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        super().__exit__()

    def settings(self) -> S | None:
        """Read the settings of the run in this directory; return None if there is no run.

        Raises:
            RunError: `config.json` is damaged.
        """
        if not self.file.exists():
            return None
        try:
            return self.settings_type.from_dict((self.read() or {})["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{self.file}: damaged ({error}); restore it, or {self.instead}") from None
        except SettingsError as error:
            raise RunError(f"{self.file}: {error}; {self.instead}") from None

    def content_key(self) -> str | None:
        """Key of the images that the run began with; None if there is no run.

        Raises:
            RunError: The directory holds something else, or `config.json` is damaged.
        """
        known = self.read()
        try:
            return None if known is None else str(known["images"]["content_key"])
        except (KeyError, TypeError) as error:
            raise RunError(f"{self.file}: damaged ({error}); restore it, or {self.instead}") from None

    @classmethod
    def claim(cls, out: Path | None, stem: str, settings: S) -> Self:
        """Choose the directory of a new run, and refuse one that is in use.

        Args:
            out: Where it is; by default the first of `runs/stem-1`, `runs/stem-2`, … that is free.
            stem: How it is called there.
            settings: The settings of the run.

        Raises:
            RunError: The directory is not free.
        """
        directory = cls(out or free_directory(Path("runs"), stem))
        existing, path = directory.settings(), directory.path
        if existing is not None:
            if flags := _other_flags(existing, settings):
                raise RunError(f"{path}: holds a run with another {flags}; choose another --out")
            raise RunError(f"{path}: holds this run already; add --resume to go on, or choose another --out")
        directory.read()  # refuses one that holds something else
        return directory

    @classmethod
    def resume(cls, out: Path | None, given: Mapping[str, Any]) -> tuple[Self, S]:
        """Return the directory of a run to go on with, and its settings.

        Args:
            out: Where it is.
            given: Settings that are asked for; None is not given. Those that are `free` replace the run's.

        Raises:
            RunError: There is no run, or it has other settings than these.
        """
        if out is None:
            raise RunError("--resume needs --out RUN, the directory of the run to go on with")
        directory = cls(out)
        settings = directory.settings()
        if settings is None:
            raise RunError(f"{out}: holds no run to resume; check --out, or leave out --resume to start one")
        settings = replace(settings, **{name: given[name] for name in settings.free if given.get(name) is not None})
        if others := settings.differences(given):
            flags = ", ".join(flag_name(type(settings), name) for name in others)
            raise RunError(f"{out}: this run has other settings than {flags}; leave them out to resume it")
        return directory, settings

    def write_or_check_config(self, settings: S, images: ImageSet, others: ImageSet | None = None) -> bool:
        """Write `config.json`; of a run that has begun, check that its images, and others it uses, are the same.

        Returns:
            Whether it begins now.

        Raises:
            RunError: The images have changed, or another process has begun another run here meanwhile.
        """
        key = "+".join(some.content_key for some in (images, others) if some is not None)
        before = self.settings()
        if before is None:
            facts = {"count": len(images), "channels": images.channels, "skipped": images.skipped}
            self.write_config(settings, {**facts, "content_key": key})
            return True
        if self.content_key() != key:
            sources = " or ".join(some.source for some in (images, others) if some is not None)
            raise RunError(
                f"{self.path}: the images of {sources} have changed since this run began; bring them back, or "
                f"choose another --out"
            )
        if flags := _other_flags(before, settings):
            raise RunError(f"{self.path}: another run took this place, with another {flags}; choose another --out")
        if before != settings:  # it goes on elsewhere
            self.write({**(self.read() or {}), "settings": settings.as_dict()})
        return False

    def write_config(self, settings: S, images: Mapping[str, Any]) -> None:
        """Write `config.json`: settings, images, versions, git commit and command."""
        self.write({"settings": settings.as_dict(), "images": dict(images), **provenance()})

    def add(self, row: Row) -> None:
        """Add a row to `metrics.csv`, integers in full, and to TensorBoard, which has numbers without a column, too."""
        self.rows.append(dict(row))
        self._write_rows()
        self._log(row)

    def last_row(self) -> Row:
        """Read the last row of `metrics.csv`.

        Raises:
            RunError: There is none, or it is damaged.
        """
        path = self.path / "metrics.csv"
        try:
            return {name: float(value) for name, value in read_rows(path)[-1].items()}
        except (OSError, IndexError, ValueError, TypeError) as error:
            raise RunError(f"{path}: missing or damaged ({error}); go on with this run by --resume") from None

    def written_rows(self) -> int:
        """Count the rows of `metrics.csv`."""
        path = self.path / "metrics.csv"
        return len(read_rows(path)) if path.exists() else 0

    def restore(self, rows: list[Row], images: int) -> None:
        """Cut `metrics.csv` and TensorBoard back to these rows, which end at so many images."""
        self.rows = [dict(row) for row in rows]
        self._write_rows()
        for old in self.path.glob("events.out.tfevents.*"):
            old.unlink()
        for row in self.rows:
            self._log(row)

    def _write_rows(self) -> None:
        shown = [{name: _written(row[name]) for name in self.columns} for row in self.rows]
        write_rows(self.path / "metrics.csv", shown, self.columns)

    def _log(self, row: Row) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(str(self.path))
        for name, value in row.items():
            if name != "images" and not isnan(value):
                self._writer.add_scalar(name, value, int(row["images"]))
        self._writer.flush()

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("[0-9]*.safetensors"))

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint whole, then delete older ones but one, and those that the run went back from."""
        path = self.path / "checkpoints" / f"{checkpoint.images:012d}.safetensors"
        about = {**checkpoint.about, "images": checkpoint.images, "rows": self.rows}
        save_tensors(path, checkpoint.tensors, about)
        checkpoints = self._checkpoints()
        end = checkpoints.index(path) + 1
        for other in checkpoints[: max(0, end - _KEPT)] + checkpoints[end:]:
            other.unlink()

    def latest(self) -> Checkpoint | None:
        """Read the newest checkpoint; return None if there is none.

        Raises:
            CheckpointError: It is damaged.
        """
        paths = self._checkpoints()
        if not paths:
            return None
        try:
            tensors, about = load_tensors(paths[-1])
            return Checkpoint(about["images"], tensors, about)
        except (CheckpointError, KeyError) as error:
            rest = f"to go on from {int(paths[-2].stem):,} images" if len(paths) > 1 else "to start again"
            reason = str(error).partition(": ")[2].partition("; ")[0] or "not a checkpoint"
            raise CheckpointError(f"{paths[-1]}: {reason}; delete this file {rest}, then resume") from None


@contextmanager
def signals_to(handler: Any) -> Iterator[None]:
    """Have Ctrl-C and SIGTERM handled otherwise until the block ends, where they can be: in the main thread."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in ((signal.SIGINT, signal.SIGTERM) if main else ())}
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


class Interruption:
    """Lets Ctrl-C and SIGTERM end a run after the step that is under way.

    Attributes:
        signal: Number of the signal that came, None as long as there is none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    def watch(self) -> AbstractContextManager[None]:
        """Take these signals, until the block ends; only in the main thread."""

        def stop(number: int, _: Any) -> None:
            self.signal = number

        return signals_to(stop)


def free_directory(root: Path, stem: str) -> Path:
    """Find the first of `root/stem-1`, `root/stem-2`, … that does not exist."""
    paths = (root / f"{stem}-{number}" for number in count(1))
    return next(path for path in paths if not path.exists())


def _other_flags(before: Settings, settings: Settings) -> str:
    """List the flags of the settings, but for the free ones, that differ; empty where it is the same run."""
    changes = (name for name in before.changes(settings) if name not in settings.free)
    return ", ".join(flag_name(type(settings), name) for name in changes)


def _written(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:.6g}"
