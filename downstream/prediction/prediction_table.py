"""A directory of predictions, whose table grows row by row, and to which the same command can go back."""

import csv
import errno
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ahm_env import RunError
from ahm_env.files import write_text
from ahm_env.runs.owned_directory import OwnedDirectory

TABLE = "predictions.csv"


class GrowingTable:
    """A CSV file that grows by whole rows only, each on the disk as soon as it is added. Use as a context manager.

    Args:
        path: The file; what is in it stays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> "GrowingTable":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, row: Sequence[str]) -> None:
        """Add a row.

        Raises:
            OSError: The disk is full; the file is as it was.
        """
        content, end = _as_csv([row]).encode(), self._file.tell()
        try:
            if self._file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._file.truncate(end)
            error.filename = str(self._path)
            raise


def read_table(
    directory: OwnedDirectory, about: Mapping[str, Any], header: Sequence[str], names: set[str]
) -> list[list[str]]:
    """Read the header and the rows that are in a directory of predictions already.

    Args:
        directory: The directory.
        about: What decides what is predicted.
        header: Columns of the table.
        names: Of all the images.

    Raises:
        RunError: The directory holds something else, or other predictions.
    """
    directory.refuse_others(directory.read() or about, about)
    rows = _read_rows(directory.path / TABLE, header)
    if not {row[0] for row in rows[1:]} <= names:
        raise RunError(f"{directory.path / TABLE}: has a row of an image that is not given now; choose another --out")
    return rows


@contextmanager
def growing_table(
    directory: OwnedDirectory, about: Mapping[str, Any], header: Sequence[str], names: set[str]
) -> Iterator[tuple[GrowingTable, set[str]]]:
    """Open the `predictions.csv` of a directory, for one process at a time, and tell which images have a row in it.

    Raises:
        RunError: As of `read_table`, or the directory is in use.
    """
    out = directory.path
    with directory:
        rows = read_table(directory, about, header, names)
        directory.write(about)
        write_text(out / TABLE, _as_csv(rows))
        for torn in (*out.glob(".*.tmp"), *out.glob("*/.*.tmp")):
            torn.unlink()
        with GrowingTable(out / TABLE) as table:
            yield table, {row[0] for row in rows[1:]}


def _read_rows(path: Path, header: Sequence[str]) -> list[list[str]]:
    """Read the header and the whole rows of a table; a power cut may have cut off the last one.

    Raises:
        RunError: It has another header.
    """
    if not path.is_file() or not path.stat().st_size:
        return [list(header)]
    text = path.read_bytes().decode("utf-8", "replace")
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        rows = [[]]
    if rows[0] != list(header):
        raise RunError(f"{path}: has been changed since it was written; move it away, or choose another --out")
    whole = rows if text.endswith("\n") else rows[:-1]
    return [row for row in whole if len(row) == len(header)]


def _as_csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
