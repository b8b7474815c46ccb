"""A directory that a run writes: settings, metrics, and the states from which it can go on."""

import csv
import io
import json
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from math import isnan
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ahm_env import CheckpointError, RunError, SettingsError
from ahm_env.files import load_tensors, save_tensors, write_text
from ahm_env.runs.settings import Settings

Row = dict[str, float]
_KEPT = 2  # checkpoints
_PACKAGES = ("ahm-env", "torch", "numpy", "gymnasium", "opencv-python", "safetensors")


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Checkpoint:
    """A state from which a run goes on as if it had never stopped."""

    images: int
    tensors: dict[str, Tensor]
    about: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `name/`, without that."""
        start = f"{name}/"
        return {one.removeprefix(start): tensor for one, tensor in self.tensors.items() if one.startswith(start)}


class Directory(Generic[S]):
    """A run on disk, held by one process at a time. Use as a context manager.

    Args:
        path: The directory; made where it does not exist.
        settings_type: What its settings are.
        columns: Of `metrics.csv`; the first is `images`.
        whole: Columns that hold whole numbers.

    Raises:
        RunError: The path is a file, or another process holds it.
        OSError: The path cannot be written.
    """

    def __init__(self, path: Path, settings_type: type[S], columns: Sequence[str], whole: Sequence[str]) -> None:
        self.path, self._settings_type, self._columns, self._whole = path, settings_type, columns, whole
        if path.exists() and not path.is_dir():
            raise RunError(f"{path}: is a file, not a run directory; choose another --out")
        for parent in path.parents:
            if parent.exists() and not parent.is_dir():
                raise RunError(f"{path}: {parent} is a file, so there can be no directory in it; choose another --out")
        self.lock = FileLock(path / ".lock")
        self.rows: list[Row] = []
        self._writer: SummaryWriter | None = None

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"{self.path}: another process is working on this run; wait for it, or choose another --out"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        self.lock.release()

    def settings(self) -> S | None:
        """The settings of the run in this directory, None where there is none.

        Raises:
            RunError: `config.json` is damaged.
        """
        path = self.path / "config.json"
        if not path.exists():
            return None
        try:
            return self._settings_type.from_dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: damaged ({error}); restore it, or choose another --out") from None
        except SettingsError as error:
            raise RunError(f"{path}: {error}; choose another --out") from None

    @property
    def occupied(self) -> bool:
        """Whether there is anything but a lock in the directory."""
        return self.path.is_dir() and any(child.name != ".lock" for child in self.path.iterdir())

    def content_key(self) -> str:
        """Key of the images that the run began with."""
        config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        return str(config["images"]["content_key"])

    def begin(self, settings: S, images: Mapping[str, Any]) -> None:
        """Write `config.json`: settings, images, versions, git commit and command."""
        versions = {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}}
        about = {"command": [Path(sys.argv[0]).name, *sys.argv[1:]], "versions": versions, "git_commit": _git_commit()}
        config = {"settings": settings.as_dict(), "images": dict(images), **about}
        write_text(self.path / "config.json", json.dumps(config, indent=2) + "\n")

    def add(self, row: Row) -> None:
        """Add a row to `metrics.csv` and TensorBoard; numbers that have no column go to TensorBoard only."""
        self.rows.append(dict(row))
        self._write_rows()
        self._log(row)

    def last_row(self) -> Row:
        """The last row of `metrics.csv`.

        Raises:
            RunError: There is none, or it is damaged.
        """
        path = self.path / "metrics.csv"
        try:
            with path.open(encoding="utf-8", newline="") as file:
                return {name: float(value) for name, value in list(csv.DictReader(file))[-1].items()}
        except (OSError, IndexError, ValueError, TypeError) as error:
            raise RunError(f"{path}: missing or damaged ({error}); go on with this run by --resume") from None

    def restore(self, rows: list[Row], images: int) -> None:
        """Cut `metrics.csv` and TensorBoard back to these rows, which end at so many images."""
        self.rows = [dict(row) for row in rows]
        self._write_rows()
        for old in self.path.glob("events.out.tfevents.*"):
            old.unlink()
        for row in self.rows:
            self._log(row)

    def _write_rows(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: f"{row[name]:.6g}" for name in self._columns} | {name: int(row[name]) for name in self._whole}
            for row in self.rows
        )
        write_text(self.path / "metrics.csv", text.getvalue())

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
        """The newest checkpoint, None where there is none.

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


class Interruption:
    """Lets Ctrl-C and SIGTERM end a run after the step that is under way.

    Attributes:
        signal: Number of the signal that came, None as long as there is none.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Take these signals, until the block ends."""

        def stop(number: int, _: Any) -> None:
            self.signal = number

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def free_directory(root: Path, stem: str) -> Path:
    """The first of `root/stem-1`, `root/stem-2`, … that does not exist."""
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return root / f"{stem}-{number}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str | None:
    """Commit of the code that runs, None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
