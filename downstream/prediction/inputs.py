"""New images on their way into a model: found in files and folders of every kind, known by name before they are read.

Names, files and folders of DICOM tell who somebody is: pseudonyms stand for them.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

import numpy as np

from ahm_env import ImageError
from ahm_env.images.decoding import read_image
from ahm_env.images.dicom import Dicom, is_dicom
from ahm_env.images.dicom.index import DicomFiles
from ahm_env.images.files import EXTENSIONS, ImageFiles, files_in, images_in, is_image, refuse_link
from ahm_env.images.folder import Folder
from ahm_env.images.loading import find_source
from ahm_env.images.nifti import Nifti, Volume, is_nifti
from ahm_env.images.nifti.names import VolumeFiles
from ahm_env.images.patients import pseudonym
from ahm_env.images.pixels import PixelSettings
from ahm_env.images.source import Entry, Sample

Problem = tuple[str, str]  # an image or file, and a line about it
# Number of the image's group, its name, and what came of it: None where it shows nothing.
Loaded = tuple[int, str, Sample | ImageError | None]

TYPES = f"{', '.join(EXTENSIONS)}, NIfTI, DICOM"


@dataclass(frozen=True)
class Pictures:
    """Files of the usual formats."""

    files: tuple[Path, ...]

    def images(self) -> Iterator[tuple[str, Entry]]:
        """Name of each image and the call that loads it."""
        for path in self.files:
            yield path.name, partial(_load_picture, path)


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file, whose slices are images.

    Attributes:
        path: The file.
        pixels: How it is shown and cut.
        volume: What its header says, or what is wrong with it.
    """

    path: Path
    pixels: PixelSettings
    volume: Volume | ImageError

    def images(self) -> Iterator[tuple[str, Entry]]:
        """Name of each slice and the call that loads it."""
        if isinstance(self.volume, ImageError):
            yield self.path.name, partial(_refuse, self.volume)
        else:
            # A source of its own for each file: what it decoded goes when its slices have been taken.
            yield from _nifti(self.path, self.pixels).slices(self.volume)


@dataclass(frozen=True)
class DicomTree:
    """A DICOM file, or a folder of them with its sub-folders.

    Attributes:
        path: As it was given.
        source: Reads it.
        files: What is in it.
    """

    path: Path
    source: Dicom
    files: DicomFiles

    def frames(self) -> Iterator[tuple[str, Path]]:
        """Name of each image and its file; those of a file come one after another."""
        for name, path, _ in self.source.frames(self.files):
            yield name, path

    def images(self) -> Iterator[tuple[str, Entry]]:
        """Name of each image and the call that loads it."""
        for name, _, load in self.source.frames(self.files):
            yield name, load


Group = Pictures | NiftiFile | DicomTree


@dataclass(frozen=True)
class Incoming:
    """All images to predict.

    Attributes:
        groups: In order: those of the usual formats, each NIfTI file, each DICOM file or tree.
        names: Of all images.
        folders: Where they are; pseudonyms for those of DICOM.
        problems: What is wrong and belongs to no image: the path that was given, and a line about it.
        notes: What is worth knowing but is no fault, one line each.
    """

    groups: tuple[Group, ...]
    names: set[str]
    folders: list[str]
    problems: list[Problem]
    notes: list[str]

    def loads(self, done: Collection[str]) -> Iterator[Callable[[], Loaded]]:
        """Yield a function for each image that loads it, except for images whose names are in `done`."""
        for place, group in enumerate(self.groups):
            for name, load in group.images():
                if name not in done:
                    yield partial(_load, place, name, load)


def find_images(paths: Sequence[Path], pixels: PixelSettings) -> Incoming:
    """Find the images of files and of folders: in `images/` where there is one, else in the folder, DICOM also below.

    Args:
        paths: Images and folders of images; masks and labels beside them are not read, nor masks among them.
        pixels: How DICOM and NIfTI are shown and cut.

    Raises:
        ImageError: A path does not exist or is no image, a folder has no image, or two images have the same stem.
        SettingsError: A package that reads them is missing, or the salt of pseudonyms cannot be written.
    """
    pictures, volumes, trees = list[Path](), list[Path](), list[Path]()
    groups, problems, notes = list[Group](), list[Problem](), list[str]()
    for path in paths:
        if path.is_dir():
            folder = images_in(path)
            source = find_source(path, pixels)
            if isinstance(source, Dicom):
                trees.append(path)
            elif isinstance(source, Nifti):
                found = VolumeFiles(entry.name for entry in files_in(folder) if is_nifti(entry.name))
                volumes += _staying(_without_masks(folder, found.names, found.masks_beside(), notes), path, problems)
                notes += source.notes()
            else:
                pictures += _staying(_in_folder(folder, notes), path, problems)
                notes += source.notes() if isinstance(source, Folder) else []
        elif not path.exists():
            raise ImageError(f"{path}: no such file or folder; check the path")
        elif is_image(path.name):
            pictures.append(path)
        elif is_nifti(path.name):
            volumes.append(path)
        elif is_dicom(path):
            trees.append(path)
        else:
            raise ImageError(f"{path}: not an image that can be read ({TYPES}); export it as one of these")
    if pictures := _once(pictures):
        groups.append(Pictures(tuple(pictures)))
    for path in _once(volumes):
        groups.append(_nifti_file(path, pixels, notes))
    for path in _outermost(trees):
        groups.append(_dicom_tree(path, pixels, problems, notes))
    folders = {str(path.parent.resolve()) for path in pictures + volumes}
    folders |= {pseudonym(f"folder {(path if path.is_dir() else path.parent).resolve()}") for path in trees}
    return Incoming(tuple(groups), _names(groups), sorted(folders), problems, notes)


def stem(name: str) -> str:
    """Name the files made of an image: its name without the extension, if it has one of an image."""
    return Path(name).stem if is_image(name) else name


def _load(place: int, name: str, load: Entry) -> Loaded:
    return place, name, _load_image(name, load)


def _load_image(name: str, load: Entry) -> Sample | ImageError | None:
    try:
        sample = load()
    except ImageError as error:
        return error
    if sample is not None and sample.name != name:
        return ImageError(f"{sample.path}: has changed while it was read; start again")
    if sample is not None and sample.image.dtype.kind == "f" and not np.isfinite(sample.image).any():
        return ImageError(f"{sample.path}: holds no finite value; export it again")
    return sample


def _load_picture(path: Path) -> Sample:
    _check_name(path)
    return Sample(path.name, str(path), read_image(path))


def _check_name(path: Path) -> None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise ImageError(f"{str(path)!a}: its name is not UTF-8; rename the file") from None


def _in_folder(folder: Path, notes: list[str]) -> list[Path]:
    files = ImageFiles(folder)
    if not len(files):
        raise ImageError(f"{folder}: no image directly in it ({TYPES}); give the folder that the images are in")
    return _without_masks(folder, [stem + ending for stem, ending in files], files.masks_beside(), notes)


def _without_masks(folder: Path, names: list[str], masks: list[str], notes: list[str]) -> list[Path]:
    """Files of a folder but for masks that lie among them, of which a note tells."""
    if masks:
        notes.append(f"{folder}: masks of other files by their names, which are not predicted: {len(masks):,}")
    among = set(masks)
    return [folder / name for name in names if name not in among]


def _staying(files: list[Path], folder: Path, problems: list[Problem]) -> list[Path]:
    """Files of a folder without links that lead out of it, which are problems."""
    stay = []
    for file in files:
        try:
            refuse_link(file, folder)
            stay.append(file)
        except ImageError as error:
            problems.append((str(file), str(error)))
    return stay


def _nifti(path: Path, pixels: PixelSettings) -> Nifti:
    return Nifti(path, pixels.intensities, pixels.axis, named=True)


def _nifti_file(path: Path, pixels: PixelSettings, notes: list[str]) -> NiftiFile:
    try:
        _check_name(path)
    except ImageError as error:
        return NiftiFile(path, pixels, error)
    (volume,) = _nifti(path, pixels).volumes()
    if isinstance(volume, Volume) and volume.series > 1:
        notes.append(f"{path}: the first of its {volume.series:,} volumes is read")
    return NiftiFile(path, pixels, volume)


def _dicom_tree(path: Path, pixels: PixelSettings, problems: list[Problem], notes: list[str]) -> DicomTree:
    source = Dicom(path, pixels.intensities, pixels.burned_in)
    files, wrong, remarks = source.files()
    problems += [(str(path), problem) for problem in wrong]
    notes += remarks
    return DicomTree(path, source, files)


def _names(groups: Sequence[Group]) -> set[str]:
    """Names of all images, no two of which would be written to the same files."""
    names, taken = set[str](), dict[str, Path]()
    for group in groups:
        for number, (name, _) in enumerate(group.images()):
            path = group.files[number] if isinstance(group, Pictures) else group.path
            # some file systems take names for the same that differ in case only
            key = stem(name).casefold()
            if key in taken:
                raise ImageError(_clash(group, path, taken[key]))
            taken[key] = path
            names.add(name)
    return names


def _clash(group: Group, path: Path, rival: Path) -> str:
    if isinstance(group, DicomTree):
        return f"{path}: holds a DICOM image of the same name as one of {rival}; give the folder that both are in"
    return (
        f"{path}: has the same stem as {rival}, so one mask would overwrite the other; rename one of them, "
        f"or predict them into two directories"
    )


def _once(paths: Sequence[Path]) -> list[Path]:
    """Files without those given twice."""
    places = dict[Path, Path]()
    for path in paths:
        places.setdefault(_place(path), path)
    return list(places.values())


def _outermost(paths: Sequence[Path]) -> list[Path]:
    """Files and trees that lie in none of the others, each once."""
    places = dict[Path, Path]()
    for path in paths:
        places.setdefault(images_in(path).resolve(), path)
    return [path for place, path in places.items() if places.keys().isdisjoint(place.parents)]


def _place(path: Path) -> Path:
    """Where a file lies, without following it where it is a link: its name is what counts."""
    return path.parent.resolve() / path.name


def _refuse(error: ImageError) -> NoReturn:
    raise error
