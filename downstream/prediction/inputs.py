"""New images on their way into a model: found in files and folders of every kind, known by name before they are read.

Names, files and folders of DICOM tell who somebody is: pseudonyms stand for them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ahm_env import ImageError
from ahm_env.files import as_utf8
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.formats.dicom.source import Dicom
from ahm_env.images.formats.files import image_stem, images_in
from ahm_env.images.formats.fingerprint import stamp
from ahm_env.images.formats.nifti.source import Nifti
from ahm_env.images.formats.pictures.folder import Folder
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.privacy import pseudonym
from ahm_env.images.source import DatasetIndex, Entry, Sample, Source

Problem = tuple[str, str]  # an image or file, and a line about it
KINDS = (Folder.kind, Nifti.kind, Dicom.kind)  # in the order in which they come


class Loaded(NamedTuple):
    """An image that was loaded.

    Attributes:
        entry: Which.
        found: What came of it: None where it shows nothing.
        stamp: That of its file, from before it was read.
    """

    entry: Entry
    found: Sample | ImageError | None
    stamp: str


@dataclass(frozen=True)
class Input:
    """A path that was given, the source that it is, and what that holds."""

    path: Path
    source: Source
    index: DatasetIndex


@dataclass(frozen=True)
class Incoming:
    """All images to predict.

    Attributes:
        inputs: In order: pictures, NIfTI, DICOM.
        names: Of all images.
        folders: Where they are; pseudonyms for those of DICOM.
        problems: What is wrong and belongs to no image: the path that was given, and a line about it.
        notes: What is worth knowing but is no fault, one line each.
    """

    inputs: list[Input]
    names: set[str]
    folders: list[str]
    problems: list[Problem]
    notes: list[str]

    def entries(self, kind: str = "") -> Iterator[Entry]:
        """All images, or those of a kind of source; the images of a file come one after another."""
        for one in self.inputs:
            if kind in ("", one.source.kind):
                yield from one.index.samples

    def loads(self, done: Collection[str]) -> Iterator[Callable[[], Loaded]]:
        """Yield a function for each image that loads it, except for images whose names are in `done`."""
        file, seen = None, ""
        for entry in self.entries():
            if entry.name not in done:
                if entry.file is not None and entry.file != file:
                    file, seen = entry.file, stamp(entry.file)  # once a volume, of which slices may be kept in memory
                yield partial(_load, entry, seen)

    def changed(self, stamps: Mapping[str, str]) -> list[str]:
        """Name those of some images whose files have other stamps now."""
        files = ((entry.name, entry.file) for entry in self.entries() if entry.name in stamps)
        return [name for name, file in files if file is not None and stamp(file) != stamps[name]]


def find_images(paths: Sequence[Path], pixels: PixelSettings) -> Incoming:
    """Find the images of files and of folders: in `images/` where there is one, else in the folder, DICOM also below.

    Args:
        paths: Images and folders of images; masks and labels beside them are not read, nor masks among them.
        pixels: How DICOM and NIfTI are shown and cut.

    Raises:
        ImageError: A path does not exist or is no image, a folder has no image, or two images have the same stem.
        SettingsError: A package that reads them is missing, or the salt of pseudonyms cannot be written.
    """
    found = Incoming([], set(), [], [], [])
    for path, source in _distinct([(path, _source(path, pixels)) for path in paths]):
        index = source.index()
        found.inputs.append(Input(path, source, index))
        found.problems.extend((as_utf8(str(path)), as_utf8(problem)) for problem in index.problems)
        found.notes.extend([*index.notes, *(warning.text for warning in index.warnings)])
    found.inputs.sort(key=lambda one: KINDS.index(one.source.kind))
    found.names.update(_names(found.inputs))
    found.folders.extend(sorted({_folder(one) for one in found.inputs}))
    return found


def _load(entry: Entry, seen: str) -> Loaded:
    try:
        sample = entry()
    except ImageError as error:
        return Loaded(entry, error, seen)
    if sample is not None and sample.image.dtype.kind == "f" and not np.isfinite(sample.image).any():
        return Loaded(entry, ImageError(f"{sample.path}: holds no finite value; export it again"), seen)
    return Loaded(entry, sample, seen)


def _source(path: Path, pixels: PixelSettings) -> Source:
    if not path.exists():
        raise ImageError(f"{path}: no such file or folder; check the path")
    return find_source(path, pixels, bare=True)


def _distinct(given: Sequence[tuple[Path, Source]]) -> list[tuple[Path, Source]]:
    """Leave out what is given twice, itself or with a folder that it is in."""
    places = dict[tuple[str, Path], tuple[Path, Source]]()
    for path, source in given:
        # A link is not followed: its name is what counts.
        place = images_in(path).resolve() if path.is_dir() else path.parent.resolve() / path.name
        places.setdefault((source.kind, place), (path, source))
    return [
        one
        for (kind, place), one in places.items()
        if all((kind, folder) not in places for folder in (place.parents if kind == Dicom.kind else (place.parent,)))
    ]


def _folder(one: Input) -> str:
    """Name the folder of images; a pseudonym stands for that of DICOM."""
    if isinstance(one.source, Dicom):
        return pseudonym(f"folder {(one.path if one.path.is_dir() else one.path.parent).resolve()}")
    return str((images_in(one.path) if one.path.is_dir() else one.path.parent).resolve())


def _names(inputs: Sequence[Input]) -> Iterator[str]:
    """Names of all images, no two of which would be written to the same files."""
    taken = set[str]()
    for one in inputs:
        for entry in one.index.samples:
            if _key(entry) in taken:
                rivals = ((other, rival) for other in inputs for rival in other.index.samples)
                raise ImageError(_clash(one, entry, next(pair for pair in rivals if _key(pair[1]) == _key(entry))))
            taken.add(_key(entry))
            yield entry.name


def _key(entry: Entry) -> str:
    # some file systems take names for the same that differ in case only
    return image_stem(entry.name).casefold()


def _clash(one: Input, entry: Entry, rival: tuple[Input, Entry]) -> str:
    paths = [given.path if isinstance(given.source, Dicom) else image.file for given, image in ((one, entry), rival)]
    if isinstance(one.source, Dicom):
        return (
            f"{paths[0]}: holds a DICOM image of the same name as one of {paths[1]}; give the folder that both are in"
        )
    return (
        f"{paths[0]}: has the same stem as {paths[1]}, so one mask would overwrite the other; rename one of them, "
        f"or predict them into two directories"
    )
