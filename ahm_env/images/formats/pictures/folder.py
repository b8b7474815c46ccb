"""A folder: `images/`, optional `masks/` of the same stems, optional `labels.csv` (`image,label,split,patient`)."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from ahm_env.errors import ImageError
from ahm_env.images.formats.files import (
    AMONG,
    EXTENSIONS,
    Files,
    Hint,
    files_in,
    folders_in,
    images_in,
    images_of_mask,
    is_image,
    no_hint,
    refuse_link,
    stem_of,
)
from ahm_env.images.formats.fingerprint import digest
from ahm_env.images.formats.labels import Labels, Line, folded, has_table, table_digest
from ahm_env.images.formats.pictures.picture import Picture, mask_problem, read_mask, read_picture
from ahm_env.images.pixels.fit import Image8
from ahm_env.images.source import DatasetIndex, Decoded, Entries, Entry


class Folder:
    """Images in the `images/` of a folder, or else directly in it; further sub-folders are not read."""

    kind = "folder"
    stem_of = staticmethod(stem_of)

    def __init__(self, path: Path, bare: bool = False, hint: Hint = no_hint) -> None:
        """Take a folder, or a file.

        Args:
            path: The folder or file.
            bare: What lies beside images, masks and labels, is not looked at; masks among them are left out.
            hint: Says what to do about masks that lie elsewhere.
        """
        self._hint = hint
        self._path, self._images, self._bare = path, images_in(path) if path.is_dir() else path.parent, bare
        self._masks = path / "masks"
        self.table = path / "labels.csv"

    def fingerprint(self) -> str:
        """Paths, sizes and times of all files, and the content of `labels.csv`."""
        return f"{self.kind} {digest(self._images)} {digest(self._masks)} {table_digest(self.table)}"

    def index(self, masks: bool = True) -> DatasetIndex:
        """Pair images with masks and labels by their stems.

        Args:
            masks: Whether masks are read with their images.

        Raises:
            ImageError: There is no image, or `labels.csv` cannot be read.
        """
        images = _pictures(self._images) if self._path.is_dir() else Files([self._path.name])
        drawn = Files([]) if self._bare else _pictures(self._masks)
        if len(images) == 0:
            if not self._bare and (hint := self._hint(self._path, False)):
                raise ImageError(f"{self._images}: no image directly in it, but {hint}")
            types = ", ".join(EXTENSIONS)
            cause = f"no image directly in it ({types}, .nii, .nii.gz), and no DICOM file in it or its sub-folders"
            raise ImageError(f"{self._images}: {cause}; put the images there, or give the folder they are in")
        labels = Labels(self.table, images) if not self._bare and has_table(self.table) else None
        notes = self._notes()
        if among := images.masks():
            if not self._bare:
                raise ImageError(f"{self._images}: {self._hint(self._path, False) or AMONG}")
            images = images.without(among)
            notes.append(f"{self._images}: {AMONG}, which are left out: {len(among):,}")
        alone = drawn.not_in(images)
        alike = _alike(alone, images)
        problems = [f"{self._masks / name}: {_alone(name, images, alike)}" for name in alone]
        if not self._bare and (hint := self._hint(self._path, True)):
            problems.append(f"{self._path}: {hint}")
        return DatasetIndex(
            count=len(images),
            samples=Entries(self._entries, images, drawn, labels, masks),
            classes=labels.classes if labels else (),
            has_masks=len(drawn) > 0,
            problems=problems + (labels.problems if labels else []),
            warnings=labels.warnings if labels else [],
            notes=notes + (labels.notes if labels else []),
        )

    def _entries(self, images: Files, drawn: Files, labels: Labels | None, masks: bool) -> Iterator[Entry]:
        for position, name in enumerate(images):
            path, stem = self._images / name, stem_of(name)
            label, split, patient, trouble = labels.find(position) if labels else Line()
            if len(rivals := images.named(stem)) > 1:
                trouble = f"stem is not unique ({', '.join(rivals)}); rename or delete all but one"
            yield Entry(
                name=name,
                path=str(path),
                decode=partial(self._decode, path, drawn.named(stem)),
                label=label,
                split=split,
                patient=patient,
                file=path,
                trouble=f"{path}: {trouble}" if trouble else "",
                masks=masks,
            )

    def _decode(self, path: Path, masks: list[str]) -> Decoded:
        refuse_link(path, self._path)
        picture = read_picture(path)
        return Decoded(picture.pixels, partial(self._mask, masks, path, picture) if masks else None, picture.remarks)

    def _mask(self, masks: list[str], path: Path, picture: Picture) -> Image8:
        """Read the mask of an image; there must be just one, and it must fit the image."""
        if len(masks) > 1:
            raise ImageError(f"{path}: more than one mask in {self._masks} ({', '.join(masks)}); keep one")
        refuse_link(self._masks / masks[0], self._path)
        mask = read_mask(self._masks / masks[0])
        if wrong := mask_problem(mask, picture.pixels, turned=picture.turned):
            raise ImageError(f"{path}: {wrong}")
        return mask

    def _notes(self) -> list[str]:
        """List what is there and not read, one line each."""
        notes = list[str]()
        for folder in (self._images, self._masks) if self._path.is_dir() else ():
            others = Counter(Path(entry.name).suffix for entry in files_in(folder) if not is_image(entry.name))
            if self.table.parent == folder:
                others -= Counter({".csv": 1})
            notes += [
                f"{folder}: files of type {end or 'none'!r}, which are not read: {n}" for end, n in others.items()
            ]
            inner = sum(folder / name != self._masks for name in folders_in(folder))
            notes += [f"{folder}: folders in it, whose files are not read: {inner:,}"] * bool(inner)
        return notes


def _pictures(folder: Path) -> Files:
    return Files(entry.name for entry in files_in(folder) if is_image(entry.name))


def _alike(masks: Iterable[str], images: Files) -> dict[str, str]:
    """Stems of images whose names are those of masks but for their spelling, by what they share."""
    wanted = {folded(stem_of(name)) for name in masks}
    stems = map(stem_of, images) if wanted else ()
    return {form: stem for stem in stems if (form := folded(stem)) in wanted}


def _alone(name: str, images: Files, alike: Mapping[str, str]) -> str:
    """Say what is wrong with a mask without an image."""
    stem = stem_of(name)
    if found := alike.get(folded(stem)):
        cause = "its name differs from that of its image in case, or in how letters or numbers are written"
        return f"{cause}; rename it to {found}{name[len(stem) :]}"
    if found := next(filter(images.with_stem, images_of_mask(stem)), ""):
        return f"its name is not that of its image; rename it to {found}{name[len(stem) :]}"
    return "mask without an image of that stem; add the image or delete the mask"
