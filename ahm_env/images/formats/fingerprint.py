"""Digests of files that are not read: what tells whether a set is still the one that was decoded."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ahm_env.images.formats.files import files_in, walk


def digest(path: Path) -> str:
    """Hex digits that change with the path of a file or folder, and the name, size, time or mode of any file in it.

    Nothing of a file is read: of a million on a network disk every start would have to open each. But zip files,
    images of containers and anonymisers give all files one time, and scanners one size and the same names: only where
    two such sets lie tells them apart.
    """
    found = [(str(path), path.name)] if path.is_file() else ((entry.path, entry.name) for entry in files_in(path))
    return _sum(path, found)


def digest_tree(top: Path, within: Path) -> str:
    """As `digest`, of anything that `walk` finds."""
    return _sum(top, ((found.path, found.relative) for found in walk(top, within)))


def stamp(file: Path) -> str:
    """Hex digits that change when a file is written, or one of another size or time takes its place; empty without it.

    Digits, since the time of a file may be that of an examination.
    """
    with suppress(OSError):
        status = file.stat()
        return hashlib.blake2b(f"{status.st_size} {status.st_mtime_ns}".encode(), digest_size=8).hexdigest()
    return ""


def _sum(top: Path, files: Iterable[tuple[str, str]]) -> str:
    """Digest files, paths and names, in flat memory: the sum is the same in whatever order they come."""
    where = os.path.realpath(top)
    return f"{sum(_digest(path, f'{where} {name}') for path, name in files):x}"


def _digest(path: str, name: str) -> int:
    text = f"{_state(path)} {name}"
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest())


def _state(path: str) -> str:
    """Size, time and mode of a file, or of a link to nothing; empty where it may not be seen. Decoding tells."""
    for status_of in (os.stat, os.lstat):
        with suppress(OSError):
            status = status_of(path)
            return f"{status.st_size} {status.st_mtime_ns} {status.st_mode}"
    return ""
