"""A folder: `images/`, optional `masks/` of the same stems, optional `labels.csv` (`image,label,split`)."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.decoding import EXTENSIONS, read_image, read_mask
from ahm_env.images.labels import Labels, read_labels
from ahm_env.images.source import Catalogue, Load, Sample

IGNORED = {"thumbs.db", "desktop.ini"}


class Folder:
    """Images in a folder; sub-folders other than `images` and `masks` are not read."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.images = path / "images" if (path / "images").is_dir() else path
        self.masks = path / "masks"
        self.labels = path / "labels.csv"

    def fingerprint(self) -> str:
        """Names, sizes and times of all files; a sum of digests, which needs neither order nor memory."""
        total = 0
        for folder in (self.images, self.masks):
            for entry in _files(folder):
                status = entry.stat()
                line = f"{folder.name == 'masks'}|{entry.name}|{status.st_size}|{status.st_mtime_ns}"
                digest = hashlib.blake2b(line.encode("utf-8", "surrogateescape"), digest_size=16).digest()
                total += int.from_bytes(digest)
        table = self.labels.read_bytes() if self.labels.is_file() else b""
        return f"folder {total % 2**128:032x} {hashlib.sha256(table).hexdigest()}"

    def catalogue(self) -> Catalogue:
        """Pairs images with masks and labels by stem."""
        problems: list[str] = []
        names = sorted(entry.name for entry in _files(self.images) if _is_image(entry.name))
        if not names:
            raise ImageError(
                f"{self.images}: no image found ({', '.join(EXTENSIONS)}; sub-folders are not read); "
                "put the images there"
            )
        stems = _by_stem(names)
        masks = _by_stem(sorted(entry.name for entry in _files(self.masks) if _is_image(entry.name)))
        labels = read_labels(self.labels, names) if self.labels.is_file() else None
        problems += [
            f"{self.masks / masks[stem][0]}: no image of that name; delete it or add the image"
            for stem in masks
            if stem not in stems
        ]
        if labels:
            problems += labels.problems
        others = Counter(Path(e.name).suffix.lower() for e in _files(self.images) if not _is_image(e.name))
        others.pop(".csv", None)
        notes = [
            f"{self.images}: {n} files {suffix or 'without extension'} are not read"
            for suffix, n in others.items()
        ]
        return Catalogue(
            len(names),
            self._samples(names, stems, masks, labels),
            labels.classes if labels else (),
            bool(masks),
            problems,
            notes,
        )

    def _samples(
        self,
        names: list[str],
        stems: dict[str, list[str]],
        masks: dict[str, list[str]],
        labels: Labels | None,
    ) -> Iterator[Load]:
        for name in names:
            stem = Path(name).stem
            yield partial(self._load, name, stems[stem], masks.get(stem, []) if masks else None, labels)

    def _load(
        self, name: str, same_stem: list[str], masks: list[str] | None, labels: Labels | None
    ) -> Sample:
        path = self.images / name
        if len(same_stem) > 1:
            other = next(n for n in same_stem if n != name)
            raise ImageError(
                f"{path}: {other} has the same stem, so its mask and label are ambiguous; rename one"
            )
        label, split = labels.find(path) if labels else (-1, 0)
        image = read_image(path)
        if masks is None:
            return Sample(name, image, None, label, split)
        if len(masks) != 1:
            what = (
                f"has {len(masks)} masks ({', '.join(masks)}); keep one"
                if masks
                else (f"has no mask in {self.masks}; add it, or take the image out")
            )
            raise ImageError(f"{path}: {what}")
        mask = read_mask(self.masks / masks[0])
        if mask.shape != image.shape[:2]:
            (mask_height, mask_width), (height, width) = mask.shape, image.shape[:2]
            raise ImageError(
                f"{path}: mask is {mask_width}x{mask_height} but image is {width}x{height}; re-export one of them"
            )
        return Sample(name, image, mask, label, split)


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in IGNORED and entry.is_file():
                yield entry


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _by_stem(names: list[str]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(Path(name).stem, []).append(name)
    return stems
