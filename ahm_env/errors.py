"""Every error a user can cause: one line that names the file, the likely cause and the remedy."""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin


class AHMError(Exception):
    """Base of all errors of this project. The command line prints its text and exits with status 2."""


class ImageError(AHMError):
    """An image, a mask, a label or their folder cannot be used."""


@contextmanager
def about(path: str | Path) -> Iterator[None]:
    """Name the file in an error about what is in it."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


class SettingsError(AHMError):
    """A setting is out of range, or does not fit another."""


def check_kind(name: str, value: Any, kind: Any) -> None:
    """Refuse a value that is not of the type of its setting.

    Args:
        name: How the setting is called, such as its flag.
        value: The value.
        kind: A type, or a union of types.

    Raises:
        SettingsError: It is of another type.
    """
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    numbers = {int: Integral, float: Real}
    for one in kinds:
        plain = numbers.get(one, get_origin(one) or one)
        if isinstance(value, plain) and (one is bool or not isinstance(value, bool)):
            return
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", NoneType: "nothing"}
    wanted = " or ".join(words.get(one, getattr(one, "__name__", str(one))) for one in kinds)
    raise SettingsError(f"{name} {value} must be {wanted}")


class ActionError(AHMError, ValueError):
    """An action is not one that the environment takes."""


class CheckpointError(AHMError):
    """A file of weights or a checkpoint is damaged, or belongs to something else."""


class RunError(AHMError):
    """A run directory cannot be used: taken, finished with other settings, in use, or not writable."""


class InterruptionError(RunError):
    """A signal ended a run.

    Attributes:
        path: The run directory.
        signal: Its name, such as `SIGTERM`.
        status: The exit status by custom: 128 + the signal.
    """

    def __init__(self, path: Path, number: int) -> None:
        self.path, self.signal, self.status = path, signal.Signals(number).name, 128 + number
        super().__init__(f"{path}: stopped by {self.signal}; all is saved: go on with resume=True")


class TrainingError(AHMError):
    """Training stopped: a loss that is not finite, or a worker that died."""


_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space, then go on; a run by --resume",
    errno.EDQUOT: "the disk quota is used up; free some space, then go on; a run by --resume",
    errno.EFBIG: "the file would be larger than is allowed here; raise the limit, then go on; a run by --resume",
    errno.EACCES: "no permission; change the permissions or choose another path",
    errno.EPERM: "no permission; change the permissions or choose another path",
    errno.EROFS: "read-only; choose another path",
    errno.ENOTDIR: "a part of the path is a file; choose another path",
    errno.ENOENT: "no such file; check the path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


_FULL_CPU = "DefaultCPUAllocator"  # of PyTorch, whose error has no class of its own


def explain(error: OSError) -> str:
    """Explain an error of the operating system in one line: file, cause and remedy."""
    cause = _REMEDIES.get(error.errno or 0, error.strerror or str(error))
    return f"{error.filename}: {cause}" if error.filename else cause


def in_one_line(error: Exception) -> str | None:
    """Say in one line what went wrong, and what to do, where the user can mend it; None where it is a fault of ours."""
    if isinstance(error, OSError):
        return explain(error)
    if isinstance(error, RuntimeError) and "out of memory" in str(error):  # CUDA's, which has a class, and MPS's
        return (
            "the memory of the device is full; what was saved is intact: stop other programs that use the device, and "
            "go on, a run by --resume; or use --device cpu, or begin again with a lower --batch-size or --image-size"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _FULL_CPU in str(error)):
        return (
            "the memory of this machine is full; what was saved is intact: stop other programs, and go on, a run by "
            "--resume; or begin again with a lower --batch-size or --image-size"
        )
    return str(error) if isinstance(error, AHMError) else None
