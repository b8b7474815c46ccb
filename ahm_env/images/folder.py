"""A folder: `images/`, optional `masks/` of the same stems, optional `labels.csv` (`image,label,split,patient`)."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.decoding import Picture, mask_problem, read_mask, read_picture
from ahm_env.images.files import (
    EXTENSIONS,
    ImageFiles,
    digest,
    files_in,
    image_of_mask,
    images_in,
    is_image,
    refuse_link,
)
from ahm_env.images.labels import Labels, has_table, table_digest
from ahm_env.images.pixels import Image8
from ahm_env.images.public.hints import import_hint, masks_elsewhere
from ahm_env.images.source import UNLABELLED, DatasetIndex, Entry, Sample


class Folder:
    """Images in the `images/` of a folder, or else directly in it; further sub-folders are not read."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self._path, self._images = path, images_in(path)
        self._masks = path / "masks"
        self.table = path / "labels.csv"

    def fingerprint(self) -> str:
        """Names, sizes and times of all files, and the content of `labels.csv`."""
        return f"{self.kind} {digest(self._images)} {digest(self._masks)} {table_digest(self.table)}"

    def index(self, masks: bool = True) -> DatasetIndex:
        """Pair images with masks and labels by their stems.

        Args:
            masks: Whether masks are read with their images.

        Raises:
            ImageError: There is no image, or `labels.csv` cannot be read.
        """
        images, drawn = ImageFiles(self._images), ImageFiles(self._masks)
        if len(images) == 0:
            if hint := import_hint(self._path):
                raise ImageError(f"{self._images}: no image directly in it, but {hint}")
            types = ", ".join(EXTENSIONS)
            cause = f"no image directly in it ({types}, .nii, .nii.gz), and no DICOM file in it or its sub-folders"
            raise ImageError(f"{self._images}: {cause}; put the images there, or give the folder they are in")
        labels = Labels(self.table, images) if has_table(self.table) else None
        if images.masks_beside():
            raise ImageError(f"{self._images}: {import_hint(self._path)}")
        problems = [f"{self._masks / name}: {_alone(name, images)}" for name in drawn.not_in(images)]
        problems += [f"{self._path}: {hint}"] if (hint := masks_elsewhere(self._path)) else []
        return DatasetIndex(
            count=len(images),
            samples=self._samples(images, drawn, labels, masks),
            classes=labels.classes if labels else (),
            has_masks=len(drawn) > 0,
            problems=problems + (labels.problems if labels else []),
            notes=self.notes() + (labels.notes if labels else []),
        )

    def _samples(self, images: ImageFiles, drawn: ImageFiles, labels: Labels | None, masks: bool) -> Iterator[Entry]:
        for stem, ending in images:
            load = partial(self._load, stem, ending, images.named(stem), drawn.named(stem), labels)
            yield partial(_loaded, load) if masks else load

    def _load(self, stem: str, ending: str, rivals: list[str], masks: list[str], labels: Labels | None) -> Sample:
        path = self._images / (stem + ending)
        if len(rivals) > 1:
            raise ImageError(f"{path}: stem is not unique ({', '.join(rivals)}); rename or delete all but one")
        refuse_link(path, self._path)
        picture = read_picture(path)
        image = picture.pixels
        label, split, patient = labels.find(stem, path) if labels else (UNLABELLED, 0, "")
        later = partial(self._mask, masks, path, picture) if masks else None
        return Sample(path.name, str(path), image, None, label, split, patient, "", picture.remarks, later)

    def _mask(self, masks: list[str], path: Path, picture: Picture) -> Image8:
        """Read the mask of an image; there must be just one, and it must fit the image."""
        if len(masks) > 1:
            raise ImageError(f"{path}: more than one mask in {self._masks} ({', '.join(masks)}); keep one")
        refuse_link(self._masks / masks[0], self._path)
        mask = read_mask(self._masks / masks[0])
        if wrong := mask_problem(mask, picture.pixels, turned=picture.turned):
            raise ImageError(f"{path}: {wrong}")
        return mask

    def notes(self) -> list[str]:
        """List what is there and not read, one line each."""
        told = list[str]()
        for folder in (self._images, self._masks):
            others = Counter(Path(entry.name).suffix for entry in files_in(folder) if not is_image(entry.name))
            if self.table.parent == folder:
                others -= Counter({".csv": 1})
            told += [f"{folder}: files of type {end or 'none'!r}, which are not read: {n}" for end, n in others.items()]
        return told


def _alone(name: str, images: ImageFiles) -> str:
    """Say what is wrong with a mask without an image."""
    stem, ending = os.path.splitext(name)
    if images.named(found := image_of_mask(stem)):
        return f"its name is not that of its image; rename it to {found}{ending}"
    return "mask without an image of that stem; add the image or delete the mask"


def _loaded(load: Callable[[], Sample]) -> Sample:
    return load().with_mask()
