"""From the name of a source to an `ImageSet`: found in the cache, or decoded into it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError, SettingsError
from ahm_env.files import cache_root
from ahm_env.images.dataset.builder import Progress, build
from ahm_env.images.dataset.cache import (
    IDENTITIES,
    entry_key,
    locked,
    new_entry,
    read_meta,
)
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.formats.dicom.index import holds_dicom, is_dicom
from ahm_env.images.formats.dicom.source import Dicom
from ahm_env.images.formats.files import EXTENSIONS, files_in, images_in, is_image
from ahm_env.images.formats.nifti.names import is_nifti
from ahm_env.images.formats.nifti.source import Nifti
from ahm_env.images.formats.npz import Npz
from ahm_env.images.formats.pictures.folder import Folder
from ahm_env.images.layouts.hints import import_hint
from ahm_env.images.phantom.source import Phantom
from ahm_env.images.pixels.fit import PixelSettings
from ahm_env.images.pixels.opencv import MOST_PIXELS
from ahm_env.images.privacy import refuse_path
from ahm_env.images.source import SPLITS, DatasetIndex, Entries, Entry, Sample, Source

CHANGED = "its images have changed since they were read; start again"


def find_source(source: str | Path | Source, pixels: PixelSettings, bare: bool = False) -> Source:
    """Find the source of that name; return a source as it is.

    Args:
        source: As for `load_images`; a picture, too, if `bare`.
        pixels: How images are shown and cut.
        bare: What lies beside images, masks and labels, is not looked at, and volumes go by their own names.

    Raises:
        ImageError: There is no such file or folder, or it is of no known kind.
        SettingsError: The phantom is misspelt.
    """
    if not isinstance(source, str | Path):
        return source
    text = str(source)
    if text.partition(":")[0] == Phantom.kind and not bare:
        return Phantom(text, pixels.image_size)
    path = Path(text).expanduser()
    kind = _kind_in(path) if path.is_dir() else _kind_of(path, bare)
    if kind is Dicom:
        return Dicom(path, pixels.intensities, pixels.burned_in, bare)
    if kind is Nifti:
        return Nifti(path, pixels.intensities, pixels.axis, named=bare, bare=bare, hint=import_hint)
    if kind is Folder:
        return Folder(path, bare, import_hint)
    if kind is Npz:
        return Npz(path)
    if not path.exists():
        what = "no such file or folder"
    else:
        what = f"not an image that can be read ({', '.join(EXTENSIONS)})" if bare else "not a source of images"
    raise ImageError(f"{text}: {what}; give a folder of images, an .npz, NIfTI or DICOM file, or `phantom`")


def _kind_of(path: Path, bare: bool) -> type | None:
    if not path.is_file():
        return None
    if is_nifti(path.name):
        return Nifti
    if bare and is_image(path.name):
        return Folder
    if path.suffix.lower() == ".npz" and not bare:
        return Npz
    return Dicom if is_dicom(path) else None


def _kind_in(path: Path) -> type:
    """Find out what most files of a folder are."""
    images = images_in(path)
    kinds = Counter((is_image(entry.name), is_nifti(entry.name)) for entry in files_in(images))
    pictures, volumes = kinds[True, False], kinds[False, True]
    if holds_dicom(images, max(pictures, volumes)):
        return Dicom
    return Nifti if volumes > pictures else Folder


def load_images(
    source: str | Path | Source,
    image_size: int = 64,
    channels: int | None = None,
    fit: str = "stretch",
    window: str | None = None,
    axis: str = "axial",
    burned_in: bool = False,
    skip_bad: bool = False,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    masks: bool = True,
) -> ImageSet:
    """Open a set of images; the first time, decode it into the cache.

    Args:
        source: A folder, an .npz file of MedMNIST or MedSegBench, `phantom[:COUNT[:SEED]]`, or a `Source`.
        image_size: S: every image becomes S x S pixels.
        channels: 1 (grey) or 3 (RGB); None takes 1 if every image is grey, else 3.
        fit: "stretch", or "pad", which keeps the aspect ratio.
        window: Of DICOM and NIfTI: lung, bone, brain, soft, or CENTRE,WIDTH; None takes the file's own.
        axis: Of NIfTI volumes: sagittal, coronal or axial.
        burned_in: Take DICOM images in that say that text is burned into them.
        skip_bad: Leave bad images out, and count them, instead of stopping at the first.
        cache_dir: Where decoded images are kept; None takes $AHM_CACHE, else the user's cache directory.
        progress: Called with (done, total) while decoding.
        masks: Whether masks are read. If not, none is opened, whatever is wrong with it: the set knows which images
            have one, and `annotated` reads those of some of them.

    Returns:
        The set.

    Raises:
        ImageError: The source, or one of its images, cannot be used.
        SettingsError: A setting is out of range, the path of the source tells whose images these are, or the cache
            cannot be written.
        OSError: The disk is full.
    """
    settings = PixelSettings(image_size, channels, fit, window, axis, burned_in)
    found = find_source(source, settings)
    root = cache_root(cache_dir)
    # A larger limit lets images in that were left out.
    asked = f"{found.fingerprint()} {MOST_PIXELS}{'' if masks else ' without masks'}"
    key = entry_key(asked, asdict(settings))
    entry = root / key
    if not _usable(entry, skip_bad):
        with locked(root, key):
            # Another process may have built it meanwhile.
            if not _usable(entry, skip_bad):
                with new_entry(root, key) as directory:
                    build(directory, found.index(masks), settings, skip_bad, str(source), progress, masks)
    refuse_path(str(source), frozenset(np.load(entry / IDENTITIES).tolist()))
    return ImageSet(entry, str(source))


def with_marked(
    images: ImageSet, splits: Sequence[str], skip_bad: bool = False, progress: Progress | None = None
) -> ImageSet:
    """Take images in that show nothing but are marked: they count in a test, as people found something there.

    Args:
        images: A set that was loaded without masks, and so without such images; others stay as they are.
        splits: Where such images are looked for; no mask of another split, nor of an image that shows something, is
            opened.
        skip_bad: Leave such images out whose masks cannot be read.
        progress: Called with (done, total) while decoding.

    Raises:
        ImageError: The source cannot be read any more, or the mask of such an image.
        SettingsError: The cache cannot be written.
    """
    if images.masks_read or not (images.empty and images.has_masks):
        return images
    source = _Marked(find_source(images.source, images.pixels), splits, images.source)
    pixels, root = asdict(images.pixels), images.entry.parent
    more = load_images(source, skip_bad=skip_bad, cache_dir=root, progress=progress, masks=False, **pixels)
    return images if len(more) == len(images) else ImageSet(more.entry, images.source, None, images.functions)


class _Marked:
    """A source whose images that show nothing count in some splits, where something is marked in their masks."""

    def __init__(self, source: Source, splits: Sequence[str], name: str) -> None:
        self.kind = source.kind
        self._source, self._splits, self._name = source, splits, name

    def __str__(self) -> str:
        return self._name

    def fingerprint(self) -> str:
        return f"{self._source.fingerprint()} marked {' '.join(self._splits)}"

    def index(self, masks: bool = True) -> DatasetIndex:
        index = self._source.index(masks)
        return replace(index, samples=Entries(self._entries, index.samples))

    def _entries(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            yield replace(entry, marks=SPLITS[entry.split] in self._splits)


def find_files(source: str | Path | Source) -> Iterator[tuple[str, Path]]:
    """Yield the files of a DICOM or NIfTI source, masks included, each with the pseudonym under which it is shown.

    Raises:
        ImageError: There is no such source.
        SettingsError: Its images are shown by their own names.
    """
    found = find_source(source, PixelSettings(burned_in=True))
    if not isinstance(found, Dicom | Nifti):
        raise SettingsError(f"{source}: its images are shown by their own names; pseudonyms are for DICOM and NIfTI")
    return found.names()


def find_file(source: str | Path | Source, name: str) -> Path:
    """Find the file that is shown under a pseudonym; a number of a frame or a slice behind it is let pass.

    Raises:
        ImageError: There is no such source.
        SettingsError: No file of the source has that pseudonym, or its images are shown by their own names.
    """
    stripped = re.sub(r"_\d{4,}$", "", name)
    for shown, path in find_files(source):
        if shown == stripped:
            return path
    raise SettingsError(f"{source}: no file of name {name} in it; give a name that was shown for this source")


def originals(images: ImageSet, indices: npt.ArrayLike) -> Iterator[Sample]:
    """Yield the images of a set as their source has them, at their own size, masks as they are stored.

    Args:
        images: The set.
        indices: (B,) integers, ascending.

    Yields:
        One sample an index; only these are decoded.

    Raises:
        ImageError: The source has changed since the set was made.
    """
    for entry in wanted(images, indices):
        yield decoded(entry, images.source).with_mask()


def wanted(images: ImageSet, indices: npt.ArrayLike) -> Iterator[Entry]:
    """Yield entries as `originals` yields samples, masks left to be read where the set has not read them."""
    index = find_source(images.source, images.pixels).index(images.masks_read)
    entries = iter(index.samples)
    passed = 0
    for position, number in zip(images.positions(indices).tolist(), np.atleast_1d(indices).tolist(), strict=True):
        entry = next(islice(entries, position - passed, None), None)
        passed = position + 1
        if entry is None or entry.name != images.names[number]:
            raise ImageError(f"{images.source}: {CHANGED}")
        yield replace(entry, marks=True)  # those of the set that show nothing are in it because they are marked


def decoded(entry: Entry, source: str) -> Sample:
    """Decode an entry of a set.

    Raises:
        ImageError: It is bad, or shows nothing any more.
    """
    if (sample := entry()) is None:
        raise ImageError(f"{source}: {CHANGED}")
    return sample


def _usable(entry: Path, skip_bad: bool) -> bool:
    meta = read_meta(entry)
    return meta is not None and (skip_bad or meta.skipped == 0)
