"""Files that are whole or absent: texts, tables, and tensors that cannot execute code."""

import csv
import errno
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, Protocol

import platformdirs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ahm_env.errors import CheckpointError, SettingsError

NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


class Saved(Protocol):
    """What lies in a directory, such as a run or a fine-tuned model."""

    @property
    def path(self) -> Path:
        """The directory."""


def path_of(saved: str | Path | Saved) -> Path:
    """Return the directory of a model or run, or the path of a file in it."""
    return Path(saved) if isinstance(saved, str | Path) else saved.path


def as_utf8(text: str) -> str:
    r"""Escape what UTF-8 cannot hold: a byte 0xff of a file's name, say, as `\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it takes the place of `path`, on failure it goes.

    Whoever reads `path`, even after a power cut, finds the old file or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{token_hex(4)}.tmp")  # short: the name may be as long as names can be
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_rows(
    path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None, separator: str = ","
) -> None:
    """Write a table as a CSV file.

    Args:
        path: The file.
        rows: Column to cell of each row.
        columns: Which columns, in order; by default those of the first row, of which there must be one then.
        separator: Between cells.
    """
    rows, text = list(rows), io.StringIO()
    writer = csv.DictWriter(
        text, columns or list(rows[0]), extrasaction="ignore", delimiter=separator, lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read what `write_rows` wrote.

    Raises:
        OSError: It cannot be read.
        csv.Error: It is no table.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def occupied(path: Path) -> bool:
    """Whether a path is a file, or a directory in which there is anything but a lock."""
    return path.exists() and (not path.is_dir() or any(child.name != ".lock" for child in path.iterdir()))


def check_name(path: Path, ending: str, flag: str = "--out") -> None:
    """Refuse a name for a file to write by which a slip would overwrite another file.

    Raises:
        SettingsError: It is a directory, or does not end as it should.
    """
    if path.is_dir():
        raise SettingsError(f"{flag} {path} is a directory; give the name of a file that ends in {ending}")
    if path.suffix.lower() != ending:
        raise SettingsError(f"{flag} {path} must end in {ending}; for example {path.with_suffix(ending)}")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and a JSON description as one safetensors file, with a checksum.

    Args:
        path: File to write.
        tensors: Name to tensor; copied to the CPU.
        about: Anything that JSON can hold.
    """
    # copies: other processes may go on changing shared weights while the checksum is taken
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    text = json.dumps(about)
    with atomic(path) as temporary:
        temporary.write_bytes(save(plain, {"about": text, "crc32": _checksum(plain, text)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote; a plain safetensors file has an empty description.

    Raises:
        CheckpointError: The file is missing, damaged, or no safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        text = metadata.get("about", "{}")
        about = json.loads(text)
        if not isinstance(about, dict):
            raise ValueError("its description names nothing")
    except (SafetensorError, ValueError, OSError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({reason}); restore it from a copy") from None
    if metadata.keys() & {"about", "crc32"} and metadata.get("crc32") != _checksum(tensors, text):
        raise CheckpointError(f"{path}: damaged (checksum differs); restore it from a copy")
    return tensors, about


def cache_root(cache_dir: Path | None) -> Path:
    """Find the cache directory: the argument, else $AHM_CACHE, else the user's. Create it if need be.

    Raises:
        SettingsError: It cannot be created.
    """
    root = Path(cache_dir or os.environ.get("AHM_CACHE") or platformdirs.user_cache_dir("ahm", appauthor=False))
    root = root.expanduser().absolute()
    with explained(root):
        root.mkdir(parents=True, exist_ok=True)
    return root


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn an error of writing into the cache into a `SettingsError` that names the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        cause = f"the image cache cannot be written there ({error.strerror})"
        raise SettingsError(f"{root}: {cause}; set AHM_CACHE to a directory where it can") from error


def sha256(path: Path) -> str:
    """Digest of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or the name of its class if it has no text."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _checksum(tensors: Mapping[str, Tensor], about: str) -> str:
    total = zlib.crc32(about.encode())
    for name in sorted(tensors):
        total = zlib.crc32(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode(), total)
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return str(total)
