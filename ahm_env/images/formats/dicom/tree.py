"""The files of a folder and of all its sub-folders; no link leads out of it."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ahm_env.images.formats.files import ASTRAY, IGNORED, inside, readable

CLOSED = "is a folder that cannot be read; check that it is permitted"


@dataclass(frozen=True, slots=True)
class Found:
    """A file, or what is no file but must not be passed over in silence.

    Attributes:
        path: Where it is.
        relative: Where it is within the folder that was searched, with "/" between the parts.
        trouble: Why it cannot be read; empty for a file.
    """

    path: str
    relative: str
    trouble: str = ""


def walk(top: Path, within: Path) -> Iterator[Found]:
    """Everything in a folder, in any order, without hidden files and folders; of a file, itself.

    Args:
        top: A folder or a file; nothing is found where there is none.
        within: A folder that no link may lead out of.

    Raises:
        ImageError: The folder cannot be read.
    """
    boundary = Path(os.path.realpath(within))
    if top.is_file():
        yield Found(str(top), top.name)
        return
    if top.is_dir():
        with readable(top), os.scandir(top):
            pass
    folders = [(str(top), "")] if top.is_dir() else []
    while folders:
        folder, prefix = folders.pop()
        try:
            entries = os.scandir(folder)
        except PermissionError:
            yield Found(folder, prefix.removesuffix("/"), CLOSED)
            continue
        with entries:
            for entry in entries:
                relative = prefix + entry.name
                if entry.name.startswith(".") or entry.name.lower() in IGNORED:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, relative + "/"))
                elif entry.is_symlink() and not (os.path.isfile(entry.path) and inside(entry.path, boundary)):
                    yield Found(entry.path, relative, ASTRAY)
                elif entry.is_file():
                    yield Found(entry.path, relative)


def digest_tree(top: Path, within: Path) -> str:
    """Hex digits that change with the name, size or time of anything that is found; found in flat memory."""
    # The sum of their digests is the same in whatever order the files come.
    return f"{sum(_digest(found) for found in walk(top, within)):x}"


def _digest(found: Found) -> int:
    status = os.stat(found.path, follow_symlinks=not found.trouble)
    text = f"{status.st_size} {status.st_mtime_ns} {found.relative}"
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest())
