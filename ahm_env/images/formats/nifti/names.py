"""The NIfTI files of a folder and the masks that belong to them, found by name."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from ahm_env.images.formats.files import Files, files_in, folders_in, images_of_mask, is_image

EXTENSIONS = (".nii.gz", ".nii")
DRAWN = re.compile(r"(.+)_([0-9]{4}|[1-9][0-9]{4,})\.png")


def is_nifti(name: str) -> bool:
    """Whether a file name is that of a NIfTI file."""
    return name.lower().endswith(EXTENSIONS)


def nifti_stem(name: str) -> str:
    """Strip .nii or .nii.gz off a file name."""
    ending = next((ending for ending in EXTENSIONS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def unread(folder: Path, known: Collection[Path]) -> list[str]:
    """List what is in a folder and is not read, a line each; without names, which may tell who a patient is.

    Args:
        folder: That of the volumes.
        known: Files and folders of it that are read for something else.
    """
    others = sum(not is_nifti(entry.name) and Path(entry.path) not in known for entry in files_in(folder))
    inner = sum(folder / name not in known for name in folders_in(folder))
    counts = {"files that are not NIfTI, and are not read": others, "folders in it, whose files are not read": inner}
    return [f"{folder}: {what}: {count:,}" for what, count in counts.items() if count]


class MaskFiles:
    """The masks of volumes: label volumes, and PNGs of slices.

    Attributes:
        count: Number of files.
        drawn: Names of PNGs by stem of the volume and number of the slice.
    """

    def __init__(self, entries: Iterable[os.DirEntry[str]]) -> None:
        """Take what a folder of masks has in it."""
        names = [entry.name for entry in entries if is_nifti(entry.name) or is_image(entry.name)]
        self.count = len(names)
        self._volumes = Files(filter(is_nifti, names), nifti_stem)
        self._strangers: list[str] = []
        self.drawn: dict[str, dict[int, str]] = defaultdict(dict)
        for name in names:
            if found := DRAWN.fullmatch(name):
                self.drawn[found[1]][int(found[2])] = name
            elif not is_nifti(name):
                self._strangers.append(name)

    def named(self, stem: str) -> list[str]:
        """List the masks of a volume: names of label volumes, and one name that stands for all PNGs."""
        return self._volumes.named(stem) + [f"{stem}_0000.png"][: stem in self.drawn]

    def without_volume(self, files: Files, slices: Mapping[str, int]) -> list[str]:
        """Sorted names of masks that belong to nothing.

        Args:
            files: The volumes.
            slices: Number of slices of each that can be read, by stem.
        """
        alone = self._volumes.not_in(files)
        for stem, drawn in self.drawn.items():
            most = slices.get(stem, max(drawn) + 1) if files.named(stem) else 0
            alone += [name for index, name in drawn.items() if index >= most]
        return sorted(alone + self._strangers)


def alone(name: str, files: Files) -> str:
    """Say what is wrong with a mask that belongs to no volume."""
    stem = nifti_stem(name)
    volume = next(filter(files.named, images_of_mask(stem)), "")
    if is_nifti(name) and volume:
        return f"its name is not that of its volume; take {stem[len(volume) :]} out of it"
    return "mask without a volume of that stem, or without a slice of that number; rename or delete it"
