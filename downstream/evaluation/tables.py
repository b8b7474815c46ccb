"""Tables as CSV files, written and read whole, and as text."""

import csv
import io
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ahm_env.files import write_text
from downstream.evaluation.statistics import Interval


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


def as_text(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table for a person, with a frame, at most 500 characters wide."""
    table = Table(*map(escape, headings), title=Text(title))
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(file=io.StringIO(), width=500, no_color=True)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")


def as_markdown(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table as Markdown."""
    lines = (headings, ["---"] * len(headings), *rows)
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def interval(one: Interval, sign: bool = False) -> str:
    """Format a mean with its interval, for people."""
    form = "+.3f" if sign else ".3f"
    between = "" if isnan(one.low) else f" ({one.low:{form}} to {one.high:{form}})"
    return f"{one.mean:{form}}{between}"


def p_value(p: float) -> str:
    """Format a p value for people."""
    return "–" if isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
