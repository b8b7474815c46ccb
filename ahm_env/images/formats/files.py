"""The files of a folder, found by name, and no link that leads out of it."""

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
MASK = r"(?:masks?|msk|segm?|segmentation|superpixels?|labels?|gt|ground_?truth|anno|annotations?|manual)"
MASK_NAMES = [
    re.compile(rf"(?:[ _.-]|(?-i:(?<=[a-z0-9])(?=[A-Z])))\(?{MASK}([ _-]?[0-9]+)?\)?$", re.IGNORECASE),
    re.compile(rf"^{MASK}()[ _.-]+(?=.)", re.IGNORECASE),
]
# What of several scans of a patient an image is called after; numbers are channels as nnU-Net has them
SCAN = re.compile(
    r"\d{4}|flair|t1|t1ce|t1c|t1gd|t1n|t1w|t2|t2w|t2f|dwi|adc|pd|ct|pet|mri?|ima?ge?s?|imaging|input|scan|vol|volume"
    r"|orig|original|raw",
    re.IGNORECASE,
)
IGNORED = ("thumbs.db", "desktop.ini")
ASTRAY = "is a link that leads out of the folder, to another folder or nowhere; put what it leads to in its place"
AMONG = "masks of other files by their names"
CLOSED = "is a folder that cannot be read; check that it is permitted"

Hint = Callable[[Path, bool], str]  # see `dataset.hints.import_hint`


def no_hint(path: Path, elsewhere: bool) -> str:
    """Know of no other place where masks could be."""
    return ""


def stem_of(name: str) -> str:
    """Strip the extension off a name."""
    return os.path.splitext(name)[0]


class Files:
    """Names of files, sorted by stem, found with or without extension.

    They are kept in arrays: a hundred thousand small strings would take up several times as much.
    """

    def __init__(self, names: Iterable[str], stem_of: Callable[[str], str] = stem_of) -> None:
        """Sort the names.

        Args:
            names: Of files, or paths within a folder with "/" between their parts.
            stem_of: Strips the extension off a name.
        """
        self._stem_of = stem_of
        encoded = [os.fsencode(name) for name in names]
        stems = np.array([os.fsencode(stem_of(os.fsdecode(name))) for name in encoded], np.bytes_)
        stored = np.array(encoded, np.bytes_)
        self.order = np.lexsort((stored, stems))
        self._names, self._stems = stored[self.order], stems[self.order]

    def __len__(self) -> int:
        """Count the files."""
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        """Name of each file."""
        return map(os.fsdecode, self._names)

    def with_stem(self, stem: str) -> range:
        """Where the files with this stem are."""
        key = os.fsencode(stem)
        return range(bisect_left(self._stems, key), bisect_right(self._stems, key))

    def without(self, names: Iterable[str]) -> "Files":
        """Return the files but for these."""
        left = set(names)
        return Files((name for name in self if name not in left), self._stem_of)

    def named(self, stem: str) -> list[str]:
        """Names of the files with this stem."""
        return [os.fsdecode(self._names[place]) for place in self.with_stem(stem)]

    def position(self, name: str) -> int | None:
        r"""Where a file is, its name given with or without extension, with / or \; None unless there is just one."""
        for spelling in (name, name.replace("\\", "/")):
            key = os.fsencode(spelling)
            exact = [place for place in self.with_stem(self._stem_of(spelling)) if self._names[place] == key]
            places = exact or self.with_stem(spelling)
            if len(places) == 1:
                return places[0]
        return None

    def hold_folder(self, name: str) -> bool:
        """Whether files are in a folder of this name."""
        key = os.fsencode(name) + b"/"
        place = bisect_left(self._stems, key)
        return place < len(self) and bytes(self._stems[place]).startswith(key)

    def masks(self) -> list[str]:
        """Names of the files that are called as masks of others, or of what others are scans of."""
        bases = {name: some for name in self if (some := images_of_mask(self._stem_of(name)))}
        if not bases:
            return []
        wanted = {base for some in bases.values() for base in some}
        stems = (self._stem_of(name) for name in self if name not in bases)
        shared = {base for stem in stems for base in (stem, *(base for base, _ in parts_of(stem))) if base in wanted}
        return [name for name, some in bases.items() if not shared.isdisjoint(some)]

    def not_in(self, others: "Files") -> list[str]:
        """Names of the files whose stem none of the others has."""
        return [os.fsdecode(name) for name in self._names[~np.isin(self._stems, others._stems)]]


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
        ImageError: The file is a link, and what it leads to is not in the folder; or it may not be looked at.
    """
    with readable(path):
        if path.is_symlink() and not (path.is_file() and (inside(path, within) or inside(path, path.parent))):
            raise ImageError(f"{path}: {ASTRAY}")


def is_image(name: str) -> bool:
    """Whether a file name is that of an image."""
    return name.lower().endswith(EXTENSIONS)


def image_stem(name: str) -> str:
    """Name the files made of an image: its name without the extension, if it has one of an image."""
    return stem_of(name) if is_image(name) else name


def images_of_mask(stem: str) -> list[str]:
    """List the stems that a mask's image may have, by the mask's name, likeliest first; none if it is not such a name.

    Of `a_mask` and `mask_a` that is `a`, of `a_mask_1` it is `a_1`, or `a` if that has several masks. The image may
    have a word of its own, too, as `a_flair` or `img_a` has: see `parts_of`.
    """
    found = next(filter(None, (form.search(stem) for form in MASK_NAMES)), None)
    if not found:
        return []
    before, after = stem[: found.start()], stem[found.end() :]
    return [before + number + after for number in dict.fromkeys((found[1] or "", ""))]


def parts_of(stem: str) -> Iterator[tuple[str, str]]:
    """Ways to part a stem into what it may share with its mask, and its scan: `a_flair` into `a` and `flair`."""
    for word in reversed(list(re.finditer("[^ _.-]+", stem))):
        if SCAN.fullmatch(word[0]) and len(word[0]) < len(stem):
            before, after = stem[: word.start()], stem[word.end() :]
            yield (before + after[1:] if after else before[:-1], word[0])


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the lack of a file or folder, or of permission to read it, into an `ImageError`.

    Other errors are of the disk or the network: no fault of that file, and not to be skipped.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check that it is there and permitted") from error


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file, or what is no file but must not be passed over in silence.

    Attributes:
        path: Where it is.
        relative: Where it is within the folder that was searched, with "/" between the parts.
        trouble: Why it cannot be read; empty for a file.
    """

    path: str
    relative: str
    trouble: str = ""


def files_in(folder: Path) -> Iterator[os.DirEntry[str]]:
    """List the files directly in a folder, in any order, without hidden ones; none if there is no such folder.

    Raises:
        ImageError: The folder cannot be read.
    """
    return _listed(folder, folders=False)


def folders_in(folder: Path) -> list[str]:
    """Sorted names of the folders directly in a folder, without hidden ones; none if there is no such folder.

    Raises:
        ImageError: The folder cannot be read.
    """
    return sorted(entry.name for entry in _listed(folder, folders=True))


def _listed(folder: Path, folders: bool) -> Iterator[os.DirEntry[str]]:
    if folder.is_dir():
        with readable(folder), os.scandir(folder) as entries:
            yield from (entry for entry in entries if _is_folder(entry) == folders and not _ignored(entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link to itself is none, of which `is_dir` raises an error."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def walk(top: Path, within: Path) -> Iterator[FoundFile]:
    """Everything in a folder and its sub-folders, in any order, without hidden ones; of a file, itself.

    Args:
        top: A folder or a file; nothing is found where there is none.
        within: A folder that no link may lead out of.

    Raises:
        ImageError: The folder cannot be read.
    """
    boundary = Path(os.path.realpath(within))
    if top.is_file():
        yield FoundFile(str(top), top.name)
        return
    if top.is_dir():
        with readable(top), os.scandir(top):
            pass
    folders = [(str(top), "")] if top.is_dir() else []
    while folders:
        folder, prefix = folders.pop()
        try:
            entries = os.scandir(folder)
        except PermissionError:
            yield FoundFile(folder, prefix.removesuffix("/"), CLOSED)
            continue
        with entries:
            for entry in entries:
                relative = prefix + entry.name
                if _ignored(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, relative + "/"))
                elif entry.is_symlink() and not (os.path.isfile(entry.path) and inside(entry.path, boundary)):
                    yield FoundFile(entry.path, relative, ASTRAY)
                elif entry.is_file():
                    yield FoundFile(entry.path, relative)


def _ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED
