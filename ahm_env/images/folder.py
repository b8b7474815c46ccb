"""A folder: `images/`, optional `masks/` of the same stems, optional `labels.csv` (`image,label,split`)."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.decoding import EXTENSIONS, read_image, read_mask
from ahm_env.images.labels import Labels
from ahm_env.images.source import UNLABELLED, Catalogue, Load, Sample

IGNORED = ("thumbs.db", "desktop.ini")

Stems = dict[str, list[str]]


class Folder:
    """Images in a folder, directly or in its `images/`; further sub-folders are not read."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.images = path / "images" if (path / "images").is_dir() else path
        self.masks = path / "masks"
        self.table = path / "labels.csv"

    def fingerprint(self) -> str:
        """Names, sizes and times of all files, and the whole of `labels.csv`."""
        # A sum of digests needs neither an order nor memory for a list, however many files there are.
        total = sum(_digest(entry) for entry in _files(self.images))
        masks = sum(_digest(entry) for entry in _files(self.masks))
        table = hashlib.sha256(self.table.read_bytes()).hexdigest() if self.table.is_file() else ""
        return f"folder {total:x} {masks:x} {table}"

    def catalogue(self) -> Catalogue:
        """Pairs images with masks and labels by their stems.

        Raises:
            ImageError: There is no image, or `labels.csv` cannot be read.
        """
        stems, masks = _by_stem(self.images), _by_stem(self.masks)
        names = [name for stem in sorted(stems) for name in stems[stem]]
        if not names:
            endings = ", ".join(EXTENSIONS)
            raise ImageError(
                f"{self.images}: no image there ({endings}; sub-folders are not read); is it the right folder?"
            )
        labels = Labels(self.table, names) if self.table.is_file() else None
        problems = [
            f"{self.masks / mask}: mask without an image of the same stem; add the image or delete the mask"
            for stem, files in masks.items()
            if stem not in stems
            for mask in files
        ]
        problems += labels.problems if labels else []
        return Catalogue(
            count=len(names),
            samples=self._samples(stems, masks, labels),
            classes=labels.classes if labels else (),
            has_masks=bool(masks),
            problems=problems,
            notes=self._notes(),
        )

    def _samples(self, stems: Stems, masks: Stems, labels: Labels | None) -> Iterator[Load]:
        for stem in sorted(stems):
            for name in stems[stem]:
                yield partial(self._load, name, stems[stem], masks.get(stem, []) if masks else None, labels)

    def _load(
        self, name: str, same_stem: list[str], masks: list[str] | None, labels: Labels | None
    ) -> Sample:
        path = self.images / name
        if len(same_stem) > 1:
            raise ImageError(
                f"{path}: stem is not unique ({', '.join(same_stem)}); rename or delete all but one"
            )
        label, split = labels.find(name, path) if labels else (UNLABELLED, 0)
        image = read_image(path)
        if masks is None:
            return Sample(name, str(path), image, None, label, split)
        if not masks:
            raise ImageError(
                f"{path}: no mask of the same stem in {self.masks}; add it, or take the image out"
            )
        if len(masks) > 1:
            raise ImageError(f"{path}: more than one mask ({', '.join(masks)}); keep one in {self.masks}")
        mask = read_mask(self.masks / masks[0])
        if mask.shape != image.shape[:2]:
            (mask_height, mask_width), (height, width) = mask.shape, image.shape[:2]
            sizes = f"mask is {mask_width}x{mask_height} but image is {width}x{height}"
            raise ImageError(f"{path}: {sizes}; re-export one of them")
        return Sample(name, str(path), image, mask, label, split)

    def _notes(self) -> list[str]:
        others = Counter(
            Path(entry.name).suffix for entry in _files(self.images) if not _is_image(entry.name)
        )
        if self.images / "labels.csv" == self.table:
            others.pop(".csv", None)
        return [
            f"{self.images}: {count} files of type {ending or 'none'!r} are not read"
            for ending, count in others.items()
        ]


def _digest(entry: os.DirEntry[str]) -> int:
    try:
        status = entry.stat()
    except OSError:  # a dangling link; it is listed as bad when it is decoded
        status = entry.stat(follow_symlinks=False)
    text = f"{status.st_size} {status.st_mtime_ns} {entry.name}"
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest())


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if (
                    not entry.name.startswith(".")
                    and entry.name.lower() not in IGNORED
                    and not entry.is_dir()
                ):
                    yield entry
    except FileNotFoundError:
        return
    except OSError as error:
        raise ImageError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error


def _by_stem(folder: Path) -> Stems:
    stems: Stems = {}
    for name in sorted(entry.name for entry in _files(folder) if _is_image(entry.name)):
        stems.setdefault(Path(name).stem, []).append(name)
    return stems


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)
