"""From the name of a source to an `ImageSet`: found in the cache, or decoded into it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError
from ahm_env.images.building import Progress, build
from ahm_env.images.cache import IDENTITIES, cache_root, entry_key, locked, new_entry, read_meta
from ahm_env.images.dicom import Dicom, holds_dicom, is_dicom
from ahm_env.images.files import files_in, images_in, is_image
from ahm_env.images.folder import Folder
from ahm_env.images.image_set import ImageSet
from ahm_env.images.nifti import Nifti, is_nifti
from ahm_env.images.npz import Npz
from ahm_env.images.phantom import Phantom
from ahm_env.images.pixels import PixelSettings
from ahm_env.images.source import Sample, Source
from ahm_env.images.telling import refuse_path


def find_source(source: str | Path | Source, pixels: PixelSettings) -> Source:
    """The source of that name; a source is its own.

    Raises:
        ImageError: There is no such file or folder, or it is of no known kind.
        SettingsError: The phantom is misspelt.
    """
    if not isinstance(source, str | Path):
        return source
    text = str(source)
    if text.partition(":")[0] == Phantom.kind:
        return Phantom(text, pixels.image_size)
    path = Path(text).expanduser()
    if path.is_dir():
        return _in_folder(path, pixels)
    if path.suffix.lower() == ".npz" and path.is_file():
        return Npz(path)
    if path.is_file() and is_nifti(path.name):
        return Nifti(path, pixels.intensities, pixels.axis)
    if path.is_file() and is_dicom(path):
        return Dicom(path, pixels.intensities, pixels.burned_in)
    what = "not a source of images" if path.exists() else "no such file or folder"
    raise ImageError(f"{text}: {what}; give a folder of images, an .npz, NIfTI or DICOM file, or `phantom`")


def _in_folder(path: Path, pixels: PixelSettings) -> Source:
    """A folder of images of the usual formats, of NIfTI volumes, or a tree of DICOM files: whichever are more."""
    images = images_in(path)
    kinds = Counter((is_image(entry.name), is_nifti(entry.name)) for entry in files_in(images))
    pictures, volumes = kinds[True, False], kinds[False, True]
    if holds_dicom(images, max(pictures, volumes)):
        return Dicom(path, pixels.intensities, pixels.burned_in)
    return Nifti(path, pixels.intensities, pixels.axis) if volumes > pictures else Folder(path)


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
) -> ImageSet:
    """Opens a set of images; the first time, decodes it into the cache.

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
    key = entry_key(found.fingerprint(), asdict(settings))
    entry = root / key
    if not _usable(entry, skip_bad):
        with locked(root, key):
            # Another process may have built it meanwhile.
            if not _usable(entry, skip_bad):
                with new_entry(root, key) as directory:
                    build(directory, found.catalogue(), settings, skip_bad, str(source), progress)
    refuse_path(str(source), frozenset(np.load(entry / IDENTITIES).tolist()))
    return ImageSet(entry, str(source))


def originals(images: ImageSet, indices: npt.ArrayLike) -> Iterator[Sample]:
    """The images of a set as their source has them, at their own size, masks as they are stored.

    Args:
        images: The set.
        indices: (B,) integers, ascending.

    Yields:
        One sample an index; only these are decoded.

    Raises:
        ImageError: The source has changed since the set was made.
    """
    wanted = zip(images.positions(indices).tolist(), np.atleast_1d(np.asarray(indices)).tolist(), strict=True)
    loads = enumerate(find_source(images.source, images.pixels).catalogue().samples)
    for position, index in wanted:
        load = next((load for place, load in loads if place == position), None)
        sample = load() if load else None
        if sample is None or sample.name != images.names[index]:
            raise ImageError(f"{images.source}: its images have changed since they were read; start again")
        yield sample


def _usable(entry: Path, skip_bad: bool) -> bool:
    meta = read_meta(entry)
    return meta is not None and (skip_bad or meta.skipped == 0)
