"""The labelled source that an annotation writes, and that somebody may go on with by hand."""

from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError, RunError, about
from ahm_env.files import atomic, write_rows
from ahm_env.images.formats.files import image_stem, is_image, readable
from ahm_env.images.formats.labels import COLUMNS, NO_IMAGE, table_lines
from ahm_env.images.formats.pictures.picture import mask_problem, read_mask, read_picture
from ahm_env.images.pixels.fit import to_uint8
from ahm_env.images.pixels.png import save_picture
from ahm_env.images.source import Entry, Pixels, Sample
from ahm_env.masks import Bools
from ahm_env.runs.owned_directory import OwnedDirectory

Line = dict[str, str]  # of a table, column to cell


class LabelledSource(OwnedDirectory):
    """The directory that an annotation writes: `images/`, `masks/`, and at the end `labels.csv` and `scores.csv`.

    `source.csv` has the lines that `labels.csv` was made of, which tell what somebody has changed there since.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "annotation.json", "an annotation")

    @property
    def table(self) -> Path:
        """The file with the split, label and patient of each image."""
        return self.path / "labels.csv"

    @property
    def source_table(self) -> Path:
        """The file with the lines as the source had them."""
        return self.path / "source.csv"

    def begin(self) -> None:
        """Write a table without lines where there is none.

        Until all is done it lists no image, so that nobody trains on an unfinished source unawares.

        Raises:
            ImageError: It is no table of images any more.
            RunError: It is not known which of its lines somebody has changed.
        """
        if not self.table.exists():
            write_rows(self.table, (), COLUMNS)
        elif _lines(self.table) and not self.source_table.exists():
            cause = f"is missing, so that it is not known which lines of {self.table} you have changed"
            raise RunError(f"{self.source_table}: {cause}; copy that table there if none, or choose another --out")

    def update(self, lines: Mapping[str, Line], made: Collection[str]) -> list[str]:
        """Bring the table to what the source has; cells that somebody has changed there stay.

        Args:
            lines: Image to its line as the source has it.
            made: Which of these images are in this directory, whether or not the table had them before.

        Returns:
            Images of the table that came from the source and are not among its lines.

        Raises:
            ImageError: It is no table of images any more.
        """
        there = _lines(self.table)
        before = _lines(self.source_table) if self.source_table.exists() else {}
        table = dict[str, Line]()
        for name, line in lines.items():
            if name in there:
                old = before.get(name, {})  # of a line that somebody has added, every cell is changed
                table[name] = line | {column: cell for column, cell in there[name].items() if cell != old.get(column)}
            elif name in made:
                table[name] = line
        table |= {name: line for name, line in there.items() if name not in table}
        write_rows(self.table, table.values(), list(dict.fromkeys((*COLUMNS, *chain(*table.values())))))
        # after the table, whose old cells would count as changed by somebody if it stopped between the two
        write_rows(self.source_table, (line for name, line in {**before, **lines}.items() if name in table), COLUMNS)
        return [name for name in there if name in before and name not in lines]

    def image_name(self, image: Sample | Entry) -> str:
        """Return the name of the image in this directory."""
        return image.name if _has_file(image) else f"{image_stem(image.name)}.png"

    def mask_path(self, sample: Sample) -> Path:
        """Return the path of the image's mask."""
        return self.path / "masks" / f"{image_stem(sample.name)}.png"

    def find_mask(self, sample: Sample) -> Bools | None:
        """Read the mask that an earlier command made, and somebody may have changed, `(H, W)` bool; None without one.

        Raises:
            ImageError: It cannot be used, or the image here is not the one that the source has now.
        """
        path, image, now = self.mask_path(sample), self.path / "images" / self.image_name(sample), _kept(sample)
        if not path.exists():
            return None
        try:
            same = np.array_equal(read_picture(image).pixels, now, equal_nan=True)
        except ImageError:
            same = False
        if not same:
            remedy = f"delete it and {path}, and the same command makes both anew"
            raise ImageError(f"{image}: is not the image that the source has now; {remedy}")
        mask = read_mask(path)
        if wrong := mask_problem(mask, now):
            raise ImageError(f"{path}: {wrong}, or delete it, and the same command makes it anew")
        return np.asarray(mask != 0)

    def add(self, sample: Sample, mask: Bools) -> None:
        """Write an image as its source has it, and then its mask, which says that both are there."""
        path = self.path / "images" / self.image_name(sample)
        if _has_file(sample):
            with readable(Path(sample.path)):
                content = Path(sample.path).read_bytes()
            with atomic(path) as temporary:
                temporary.write_bytes(content)
        else:
            save_picture(path, _kept(sample))
        save_picture(self.mask_path(sample), np.where(mask, 255, 0).astype(np.uint8))


def _kept(sample: Sample) -> Pixels:
    """Return the pixels that the labelled source has: unchanged where the image's own file, or a PNG, holds them."""
    if _has_file(sample) or sample.image.dtype in (np.uint8, np.uint16):
        return sample.image
    with about(sample.path):
        return to_uint8(sample.image)


def _has_file(image: Sample | Entry) -> bool:
    """Whether the image is all that is in a file of its own."""
    return is_image(image.name) and Path(image.path).name == image.name


def _lines(table: Path) -> dict[str, Line]:
    """Image to its line of a table.

    Raises:
        ImageError: It is no table of images.
    """
    return {line["image"]: line for _, line in table_lines(table, ("image",), NO_IMAGE)}
