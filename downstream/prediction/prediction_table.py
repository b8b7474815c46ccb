"""A directory of predictions, whose table grows row by row, and to which the same command can go back."""

import csv
import errno
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ahm_env import RunError
from ahm_env.files import write_text
from ahm_env.runs.owned_directory import OwnedDirectory
from downstream.prediction.inputs import Incoming

TABLE = "predictions.csv"


class GrowingTable(io.FileIO):
    """A CSV file that grows by whole rows only, each on the disk as soon as it is added. Use as a context manager.

    Args:
        path: The file; what is in it stays.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "ab")

    def append(self, row: Sequence[str]) -> None:
        """Add a row.

        Raises:
            OSError: The disk is full; the file is as it was.
        """
        content, end = _as_csv([row]).encode(), self.tell()
        try:
            if self.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.truncate(end)
            error.filename = str(self.name)
            raise


class PredictionDirectory(OwnedDirectory):
    """A directory that predictions are written to.

    Args:
        path: The directory.
        about: What decides what is predicted.
        header: Columns of its table.
        images: All of them.
    """

    def __init__(self, path: Path, about: Mapping[str, Any], header: Sequence[str], images: Incoming) -> None:
        super().__init__(path, "predictions.json", "predictions")
        self.about, self._header, self._images = about, header, images

    def rows(self) -> list[list[str]]:
        """Read the header and the rows that are in its table already.

        Raises:
            RunError: It holds something else, or other predictions, or an image has changed since.
        """
        self.refuse_others(self.read() or self.about, self.about)
        rows, table = _read_rows(self.path / TABLE, self._header), self.path / TABLE
        if done := {row[0] for row in rows[1:]}:
            if not done <= self._images.names:
                raise RunError(f"{table}: has a row of an image that is not given now; choose another --out")
            if changed := self._images.changed(done, table.stat().st_mtime):
                count = f"{len(changed):,} images have" if len(changed) > 1 else "an image has"
                raise RunError(f"{table}: {count} changed since, the first is {changed[0]}; choose another --out")
        return rows

    @contextmanager
    def growing_table(self) -> Iterator[tuple[GrowingTable, set[str]]]:
        """Open its table, for one process at a time, and tell which images have a row in it.

        Raises:
            RunError: As of `rows`, or the directory is in use.
        """
        with self:
            rows = self.rows()
            self.write(self.about)
            write_text(self.path / TABLE, _as_csv(rows))
            for torn in (*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")):
                torn.unlink()
            with GrowingTable(self.path / TABLE) as table:
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
