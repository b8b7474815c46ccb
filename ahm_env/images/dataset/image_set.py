"""A set of images, memory-mapped: as large as the disk, in a few megabytes of memory."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.dataset.cache import PATIENT_DIGESTS, read_meta
from ahm_env.images.dataset.names import Names
from ahm_env.images.dataset.values import from_bits
from ahm_env.images.source import SPLITS

Pixels8 = npt.NDArray[np.uint8]
CHUNK_BYTES = 2**18


@dataclass(frozen=True)
class Annotations:
    """The masks and labels of some images of a set, which are all that is known of it.

    Attributes:
        classes: Names of the classes.
        labels: `(N,)` int64 of all images, indices into `classes`; -1 where unknown.
        masked: `(M,)` int64, ascending: the images whose masks are known.
        entry: Directory in the cache that holds these masks; None where the set has read all masks itself.
        ignore: The number in these masks that is no class; None if all are.
        as_stored: Whether they hold 255 where their files do, even if every mask has two values.
    """

    classes: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    masked: npt.NDArray[np.int64]
    entry: Path | None
    ignore: int | None = None
    as_stored: bool = False


class ImageSet:
    """Images of one size, with their masks, labels and splits where the source has them.

    Attributes:
        entry: Where it lies in the cache.
        source: As the user gave it.
        pixels: How the images were asked for.
        image_size: S, in pixels.
        channels: 1 (grey) or 3 (RGB).
        names: Names of the images in their source.
        classes: Sorted class names; empty without labels.
        has_masks: Whether an image has a mask; `masked` says which.
        masks_read: Whether masks were read with their images; if not, `masks` knows those only that `annotated` read.
        skipped: How many bad images were left out, and bad masks.
        unknown: How many masks were left out that hold nothing but the number to be ignored.
        empty: How many were left out that show nothing, or say that text is burned in.
        annotations: The masks and labels that are known, where those of some images only are, see `annotated`; else
            None.
        functions: Through which images are passed when they are asked for; see `mapped`.
        content_key: Hex digest of pixels, masks, labels, splits and patients: the same for a copy.
    """

    def __init__(
        self,
        entry: Path,
        source: str,
        annotations: "Annotations | None" = None,
        functions: tuple[Callable[[Pixels8], Pixels8], ...] = (),
    ) -> None:
        meta = read_meta(entry)
        if meta is None:
            raise ImageError(f"{entry}: cached images are gone or damaged; load {source} again")
        self.entry, self.annotations, self.functions = entry, annotations, functions
        self.source = source
        self.pixels, self.image_size, self.channels = meta.pixels, meta.pixels.image_size, meta.channels
        self.classes, self.has_masks = meta.classes, meta.has_masks
        self.skipped, self.empty, self.unknown = meta.skipped, meta.empty, meta.unknown
        self.masks_read, self.content_key = meta.masks_read, meta.content
        self._binary_masks = meta.binary_masks
        self._rows: npt.NDArray[np.int64] | None = None
        self._images = _open(entry / "images.npy")
        self._masks = self._values = None
        if meta.has_masks and meta.masks_read:
            self._masks, self._values = _open(entry / "masks.npy"), _open(entry / "values.npy")
        self._masked = _open(entry / "masked.npy")
        self._labels = _open(entry / "labels.npy")
        self._splits = _open(entry / "splits.npy")
        self._patients = _open(entry / "patients.npy")
        self._positions = _open(entry / "positions.npy")
        self.names: Sequence[str] = Names(_open(entry / "names.npy"), _open(entry / "name_ends.npy"))
        if annotations is not None:
            self._annotate(annotations, meta.images_content)
        for function in functions:
            key = f"{self.content_key} {function.__module__}.{function.__qualname__}"
            self.content_key = hashlib.sha256(key.encode()).hexdigest()[:32]

    def mapped(self, function: Callable[[Pixels8], Pixels8]) -> Self:
        """Return the same set, its images passed through a function whenever they are asked for.

        Args:
            function: Of a module, so that other processes find it: `(B, C, S, S)` uint8 to the same shape and type.
        """
        return type(self)(self.entry, self.source, self.annotations, (*self.functions, function))

    def _annotate(self, annotations: "Annotations", images_content: str) -> None:
        """Know these masks and labels only."""
        self.classes, self._labels = annotations.classes, annotations.labels
        self._rows = rows = np.full(len(self), -1, np.int64)
        own = annotations.entry is None  # masks that the set has read itself
        rows[annotations.masked] = annotations.masked if own else np.arange(len(annotations.masked))
        self._masked, self.has_masks = rows >= 0, bool(len(annotations.masked))
        content = hashlib.sha256(json.dumps([images_content, self.classes]).encode())
        content.update(self._labels.tobytes() + annotations.masked.tobytes())
        if annotations.entry is None:
            for index in annotations.masked if self._masks is not None else ():
                content.update(self.masks(index).tobytes())
        else:
            meta = read_meta(annotations.entry)
            if meta is None:
                raise ImageError(f"{annotations.entry}: cached masks are gone or damaged; load {self.source} again")
            self._masks, self._binary_masks = _open(annotations.entry / "masks.npy"), meta.binary_masks
            self._values = _open(annotations.entry / "values.npy")
            self.skipped, self.unknown = self.skipped + meta.skipped, meta.unknown
            content.update(meta.content.encode())
        self.content_key = content.hexdigest()[:32]

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        """Pickle the path only: another process maps the same files."""
        return type(self), (self.entry, self.source, self.annotations, self.functions)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._images)

    def images(self, indices: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Copy images.

        Args:
            indices: (B,) integers; one integer counts as B = 1.

        Returns:
            (B, C, S, S) uint8, RGB order.

        Raises:
            IndexError: An index is outside the set.
        """
        images: Pixels8 = self._images[_as_indices(indices)]
        for function in self.functions:
            images = function(images)
        return images

    def masks(self, indices: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Copy masks: (B, S, S) uint8 class numbers; 0 and 1 if every mask has two values beside `ignore`.

        Of an image without a mask they are 0: see `masked`. Two values may be kept as stored, see `annotated`.

        Raises:
            ImageError: The set has no masks.
            IndexError: An index is outside the set.
        """
        if self._masks is None:
            raise self._without_masks
        chosen = _as_indices(indices)
        if self._rows is None:
            masks = self._masks[chosen]
        else:
            rows = self._rows[chosen]
            masks = np.zeros((len(rows), *self._masks.shape[1:]), np.uint8)
            masks[rows >= 0] = self._masks[rows[rows >= 0]]
        return self._class_numbers(masks)

    def _class_numbers(self, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
        as_stored = self.annotations is not None and self.annotations.as_stored
        binary = self._binary_masks and not as_stored
        return np.where(stored == self.ignore, stored, stored != 0) if binary else stored

    @property
    def _without_masks(self) -> ImageError:
        return ImageError(f"{self.source}: no masks; put them in masks/, each with the stem of its image")

    def masked(self, indices: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which images have a mask: (B,) bool.

        Raises:
            IndexError: An index is outside the set.
        """
        return self._masked[_as_indices(indices)]

    def mask_values(self, indices: npt.ArrayLike, resized: bool = False) -> tuple[int, ...]:
        """Class numbers that occur in the masks of these images at their own size, ascending.

        Args:
            indices: The images; one without a mask adds none.
            resized: Only those of which a pixel is left at the size of the set.

        Raises:
            ImageError: The set has no masks.
            IndexError: An index is outside the set.
        """
        if self._values is None:
            raise self._without_masks
        chosen = _as_indices(indices)
        rows = chosen if self._rows is None else self._rows[chosen[self.masked(chosen)]]
        return tuple(np.unique(self._class_numbers(from_bits(self._values[rows, int(resized)]))).tolist())

    @property
    def ignore(self) -> int | None:
        """The number in masks that is no class, of which nothing is to be learned; None if all are."""
        return None if self.annotations is None else self.annotations.ignore

    def labels(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Class numbers, indices into `classes`: (B,) int64, -1 where unknown.

        Raises:
            IndexError: An index is outside the set.
        """
        return self._labels[_as_indices(indices)].astype(np.int64)

    def patients(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Patients of images: (B,) int64, equal for images of one; an image of an unknown patient has its own number.

        Raises:
            IndexError: An index is outside the set.
        """
        return self._patients[_as_indices(indices)]

    def patient_digests(self, indices: npt.ArrayLike) -> npt.NDArray[np.uint64]:
        """Numbers by which patients of several sets are compared: (B,) uint64, 0 for an unknown one."""
        digests: npt.NDArray[np.uint64] = _open(self.entry / PATIENT_DIGESTS)[_as_indices(indices)]
        return digests

    def positions(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Where in the index of the source images are: (B,) int64, ascending as their indices.

        Raises:
            IndexError: An index is outside the set.
        """
        return self._positions[_as_indices(indices)]

    def splits(self, indices: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the split of each image as an index into `SPLITS`: (B,) int64.

        Raises:
            IndexError: An index is outside the set.
        """
        return self._splits[_as_indices(indices)].astype(np.int64)

    def split(self, name: str) -> npt.NDArray[np.int64]:
        """Return the indices of the images whose split is `name`, sorted.

        Raises:
            SettingsError: There is no split of that name.
        """
        if name not in SPLITS:
            raise SettingsError(f"split is {name!r}; choose one of: {', '.join(SPLITS)}")
        return np.flatnonzero(self._splits == SPLITS.index(name)).astype(np.int64)

    def standardisation(self, indices: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean and standard deviation of each channel over these images.

        Returns:
            Two arrays (C,) float32, in units of 0..255; a std is at least 1.

        Raises:
            ImageError: There are no indices.
            IndexError: An index is outside the set.
        """
        chosen = _as_indices(indices)
        if chosen.size == 0:
            raise ImageError(f"{self.source}: no image to standardise by; is its train split empty?")
        counts = np.zeros((self.channels, 256), np.int64)
        step = max(1, CHUNK_BYTES // (self.channels * self.image_size**2))
        for start in range(0, chosen.size, step):
            chunk = self.images(chosen[start : start + step])
            for channel in range(self.channels):
                counts[channel] += np.bincount(chunk[:, channel].ravel(), minlength=256)
        weights = counts / counts.sum(axis=1, keepdims=True)
        values = np.arange(256.0)
        mean = weights @ values
        std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
        return mean.astype(np.float32), np.maximum(std, 1.0).astype(np.float32)


def _open(path: Path) -> npt.NDArray[Any]:
    # A plain array over the map: np.memmap would pickle its whole content.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _as_indices(indices: npt.ArrayLike) -> npt.NDArray[np.intp]:
    array = np.atleast_1d(np.asarray(indices))
    return array if array.size else array.astype(np.intp)
