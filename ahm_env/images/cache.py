"""The cache: each set decoded once, kept as plain .npy files that are memory-mapped.

An entry is a directory named by a key of content and settings. It is written into a temporary directory beside it,
by ordinary file writes (a full disk is then an error; in a memory map it would be a crash), and renamed into place.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import platformdirs
from filelock import FileLock

from ahm_env.errors import SettingsError

FORMAT = 1
META = "set.json"


@dataclass(frozen=True)
class Meta:
    """What an entry holds; `sizes` are its files in bytes, so that a damaged entry is known."""

    image_size: int
    channels: int
    classes: tuple[str, ...]
    has_masks: bool
    binary_masks: bool
    skipped: int
    first_problem: str
    sizes: dict[str, int]


def entry_key(fingerprint: str, **settings: object) -> str:
    """The name of the entry for this content under these settings."""
    text = json.dumps([FORMAT, fingerprint, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def cache_root(cache_dir: Path | None) -> Path:
    """The cache directory: the argument, else $AHM_CACHE, else the user's; created if need be.

    Raises:
        SettingsError: It cannot be created or written.
    """
    chosen = cache_dir or os.environ.get("AHM_CACHE") or platformdirs.user_cache_dir("ahm", appauthor=False)
    root = Path(chosen).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _not_writable(root, error) from error
    return root


def read_meta(entry: Path) -> Meta | None:
    """What the entry holds, or None if it is absent or damaged."""
    try:
        fields = json.loads((entry / META).read_text())
        meta = Meta(**fields | {"classes": tuple(fields["classes"])})
        whole = all((entry / name).stat().st_size == size for name, size in meta.sizes.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return meta if whole else None


@contextmanager
def locked(root: Path, key: str) -> Iterator[None]:
    """One process at a time builds an entry."""
    try:
        lock = FileLock(root / f"{key}.lock")
        lock.acquire()
    except PermissionError as error:
        raise _not_writable(root, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_entry(root: Path, key: str) -> Iterator[Path]:
    """A temporary directory that takes its place as the entry at the end, and is removed after an error.

    Only who holds the lock of the key may call it.
    """
    for stale in root.glob(f"{key}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=".tmp", dir=root))
    try:
        yield temporary
        entry = root / key
        if entry.exists():
            entry.rename(temporary / "replaced")
        for path in temporary.iterdir():
            if path.is_file():
                _sync(path)
        _sync(temporary)
        old = temporary / "replaced"
        temporary.rename(entry)
        _sync(root)
        with suppress(OSError):
            shutil.rmtree(entry / old.name, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_meta(directory: Path, **fields: Any) -> None:
    """Writes what the entry holds, with the sizes of the files that are there."""
    sizes = {path.name: path.stat().st_size for path in directory.iterdir() if path.is_file()}
    (directory / META).write_text(json.dumps(asdict(Meta(sizes=sizes, **fields))))


class ArrayWriter:
    """Writes a .npy file row by row, in flat memory."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.path, self.shape, self.dtype, self.rows = path, shape, np.dtype(dtype), 0
        self.file: BinaryIO = path.open("wb")
        self._write_header()

    def append(self, row: npt.ArrayLike) -> None:
        """Appends one row of the given shape."""
        self.file.write(np.ascontiguousarray(row, self.dtype).reshape(self.shape).tobytes())
        self.rows += 1

    def close(self) -> None:
        """Completes the header with the number of rows."""
        self.file.seek(0)
        self._write_header()
        self.file.close()

    def _write_header(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_writable(root: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"{root}: the image cache cannot be written there ({error.strerror}); "
        "set AHM_CACHE to a directory that can, or make this one writable"
    )
