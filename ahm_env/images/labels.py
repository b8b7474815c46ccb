"""`labels.csv`: which class and which split an image of a folder belongs to."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.source import SPLITS, UNLABELLED, class_order


class Labels:
    """The lines of `labels.csv`, found by image.

    An image is named with or without its extension. Without a `split` column, or where its cell is empty, the image
    is for training; without a label its class is unknown. Commas, semicolons or tabs separate.

    Attributes:
        classes: Sorted class names.
        problems: Lines that name no image, or one that another line named, one text each.
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        """Reads the table for images of these names.

        Raises:
            ImageError: It is not a CSV file with a column named `image`.
        """
        self.path = path
        self.problems: list[str] = []
        self._lines: dict[str, tuple[str, str]] = {}
        known = {Path(name).stem: name for name in names} | {name: name for name in names}
        for number, line in _lines(path):
            name = known.get(line["image"])
            if name is None:
                cause = f"names {line['image']!r}, which is not there; add the image or delete the line"
                self.problems.append(f"{path}: line {number} {cause}")
            elif name in self._lines:
                self.problems.append(
                    f"{path}: line {number} names {line['image']!r} a second time; keep one line"
                )
            else:
                self._lines[name] = line.get("label", ""), line.get("split", "").lower() or SPLITS[0]
        self.classes = class_order({label for label, _ in self._lines.values()} - {""})
        self._numbers = {"": UNLABELLED} | {name: number for number, name in enumerate(self.classes)}

    def find(self, name: str, path: Path) -> tuple[int, int]:
        """Class number (-1 if unknown) and split (an index into `SPLITS`) of an image.

        Raises:
            ImageError: The image has no line, or an unknown split.
        """
        if name not in self._lines:
            raise ImageError(f"{path}: not in {self.path}; add a line for it, or take the image out")
        label, split = self._lines[name]
        if split not in SPLITS:
            raise ImageError(f"{path}: split is {split!r} in {self.path}; use one of: {', '.join(SPLITS)}")
        return self._numbers[label], SPLITS.index(split)


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and cells, by column, of each line that is not blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = [cell.strip().lower() for cell in next(reader, [])]
        if "image" not in header:
            raise ImageError(f"{path}: no column `image` in its first line; it needs image,label,split")
        for cells in reader:
            if any(cells):
                stripped = (cell.strip() for cell in cells)
                yield reader.line_num, {"image": ""} | dict(zip(header, stripped, strict=False))
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ImageError(f"{path}: not a CSV file in UTF-8 ({error}); save it as `CSV UTF-8`") from error
