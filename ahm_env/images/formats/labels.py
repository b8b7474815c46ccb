"""`labels.csv`: which class, which split and which patient an image of a folder belongs to."""

import csv
import hashlib
import re
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Context, Decimal
from pathlib import Path
from typing import NamedTuple, TextIO

from ahm_env.errors import ImageError
from ahm_env.images.formats.files import Files, files_in, readable, refuse_link
from ahm_env.images.privacy import pseudonym
from ahm_env.images.source import SPLITS, UNLABELLED, DataWarning, class_order

ABSENT = -1
COLUMNS = ("image", "label", "split", "patient")
NO_IMAGE = "no column `image` in its first line; it needs image,label,split"


# What pandas takes for blank when it reads a table, and writes where it is asked to.
BLANK = {"#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A"}
BLANK |= {"NA", "NULL", "NaN", "NaT", "None", "n/a", "nan", "null"}
# Without an exponent: 0e7 and 12e3 are codes.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)", re.ASCII)


class Line(NamedTuple):
    """What the table says of an image.

    Attributes:
        label: Class number; -1 if unknown.
        split: An index into `SPLITS`.
        patient: Pseudonym, or empty.
        trouble: Why the image cannot be used, or empty.
    """

    label: int = UNLABELLED
    split: int = 0
    patient: str = ""
    trouble: str = ""


class Labels:
    """The lines of `labels.csv`, found by image.

    An image is named with or without its extension. Without a `split` column, or where its cell is empty, the
    image is for training; without a label its class is unknown, without a patient the image is a patient of its own.
    Commas, semicolons or tabs separate.

    Attributes:
        classes: Sorted class names.
        problems: Lines that name no image, or one that another line named, one text each; classes spelt in two ways.
        warnings: Patients spelt in two ways; columns that are not read, where one that is read is missing.
        notes: Columns that are not read, beside all that are.
    """

    def __init__(self, table: Path, images: Files, quoted: bool = True) -> None:
        """Read the table for these images.

        Args:
            table: The file.
            images: What it may name.
            quoted: Whether problems may quote what stands in the table: a path may hold a patient's name.

        Raises:
            ImageError: It is not a CSV file with a column named `image`.
        """
        self.problems: list[str] = []
        self.warnings: list[DataWarning] = []
        self.notes: list[str] = []
        self._table, self._quoted = table, quoted
        said: dict[tuple[str, str, str], int] = {}  # label, split and patient
        self._places = array("i", [ABSENT]) * len(images)
        columns = set[str]()
        for line, cells in table_lines(table, ("image",), NO_IMAGE):
            columns |= cells.keys()
            position = images.position(cells["image"])
            named = f"names {cells['image']!r}" if quoted else "names an image"
            if position is None:
                cause = f"{named}, which is not there; add the image or delete the line"
                self.problems.append(f"{table}: line {line} {cause}")
            elif self._places[position] != ABSENT:
                self.problems.append(f"{table}: line {line} {named} again; keep one line")
            else:
                label, split, patient = (plain(cells.get(column, "")) for column in ("label", "split", "patient"))
                self._places[position] = said.setdefault((label, split.lower() or SPLITS[0], patient), len(said))
        self.classes = class_order({label for label, _, _ in said} - {""})
        numbers = {"": UNLABELLED} | {name: number for number, name in enumerate(self.classes)}
        self._lines = [self._line(numbers[label], split, patient) for label, split, patient in said]
        if alike := spelt_alike(self.classes):
            names = f" ({', '.join(alike)})" if quoted else ""
            cause = f"labels differ only in case or in how letters or numbers are written{names}"
            self.problems.append(f"{table}: {cause}; spell each class in one way")
        if alike := spelt_alike({patient for _, _, patient in said} - {""}):
            cause = f"{len(alike):,} patients differ from others only in case or in how letters or numbers are written"
            text = f"{table}: {cause}; where they are the same, spell them in one way"
            self.warnings.append(DataWarning("patients", text, len(alike)))
        if unread := sorted(columns - {"", *COLUMNS}):
            text = f"{table}: columns that are not read: {', '.join(unread)}"
            if missing := [column for column in COLUMNS if column not in columns]:
                text += f"; if one of them is what should be in `{'` or `'.join(missing)}`, rename it"
                self.warnings.append(DataWarning("columns", text, len(unread)))
            else:
                self.notes.append(text)

    def find(self, position: int) -> Line:
        """Look up the line of an image."""
        place = self._places[position]
        if place == ABSENT:
            return Line(trouble=f"not in {self._table}; add a line for it, or take the image out")
        return self._lines[place]

    def _line(self, label: int, split: str, patient: str) -> Line:
        whose = pseudonym(patient) if patient else ""
        if split in SPLITS:
            return Line(label, SPLITS.index(split), whose)
        shown = repr(split) if self._quoted else "unknown"
        return Line(label, 0, whose, f"split is {shown} in {self._table}; use one of: {', '.join(SPLITS)}")


def plain(cell: str) -> str:
    """Simplify a cell: blank if it holds what stands for blank; a number in its shortest form."""
    if cell in BLANK:
        return ""
    if NUMBER.fullmatch(cell) and not re.match(r"[+-]?0\d", cell):  # 007 is no number
        return _shortest(cell)
    return cell


def _shortest(number: str) -> str:
    """Write a number in its shortest form, with all of its digits."""
    exact = Context(prec=len(number))
    return f"{exact.normalize(exact.plus(Decimal(number))):f}"  # plus turns -0 into 0


def spelt_alike(names: Iterable[str]) -> list[str]:
    """Those of these names, sorted, that differ from another only as `folded` says."""
    alike = defaultdict[str, list[str]](list)
    for name in names:
        alike[folded(name)].append(name)
    return sorted(name for some in alike.values() if len(some) > 1 for name in some)


def folded(name: str) -> str:
    """Text that names share which differ only in case, Unicode form, kind of space, or how a number is written."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = " ".join("".join(letter for letter in text if unicodedata.category(letter) != "Cf").split())
    number = text.replace(",", ".")
    return _shortest(number) if NUMBER.fullmatch(number) else text


def has_table(table: Path) -> bool:
    """Whether there is a table.

    Raises:
        ImageError: It is a link that leads out of its folder, or nowhere; or its name differs in case.
    """
    refuse_link(table, table.parent)
    if table.is_file():
        return True
    for entry in files_in(table.parent):
        if entry.name.lower() == table.name:
            raise ImageError(f"{entry.path}: is not read for its name; rename it to {table.name}")
    return False


def table_digest(table: Path) -> str:
    """Hex digits that change with the content of a table; empty where there is none.

    Raises:
        ImageError: It cannot be read.
    """
    with readable(table):
        return hashlib.sha256(table.read_bytes()).hexdigest() if has_table(table) else ""


def table_lines(table: Path, columns: Sequence[str], missing: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number and the cells, by column, of each line of a CSV file that is not blank.

    Args:
        table: The file; commas, semicolons or tabs separate.
        columns: Columns that it must have; whichever it has, a cell that a line lacks is empty.
        missing: What to say if it lacks one.

    Raises:
        ImageError: It cannot be read, or a column is missing.
    """
    with _opened(table) as file:
        reader = csv.reader(file, delimiter=_separator(file), strict=True)
        header = [cell.strip().lower() for cell in next(reader, [])]
        if not set(columns) <= set(header):
            raise ImageError(f"{table}: {missing}")
        if twice := sorted(name for name, count in Counter(header).items() if name and count > 1):
            raise ImageError(f"{table}: has two columns of one name ({', '.join(twice)}); keep one of them")
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped[len(header) :]):
                cause = f"line {reader.line_num} has {len(cells)} cells but the first line {len(header)} columns"
                remedy = "put a cell with a separator in it in quotes, and leave nothing after the last column"
                raise ImageError(f"{table}: {cause}; {remedy}")
            if any(cells):
                yield reader.line_num, dict.fromkeys(header, "") | dict(zip(header, stripped, strict=False))


def separator_of(table: Path) -> str:
    """Guess what separates the cells of a table: comma, semicolon or tab.

    Raises:
        ImageError: It cannot be read.
    """
    with _opened(table) as file:
        return _separator(file)


def _separator(file: TextIO) -> str:
    separator = max(",;\t", key=file.readline().count)
    file.seek(0)
    return separator


@contextmanager
def _opened(table: Path) -> Iterator[TextIO]:
    """Open a table; that it is no text, or no CSV, becomes an error of one line."""
    try:
        with readable(table), table.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImageError(f"{table}: not a CSV file in UTF-8 ({error}); save it as `CSV UTF-8`") from error
