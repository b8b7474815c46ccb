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
FILES = "files.csv"  # what the file of each image was like when it was read
STAMPED = ("image", "stamp")


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
            RunError: It holds something else, or other predictions, or an image has changed since it was read.
        """
        return self._tables()[0]

    def _tables(self) -> tuple[list[list[str]], dict[str, str]]:
        """Read the table, header and rows, and the stamp of each image that has a row."""
        self.refuse_others(self.read() or self.about, self.about)
        table, files = self.path / TABLE, self.path / FILES
        (header, *rows), (_, *stamped) = _read_rows(table, self._header), _read_rows(files, STAMPED)
        if not {row[0] for row in rows} <= self._images.names:
            raise RunError(f"{table}: has a row of an image that is not given now; choose another --out")
        if rows and not files.exists():
            raise RunError(f"{files}: is missing, so that images may have changed since; choose another --out")
        known = dict(stamped)  # of an image that was read again, the last
        rows = [row for row in rows if row[0] in known]  # a power cut may have kept a row and lost its stamp
        stamps = {row[0]: known[row[0]] for row in rows}
        if changed := self._images.changed(stamps):
            count = f"{len(changed):,} images have" if len(changed) > 1 else "an image has"
            raise RunError(f"{table}: {count} changed since, the first is {changed[0]}; choose another --out")
        return [header, *rows], stamps

    @contextmanager
    def growing_tables(self) -> Iterator[tuple[GrowingTable, GrowingTable, set[str]]]:
        """Open its table and that of stamps, for one process at a time, and tell which images have a row already.

        An image's stamp is to be added before its row.

        Raises:
            RunError: As of `rows`, or the directory is in use.
        """
        with self:
            rows, stamps = self._tables()
            self.write(self.about)
            write_text(self.path / TABLE, _as_csv(rows))
            write_text(self.path / FILES, _as_csv([STAMPED, *stamps.items()]))
            for torn in (*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")):
                torn.unlink()
            with GrowingTable(self.path / TABLE) as table, GrowingTable(self.path / FILES) as files:
                yield table, files, set(stamps)


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
