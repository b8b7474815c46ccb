"""From a source to an `ImageSet`: found in the cache, or decoded into it."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.cache import ArrayWriter, cache_root, entry_key, locked, new_entry, read_meta, write_meta
from ahm_env.images.folder import Folder
from ahm_env.images.image_set import ImageSet
from ahm_env.images.phantom import Phantom
from ahm_env.images.pixels import Image8, find_fit, fit_image, fit_mask, with_channels
from ahm_env.images.source import Catalogue, Load, Source

T = TypeVar("T")
THREADS = min(4, os.cpu_count() or 1)


def find_source(source: str | Path, image_size: int) -> Source:
    """The source of that name: a phantom, a folder or an .npz file.

    Raises:
        ImageError: There is no such file or folder, or it is of no known kind.
        SettingsError: The phantom is misspelt.
    """
    text = str(source)
    if text == "phantom" or text.startswith("phantom:"):
        return Phantom(text, image_size)
    path = Path(text).expanduser()
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise ImageError(f"{text}: no such file or folder; give a folder, an .npz file or `phantom`")
    raise ImageError(f"{text}: not a source of images; give a folder, an .npz file or `phantom`")


def load_images(
    source: str | Path,
    image_size: int = 64,
    channels: int | None = None,
    fit: str = "stretch",
    skip_bad: bool = False,
    cache_dir: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Opens a set of images, decoding it into the cache on the first time.

    Args:
        source: A folder, an .npz file of MedMNIST or MedSegBench, or `phantom[:COUNT[:SEED]]`.
        image_size: S: every image becomes S x S pixels.
        channels: 1 (grey) or 3 (RGB); None takes 1 if every image is grey, else 3.
        fit: "stretch", or "pad", which keeps the aspect ratio.
        skip_bad: Leave bad images out, and count them, instead of stopping at the first.
        cache_dir: Where decoded images are kept; None takes $AHM_CACHE, else the user's cache directory.
        progress: Called with (done, total) while decoding.

    Returns:
        The set.

    Raises:
        ImageError: The source, or one of its images, cannot be used.
        SettingsError: A setting is out of range, or the cache cannot be written.
        OSError: The disk is full.
    """
    if image_size < 1:
        raise SettingsError(f"image_size is {image_size}; it must be at least 1 pixel")
    if channels not in (None, 1, 3):
        raise SettingsError(f"channels is {channels}; choose 1 (grey) or 3 (RGB)")
    find_fit(fit)
    found = find_source(source, image_size)
    root = cache_root(cache_dir)
    key = entry_key(found.fingerprint(), image_size=image_size, channels=channels, fit=fit)
    if not _usable(root / key, skip_bad):
        with locked(root, key):
            if not _usable(root / key, skip_bad):
                with new_entry(root, key) as directory:
                    _build(
                        directory,
                        found.catalogue(),
                        image_size,
                        channels,
                        fit,
                        skip_bad,
                        str(source),
                        progress,
                    )
    return ImageSet(root / key, str(source))


def _usable(entry: Path, skip_bad: bool) -> bool:
    meta = read_meta(entry)
    return meta is not None and (skip_bad or meta.skipped == 0)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sample as the cache keeps it: image (C, S, S), mask (S, S), and the mask values before resizing."""

    name: str
    image: Image8
    mask: Image8 | None
    values: frozenset[int]
    label: int
    split: int


def _prepare(load: Load, image_size: int, fit: str) -> Prepared | ImageError:
    try:
        sample = load()
        try:
            image = fit_image(sample.image, image_size, fit)
        except ImageError as error:
            raise ImageError(f"{sample.name}: {error}") from error
    except ImageError as error:
        return error
    mask = None if sample.mask is None else fit_mask(sample.mask, image_size, fit)
    values = frozenset() if sample.mask is None else frozenset(np.unique(sample.mask).tolist())
    return Prepared(sample.name, image, mask, values, sample.label, sample.split)


def _build(
    directory: Path,
    catalogue: Catalogue,
    image_size: int,
    channels: int | None,
    fit: str,
    skip_bad: bool,
    source: str,
    progress: Callable[[int, int], None] | None,
) -> None:
    problems = list(catalogue.problems)
    if problems and not skip_bad:
        raise ImageError(problems[0])
    square = (image_size, image_size)
    images = ArrayWriter(directory / "images.npy", (channels or 1, *square), np.uint8)
    masks = ArrayWriter(directory / "masks.npy", square, np.uint8) if catalogue.has_masks else None
    labels = ArrayWriter(directory / "labels.npy", (), np.int32)
    splits = ArrayWriter(directory / "splits.npy", (), np.uint8)
    names = ArrayWriter(directory / "names.npy", (), np.uint8)
    name_ends = ArrayWriter(directory / "name_ends.npy", (), np.int64)
    binary = True
    work = partial(_prepare, image_size=image_size, fit=fit)
    skipped = 0
    first = ""
    for done, prepared in enumerate(ordered(catalogue.samples, work), 1):
        if isinstance(prepared, ImageError):
            if not skip_bad:
                raise prepared
            skipped += 1
            first = first or str(prepared)
            continue
        if channels is None and prepared.image.shape[0] > images.shape[0]:
            images = _widen(images)
        images.append(with_channels(prepared.image, images.shape[0]))
        if masks and prepared.mask is not None:
            masks.append(prepared.mask)
        binary = binary and (prepared.values <= {0, 1} or prepared.values <= {0, 255})
        labels.append(prepared.label)
        splits.append(prepared.split)
        encoded = prepared.name.encode("utf-8", "surrogateescape")
        names.file.write(encoded)
        names.rows += len(encoded)
        name_ends.append(names.rows)
        if progress:
            progress(done, catalogue.count)
    if images.rows == 0:
        raise ImageError(f"{source}: every image is bad; the first: {first}")
    final_channels = images.shape[0]
    for writer in (images, masks, labels, splits, names, name_ends):
        if writer:
            writer.close()
    write_meta(
        directory,
        image_size=image_size,
        channels=final_channels,
        classes=catalogue.classes,
        has_masks=catalogue.has_masks,
        binary_masks=binary,
        skipped=skipped + len(problems),
        first_problem=first,
    )


def _widen(narrow: ArrayWriter) -> ArrayWriter:
    narrow.close()
    old = narrow.path.with_suffix(".grey")
    narrow.path.rename(old)
    wide = ArrayWriter(narrow.path, (3, *narrow.shape[1:]), np.uint8)
    for image in np.load(old, mmap_mode="r"):
        wide.append(np.repeat(image, 3, axis=0))
    old.unlink()
    return wide


def ordered(loads: Iterator[Load], work: Callable[[Load], T]) -> Iterator[T]:
    """Does the work of each in a few threads, a bounded number ahead, and yields in order."""
    pool = ThreadPoolExecutor(THREADS)
    ahead: deque[Future[T]] = deque()
    try:
        for load in loads:
            ahead.append(pool.submit(work, load))
            if len(ahead) >= 4 * THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
