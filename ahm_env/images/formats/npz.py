"""An .npz file of MedMNIST or MedSegBench: `train_images`, `val_images`, `test_images`, and annotations.

MedMNIST stores class numbers, (N, 1), as `train_labels`; MedSegBench masks, (N, H, W), as `train_label`: they
are told apart by their dimensions.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.formats.files import readable
from ahm_env.images.formats.fingerprint import digest
from ahm_env.images.formats.limits import refuse_bomb
from ahm_env.images.formats.npy_stream import NpyStream, undamaged
from ahm_env.images.formats.pictures.picture import as_class_numbers
from ahm_env.images.source import SPLITS, UNLABELLED, DatasetIndex, Decoded, Entries, Entry, Pixels, class_order

ANNOTATIONS = ("labels", "label", "masks", "mask")


@dataclass(slots=True)
class Part:
    """The arrays of one split: images, and what annotates them."""

    split: int
    images: NpyStream
    masks: NpyStream | None = None
    labels: NpyStream | None = None


class Npz:
    """Images in an .npz file: (N, H, W) in grey, or (N, H, W, C) of 1, 3 or 4 channels, the fourth alpha."""

    kind = "npz"

    def __init__(self, path: Path) -> None:
        self._path = path

    def fingerprint(self) -> str:
        """Path, size and time of the file."""
        return f"{self.kind} {digest(self._path)}"

    def index(self, masks: bool = True) -> DatasetIndex:
        """Read the headers, and the class numbers.

        Args:
            masks: Whether masks are read with their images.

        Raises:
            ImageError: The file is damaged, or its arrays do not fit each other.
        """
        with undamaged(str(self._path)), readable(self._path), zipfile.ZipFile(self._path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
        notes: list[str] = []
        parts = [self._part(split, names, notes) for split in range(len(SPLITS)) if f"{SPLITS[split]}_images" in names]
        if sum(part.images.shape[0] for part in parts) == 0:
            found = ", ".join(sorted(names)[:6]) or "nothing"
            raise ImageError(f"{self._path}: no images in train_images, val_images, test_images; it has {found}")
        numbers = {number for part in parts if part.labels for number in _numbers(part.labels)} - {UNLABELLED}
        classes = class_order({str(number) for number in numbers})
        return DatasetIndex(
            count=sum(part.images.shape[0] for part in parts),
            samples=Entries(_entries, parts, {int(name): index for index, name in enumerate(classes)}, masks),
            classes=classes,
            has_masks=any(part.masks for part in parts),
            notes=notes,
        )

    def _part(self, split: int, names: set[str], notes: list[str]) -> Part:
        part = Part(split, NpyStream(self._path, f"{SPLITS[split]}_images"))
        images = part.images
        refuse_bomb(images.where, images.unpacked, images.packed)
        if len(images.shape) not in (3, 4) or images.shape[3:] not in ((), (1,), (3,), (4,)):
            raise ImageError(f"{images.where} has shape {images.shape}, not (N, H, W) or (N, H, W, 3): is it 3-D?")
        for name in (f"{SPLITS[split]}_{ending}" for ending in ANNOTATIONS):
            if name not in names:
                continue
            found = NpyStream(self._path, name)
            if found.shape[0] != images.shape[0]:
                raise ImageError(
                    f"{found.where} has {found.shape[0]} rows for {images.shape[0]} images; export it again"
                )
            if len(found.shape) >= 3:
                if found.shape[1:3] != images.shape[1:3] or found.shape[3:] not in ((), (1,)):
                    raise ImageError(
                        f"{found.where} has shape {found.shape} for images {images.shape}; export it again"
                    )
                part.masks = found
            elif found.shape[1:] not in ((), (1,)):
                notes.append(f"{found.where} has {found.shape[1]} labels an image; they are not read")
            elif found.dtype.kind == "f":
                raise ImageError(f"{found.where} holds {found.dtype}, not class numbers; save it as integers")
            else:
                part.labels = found
        return part


def _entries(parts: list[Part], classes: dict[int, int], with_masks: bool) -> Iterator[Entry]:
    for part in parts:
        count = part.images.shape[0]
        masks = part.masks.rows() if part.masks else repeat(None, count)
        labels = _numbers(part.labels) if part.labels else repeat(UNLABELLED, count)
        for index, (image, mask, number) in enumerate(zip(part.images.rows(), masks, labels, strict=True)):
            path = f"{part.images.where}[{index}]"
            yield Entry(
                name=f"{SPLITS[part.split]}_{index:06d}",
                path=path,
                decode=partial(_decode, image, mask, path),
                label=classes.get(number, UNLABELLED),
                split=part.split,
                masks=with_masks,
            )


def _decode(image: Pixels, mask: Pixels | None, path: str) -> Decoded:
    if image.ndim == 3:
        image = image[..., 0] if image.shape[2] == 1 else image[..., :3]
    return Decoded(image, None if mask is None else partial(as_class_numbers, mask.reshape(image.shape[:2]), path))


def _numbers(labels: NpyStream) -> Iterator[int]:
    """Class number of each row; -1 where it is negative, which means unknown."""
    for row in labels.rows():
        yield max(int(row.item()), UNLABELLED)
