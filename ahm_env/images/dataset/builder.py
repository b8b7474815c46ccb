"""Decodes an index into a cache entry: in a few threads, in order, in flat memory."""

import os
import sys
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError, about
from ahm_env.images.dataset.cache import (
    IDENTITIES,
    PATIENT_DIGESTS,
    ArrayWriter,
    Meta,
    content_digest,
    images_digest,
    write_meta,
)
from ahm_env.images.dataset.patients import Digests, digest, first_images, refuse_leaks
from ahm_env.images.dataset.values import BITS, are_binary, mask_values, to_bits
from ahm_env.images.pixels.fit import PixelSettings, fit_image, fit_mask, with_channels
from ahm_env.images.privacy import refuse_path
from ahm_env.images.source import DatasetIndex, Entry, Sample
from ahm_env.model.devices import count_cores

THREADS = min(4, count_cores())
AHEAD = 4 * THREADS
MANY = 256  # images from which it pays to start processes
BATCH = 16  # images a process is given at once: slices of one volume, mostly

Progress = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A sample as the cache keeps it.

    Attributes:
        sample: Its image is (C, S, S) uint8, where C is 1 if it has no colour; its mask, if that was read, (S, S).
        masked: Whether there is a mask, read or not.
        mask_values: Class numbers in the mask before resizing; none without a mask.
    """

    sample: Sample
    masked: bool
    mask_values: frozenset[int]


def prepare_all(index: DatasetIndex, settings: PixelSettings) -> Iterator[Prepared | ImageError | None]:
    """Decode, scale and resize every sample, as `for_each` does."""
    return for_each(index, partial(_prepare, settings=settings))


def for_each(index: DatasetIndex, function: Callable[[Sample], T]) -> Iterator[T | ImageError | None]:
    """Call a function for every sample and give its results in the order of the index.

    A bad sample gives its error, a sample without content gives None.

    The function runs in threads, or in processes where decoding is mostly Python: it must then be picklable.
    """
    calls = (partial(_call, function, load) for load in index.samples)
    return _in_processes(calls) if index.slow and index.count >= MANY else in_order(calls)


def _call(function: Callable[[Sample], T], load: Entry) -> T | ImageError | None:
    try:
        sample = load()
        if sample is None:
            return None
        with about(sample.path):
            return function(sample)
    except ImageError as error:
        return error


def in_order(calls: Iterable[Callable[[], T]], most: int = AHEAD, behind: bool = False) -> Generator[T, None, None]:
    """Results of calls of which a few threads make up to `most` ahead of the caller, in their order.

    Args:
        calls: The calls.
        most: How many results wait for the caller at once.
        behind: The caller computes meanwhile, and comes before these threads where cores are few.
    """
    pool = ThreadPoolExecutor(THREADS, initializer=_step_back if behind else None)
    ahead: deque[Future[T]] = deque()
    try:
        for call in calls:
            ahead.append(pool.submit(call))
            if len(ahead) == most:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _step_back() -> None:
    """Let other threads come before this one."""
    if sys.platform == "linux":  # elsewhere it would hold back the whole process
        os.nice(10)


def _in_processes(calls: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Results of calls, in their order, of one process a core."""
    # Its processes do not import the caller's main module again: scripts need no guard.
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    parallel = Parallel(n_jobs=-1, batch_size=BATCH, pre_dispatch=f"{2 * BATCH} * n_jobs", return_as="generator")
    try:
        yield from parallel(delayed(call)() for call in calls)
    except TerminatedWorkerError:
        raise ImageError(
            "a process that decodes images ended at once: memory ran out, or a damaged file crashed a decoder; give "
            "parts of the folder to `ahm data check` to find it"
        ) from None


def build(
    directory: Path,
    index: DatasetIndex,
    settings: PixelSettings,
    skip_bad: bool,
    source: str,
    progress: Progress | None,
    masks: bool = True,
) -> None:
    """Write the entry of an index into an empty directory.

    Args:
        directory: Where the files go.
        index: What the source holds.
        settings: Size, channels and fit.
        skip_bad: Leave bad images out instead of stopping at the first.
        source: As the user gave it, for errors.
        progress: Called with (done, total).
        masks: Whether the index reads masks with their images.

    Raises:
        SettingsError: The source's path tells whose images they are.
        ImageError: An image is bad and `skip_bad` is not set, every image is bad, or a patient is in two splits.
        OSError: The disk is full.
    """
    refuse_path(source, index.identities)
    problems = len(index.problems)
    first_problem = next(iter(index.problems), "")
    if problems and not skip_bad:
        raise ImageError(with_remedy(first_problem, source, problems))
    empty = 0
    with EntryWriter(directory, index.has_masks, settings, masks) as writer:
        for done, prepared in enumerate(prepare_all(index, settings), 1):
            if isinstance(prepared, Prepared):
                writer.append(prepared, done - 1)
            elif prepared is None:
                empty += 1
            elif skip_bad:
                problems += 1
                first_problem = first_problem or str(prepared)
            else:
                raise ImageError(with_remedy(str(prepared), source)) from prepared
            if progress:
                progress(done, index.count)
        if writer.count == 0:
            cause = f"bad; the first: {first_problem}" if problems else "empty"
            raise ImageError(f"{source}: all of its {index.count} images are {cause}")
    refuse_leaks(source, index, *writer.patients_and_splits)
    np.save(directory / IDENTITIES, np.array(sorted(index.identities), np.uint64))
    write_meta(directory, writer.meta(index.classes, skipped=problems, empty=empty))


class EntryWriter:
    """Writes prepared samples into the files of an entry; complete at the end of the `with` block."""

    def __init__(self, directory: Path, has_masks: bool, settings: PixelSettings, masks_read: bool = True) -> None:
        """Open the files."""
        self._masks_read = masks_read
        square = (settings.image_size, settings.image_size)
        self._directory, self._settings = directory, settings
        self._binary_masks, self._any_mask = True, False
        self._patients, self._splits = array("Q"), bytearray()
        self._arrays = {
            "images": ArrayWriter(directory / "images.npy", (settings.channels or 1, *square), np.uint8),
            "labels": ArrayWriter(directory / "labels.npy", (), np.int32),
            "masked": ArrayWriter(directory / "masked.npy", (), np.bool_),
            "positions": ArrayWriter(directory / "positions.npy", (), np.int64),
            "names": ArrayWriter(directory / "names.npy", (), np.uint8),
            "name_ends": ArrayWriter(directory / "name_ends.npy", (), np.int64),
        }
        if has_masks and masks_read:
            self._arrays["masks"] = ArrayWriter(directory / "masks.npy", square, np.uint8)
            self._arrays["values"] = ArrayWriter(directory / "values.npy", BITS, np.uint8)

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Complete the files, or abandon them after an error."""
        for file in self._arrays.values():
            if kind is None:
                file.close()
            else:
                file.abandon()
        if kind is None:
            patients, splits = self.patients_and_splits
            np.save(self._directory / "patients.npy", first_images(patients))
            np.save(self._directory / PATIENT_DIGESTS, patients)
            np.save(self._directory / "splits.npy", splits)

    @property
    def patients_and_splits(self) -> tuple[Digests, npt.NDArray[np.uint8]]:
        """Digests of the patients, and the splits, of the samples written so far."""
        return np.frombuffer(self._patients, np.uint64), np.frombuffer(self._splits, np.uint8)

    @property
    def count(self) -> int:
        """Samples written so far."""
        return self._arrays["labels"].rows

    def append(self, prepared: Prepared, position: int) -> None:
        """Append one sample, and its position in the index."""
        sample = prepared.sample
        if self._settings.channels is None and len(sample.image) > self._channels:
            self._widen()
        self._arrays["images"].append(with_channels(sample.image, self._channels))
        self._arrays["masked"].append(prepared.masked)
        self._any_mask |= prepared.masked
        if "masks" in self._arrays:
            square = np.zeros(self._arrays["masks"].row_shape, np.uint8) if sample.mask is None else sample.mask
            self._arrays["masks"].append(square)
            self._arrays["values"].append(to_bits(prepared.mask_values, square))
        if sample.mask is not None:
            self._binary_masks &= are_binary(prepared.mask_values)
        self._arrays["labels"].append(sample.label)
        self._splits.append(sample.split)
        self._patients.append(digest(sample.patient))
        self._arrays["positions"].append(position)
        name = sample.name.encode("utf-8", "surrogateescape")
        self._arrays["names"].append(np.frombuffer(name, np.uint8))
        self._arrays["name_ends"].append(self._arrays["names"].rows)

    def meta(self, classes: tuple[str, ...], skipped: int, empty: int) -> Meta:
        """Describe what was written; call it only when the files are complete."""
        return Meta(
            pixels=self._settings,
            channels=self._channels,
            classes=classes,
            has_masks=self._any_mask,
            masks_read=self._masks_read,
            binary_masks=self._binary_masks,
            skipped=skipped,
            empty=empty,
            images_content=images_digest(self._directory),
            content=content_digest(self._directory, classes),
        )

    @property
    def _channels(self) -> int:
        return self._arrays["images"].row_shape[0]

    def _widen(self) -> None:
        """Turn the grey images written so far into RGB, because the first image in colour has come."""
        grey = self._arrays["images"]
        grey.close()
        narrow = grey.path.rename(grey.path.with_suffix(".grey"))
        self._arrays["images"] = wide = ArrayWriter(grey.path, (3, *grey.row_shape[1:]), np.uint8)
        if grey.rows:
            for image in np.load(narrow, mmap_mode="r"):
                wide.append(with_channels(image, 3))
        narrow.unlink()


def _prepare(sample: Sample, settings: PixelSettings) -> Prepared:
    image = fit_image(sample.image, settings)
    mask, values = None, frozenset[int]()
    if sample.mask is not None:
        mask, values = fit_mask(sample.mask, settings), mask_values(sample.mask)
    return Prepared(replace(sample, image=image, mask=mask, later=None), sample.masked, values)


def with_remedy(problem: str, source: str, count: int | None = None) -> str:
    """Add to a problem of a source what can be done about it; `count` is how many such problems there are, if known."""
    bad = f"{count} such problems; " if count and count > 1 else ""
    return f"{problem} ({bad}--skip-bad leaves bad images out, `ahm data check {source}` lists them)"
