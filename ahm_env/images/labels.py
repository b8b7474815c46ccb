"""`labels.csv`: which class and which split an image of a folder belongs to."""

import csv
import io
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.source import SPLITS, UNLABELLED, in_order


class Labels:
    """The rows of `labels.csv`, found by image."""

    def __init__(
        self, path: Path, classes: tuple[str, ...], rows: dict[str, tuple[int, str]], problems: list[str]
    ) -> None:
        self.path, self.classes, self.rows, self.problems = path, classes, rows, problems

    def find(self, image: Path) -> tuple[int, int]:
        """Class number (-1 if unknown) and split of an image.

        Raises:
            ImageError: The image has no row, or its split is unknown.
        """
        row = self.rows.get(image.name)
        if row is None:
            raise ImageError(f"{image}: not in {self.path}; add a row for it, or take the image out")
        label, split = row
        if split not in SPLITS:
            raise ImageError(f"{image}: split is {split!r} in {self.path}; use one of: {', '.join(SPLITS)}")
        return label, SPLITS.index(split)


def read_labels(path: Path, names: list[str]) -> Labels:
    """Reads the rows and matches them with the images by name, with or without extension."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(f"{path}: not UTF-8 text; save it as `CSV UTF-8`") from error
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    known = {Path(name).stem: name for name in names} | {name: name for name in names}
    problems: list[str] = []
    found: dict[str, tuple[str, str]] = {}
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        reader.fieldnames = [(field or "").strip().lower() for field in reader.fieldnames or []]
        if "image" not in reader.fieldnames:
            raise ImageError(f"{path}: no column named `image` in its first line; it needs image,label,split")
        for row in reader:
            image = (row["image"] or "").strip()
            name = known.get(image)
            if name is None:
                problems.append(
                    f"{path}: line {reader.line_num} names {image!r}, which is not there; "
                    "add the image or delete the line"
                )
            elif name in found:
                problems.append(f"{path}: line {reader.line_num} names {image!r} again; keep one line")
            else:
                found[name] = ((row.get("label") or "").strip(), (row.get("split") or "").strip().lower())
    except csv.Error as error:
        raise ImageError(f"{path}: not a CSV file ({error}); save it as `CSV UTF-8`") from error
    classes = in_order({label for label, _ in found.values()} - {""})
    numbers = {"": UNLABELLED} | {label: number for number, label in enumerate(classes)}
    rows = {name: (numbers[label], split or "train") for name, (label, split) in found.items()}
    return Labels(path, classes, rows, problems)
