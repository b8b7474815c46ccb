"""The image files of one folder, found by stem."""

import hashlib
import os
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
# Deflate packs a thousandfold at most, noise of a scanner hardly twofold; small files do no harm whatever they hold.
HARMLESS_BYTES, MOST_SWELLING = 2**28, 200
MASK_ENDING = re.compile(
    r"[ _-](?:masks?|segm?|segmentation|superpixels?|labels?|gt|ground_?truth|annotations?)(?:[ _-]?[0-9]+)?$",
    re.IGNORECASE,
)
IGNORED = ("thumbs.db", "desktop.ini")
ASTRAY = "is a link that leads out of the folder, to another folder or nowhere; put what it leads to in its place"


class ImageFiles:
    """The image files directly in a folder, sorted by stem; none where there is no such folder.

    Names are packed into two arrays: a hundred thousand small strings would leave the memory of the process
    in shreds, long after they are gone.
    """

    def __init__(self, folder: Path) -> None:
        """List the folder.

        Raises:
            ImageError: It cannot be read.
        """
        stems, endings = PackedNames(), PackedNames()
        for entry in files_in(folder):
            if is_image(entry.name):
                stem, ending = os.path.splitext(entry.name)
                stems.append(stem)
                endings.append(ending)
        unsorted_stems, unsorted_endings = stems.array(), endings.array()
        order = np.lexsort((unsorted_endings, unsorted_stems))
        self._stems, self._endings = unsorted_stems[order], unsorted_endings[order]

    def __len__(self) -> int:
        """Count the files."""
        return len(self._stems)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Stem and extension of each file; a stem comes twice where two files differ in extension only."""
        for stem, ending in zip(self._stems, self._endings, strict=True):
            yield os.fsdecode(stem), os.fsdecode(ending)

    def named(self, stem: str) -> list[str]:
        """Names of the files with this stem."""
        start, end = self._range(stem)
        return [stem + os.fsdecode(ending) for ending in self._endings[start:end]]

    def position(self, name: str) -> int | None:
        """Where a file is, its name given with or without extension; None if it is not there."""
        for stem in (name, os.path.splitext(name)[0]):
            start, end = self._range(stem)
            if start < end and name in (stem, *self.named(stem)):
                return start
        return None

    def not_in(self, others: "ImageFiles") -> list[str]:
        """Names of the files whose stem none of the others has."""
        if len(others) == 0:
            return [stem + ending for stem, ending in self]
        nearest = np.searchsorted(others._stems, self._stems).clip(max=len(others) - 1)
        alone = others._stems[nearest] != self._stems
        return [os.fsdecode(self._stems[i] + self._endings[i]) for i in np.flatnonzero(alone)]

    def masks_beside(self) -> list[str]:
        """List the files that are named as another one with the ending of a mask added."""
        return [stem + ending for stem, ending in self if self.named(image_of_mask(stem))]

    def _range(self, stem: str) -> tuple[int, int]:
        key = os.fsencode(stem)
        return bisect_left(self._stems, key), bisect_right(self._stems, key)


class PackedNames:
    """Names collected in one block of bytes."""

    def __init__(self) -> None:
        """Start without names."""
        self._block = bytearray()
        self._ends = array("q", [0])

    def append(self, name: str) -> None:
        """Add a name."""
        self._block += os.fsencode(name)
        self._ends.append(len(self._block))

    def array(self) -> npt.NDArray[np.bytes_]:
        """All of them, in an array of fixed width."""
        width = max((end - start for start, end in pairwise(self._ends)), default=1)
        padded = bytearray(width * (len(self._ends) - 1))
        for index, (start, end) in enumerate(pairwise(self._ends)):
            padded[index * width : index * width + end - start] = self._block[start:end]
        return np.frombuffer(padded, np.dtype((np.bytes_, width)))


def images_in(folder: Path) -> Path:
    """Where the images of a folder are: in its `images/` where there is one, else in itself."""
    return folder / "images" if (folder / "images").is_dir() else folder


def inside(path: str | Path, within: Path) -> bool:
    """Whether a file is in a folder, all links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(within))


def refuse_link(path: Path, within: Path) -> None:
    """Refuse a file that lies elsewhere: someone may fill a folder and not be permitted to read what a link leads to.

    Args:
        path: A file of the folder.
        within: The folder. It may be a link itself, and so may the one in it that the file is in.

    Raises:
        ImageError: The file is a link, and what it leads to is not in the folder.
    """
    if path.is_symlink() and not (path.is_file() and (inside(path, within) or inside(path, path.parent))):
        raise ImageError(f"{path}: {ASTRAY}")


def refuse_bomb(where: str, unpacked: int, packed: int) -> None:
    """Refuse what unpacks to too large a size, much larger than it is packed: images do not compress so well.

    Args:
        where: What it is, for the error.
        unpacked: Its bytes, as it states them.
        packed: Bytes that it takes up.

    Raises:
        ImageError: It is a bomb, or as good as one.
    """
    if unpacked > HARMLESS_BYTES and unpacked > MOST_SWELLING * packed:
        cause = f"{packed:,} bytes that unpack to {unpacked:,} are no images but blank, damaged or forged"
        raise ImageError(f"{where}: {cause}; take it out, or save it without compression")


def is_image(name: str) -> bool:
    """Whether a file name is that of an image."""
    return name.lower().endswith(EXTENSIONS)


def image_of_mask(stem: str) -> str:
    """Find the stem of a mask's image by the mask's name, such as `a` of `a_mask` or `a_mask_1`; else empty."""
    found = MASK_ENDING.search(stem)
    return stem[: found.start()] if found else ""


def files_in(folder: Path) -> Iterator[os.DirEntry[str]]:
    """List the files directly in a folder, in any order, without hidden ones; none if there is no such folder.

    Raises:
        ImageError: The folder cannot be read.
    """
    if not folder.is_dir():
        return
    with readable(folder), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in IGNORED and not entry.is_dir():
                yield entry


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the lack of a file or folder, or of permission to read it, into an `ImageError`.

    Other errors are of the disk or the network: no fault of that file, and not to be skipped.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check that it is there and permitted") from error


@contextmanager
def unnamed(where: str) -> Iterator[None]:
    """Take the path out of the operating system's errors: it may hold a patient's name.

    Args:
        where: What to name instead.

    Raises:
        ImageError: A file is gone, or not permitted.
        OSError: Another error, of the disk or the network: no fault of that file.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"cannot be read ({error.strerror}); check that it is there and permitted") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, where) from None


def digest(folder: Path) -> str:
    """Hex digits that change with the name, size or time of any file in a folder; found in flat memory."""
    # The sum of their digests is the same in whatever order the files come.
    return f"{sum(_digest(entry) for entry in files_in(folder)):x}"


def _digest(entry: os.DirEntry[str]) -> int:
    try:
        status = entry.stat()
    except OSError:
        # A link to nothing: it counts as it is, and is reported as bad when it is decoded.
        status = entry.stat(follow_symlinks=False)
    text = f"{status.st_size} {status.st_mtime_ns} {entry.name}"
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest())
