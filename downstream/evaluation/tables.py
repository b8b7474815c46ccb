"""Tables as CSV files, written and read whole."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ahm_env.files import write_text


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that have the same columns; at least one."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
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
