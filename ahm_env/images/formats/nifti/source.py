"""NIfTI volumes (.nii, .nii.gz) of a folder, or one of them, slice by slice.

Files are often named after patients: pseudonyms stand for their names, unless these are asked for.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.formats.files import AMONG, Files, Hint, files_in, images_in, no_hint, readable, refuse_link
from ahm_env.images.formats.fingerprint import digest
from ahm_env.images.formats.labels import NO_IMAGE, Labels, Line, has_table, table_digest, table_lines
from ahm_env.images.formats.nifti.intensities import class_numbers, shown
from ahm_env.images.formats.nifti.names import MaskFiles, alone, is_nifti, nifti_stem, unread
from ahm_env.images.formats.nifti.pairs import Volume, read_headers
from ahm_env.images.formats.nifti.recent import LRUCache
from ahm_env.images.formats.nifti.slices import axis_of, shows_nothing, to_slice
from ahm_env.images.formats.nifti.volume import read_volume
from ahm_env.images.formats.pictures.picture import mask_problem, read_mask
from ahm_env.images.pixels.fit import AXES, Image8
from ahm_env.images.pixels.window import Window
from ahm_env.images.privacy import hint, pseudonym, unnamed
from ahm_env.images.source import DatasetIndex, DataWarning, Decoded, Entries, Entry, Pixels

KEPT = 2  # volumes: while slices of one are still wanted, the next is begun


class Nifti:
    """Volumes in the `images/` of a folder, or else directly in it, or one file; every slice along an axis is a sample.

    Beside them may be `masks/`: for a volume a label volume of the same stem, shape and place, or PNGs of slices,
    `STEM_0012.png`, drawn on the slice as `to_slice` shows it, numbered from 0 along the axis. `labels.csv` has a line
    a volume. A volume is a patient of its own where the table names none. A slice that shows nothing is
    left out, unless something is marked in its mask. A volume one voxel thick, such as a 2-D image, is shown from its
    flat side, whatever the axis.
    """

    kind = "nifti"
    stem_of = staticmethod(nifti_stem)

    def __init__(
        self,
        path: Path,
        window: Window | None = None,
        axis: str = "axial",
        named: bool = False,
        bare: bool = False,
        hint: Hint = no_hint,
    ) -> None:
        """Take the volumes' path, and how they are shown.

        Args:
            path: A folder, or a file.
            window: Range of intensities that is shown; None fits one to each volume.
            axis: One of `AXES`, along which volumes are cut.
            named: Call slices, in errors too, after their file; otherwise after its pseudonym.
            bare: What lies beside the volumes, masks and labels, is not looked at; masks among them are left out.
            hint: Says what to do about masks that lie elsewhere.

        Raises:
            SettingsError: There is no such axis.
        """
        if axis not in AXES:
            raise SettingsError(f"--axis {axis} is unknown; give one of: {', '.join(AXES)}")
        self._path, self._window, self._axis, self._named, self._bare = path, window, axis, named, bare
        self._hint = hint
        self._file = None if path.is_dir() else path
        folder = path if self._file is None else path.parent
        self._images = images_in(folder) if self._file is None else folder
        self._masks = folder / "masks"
        self.table = folder / "labels.csv"
        self._recent: LRUCache[tuple[Image8, Image8 | None]] = LRUCache(KEPT)

    def fingerprint(self) -> str:
        """Paths, sizes and times of all files, the content of `labels.csv`, and how volumes are shown."""
        if self._file is not None:
            with readable(self._file):
                self._file.stat()
        images = digest(self._file or self._images)
        return f"{self.kind} {self._axis} {self._window} {images} {digest(self._masks)} {table_digest(self.table)}"

    def index(self, masks: bool = True) -> DatasetIndex:
        """Read the headers, and pair volumes with masks and labels by their stems; a bad volume counts as one sample.

        Args:
            masks: Whether masks are read with their images; if not, a slice that shows nothing is left out whatever may
                be marked on it.

        Raises:
            ImageError: There is no volume, or `labels.csv` cannot be read.
            SettingsError: nibabel is not installed, or the salt of pseudonyms cannot be written.
        """
        files, notes = self._volume_files(), [] if self._file else unread(self._images, (self.table, self._masks))
        if among := files.masks():
            if not self._bare:
                raise ImageError(f"{self._images}: {self._hint(self._path, False) or AMONG}")
            files = files.without(among)
            notes.append(f"{self._images}: {AMONG}, which are left out: {len(among):,}")
        drawn = MaskFiles(() if self._bare else files_in(self._masks))
        labels = self._labels(files, notes)
        has_masks = any(drawn.named(nifti_stem(name)) for name in files) if self._file else drawn.count > 0
        volumes: list[Volume | Entry] = []
        for position, name in enumerate(files):
            path, known = self._images / name, labels.find(position) if labels else Line()
            try:
                with self._unnamed(path):
                    volumes.append(self._volume(path, files, drawn if has_masks else None, known, masks))
            except ImageError as error:
                trouble = self._told(str(error), path, *(self._masks / mask for mask in drawn.named(nifti_stem(name))))
                shown = name if self._named else self._pseudonym(path)
                volumes.append(Entry(shown, self._shown(path), _nothing, file=path, trouble=trouble))
        good = [volume for volume in volumes if isinstance(volume, Volume)]
        series = [volume for volume in good if volume.series > 1]
        problems, warnings = list[str](), [self._about_series(series)] if series else []
        if self._file is None and not self._bare:
            strays = drawn.without_volume(files, {volume.stem: volume.slices for volume in good})
            problems = [
                self._told(f"{path}: {alone(path.name, files)}", path)
                for path in (self._masks / name for name in strays)
            ]
            problems += [f"{self._path}: {hint}"] if (hint := self._hint(self._path, True)) else []
            problems += labels.problems if labels else []
            warnings += labels.warnings if labels else []
            notes += labels.notes if labels else []
        return DatasetIndex(
            count=sum(volume.slices if isinstance(volume, Volume) else 1 for volume in volumes),
            samples=Entries(self._entries, volumes, masks),
            classes=labels.classes if labels else (),
            has_masks=has_masks,
            problems=problems,
            warnings=warnings,
            notes=notes,
        )

    def _volume_files(self) -> Files:
        if self._file is not None:
            if not is_nifti(self._file.name):
                raise ImageError(f"{self._file}: no NIfTI file by its name; give one that ends in .nii or .nii.gz")
            return Files([self._file.name], nifti_stem)
        files = Files((entry.name for entry in files_in(self._images) if is_nifti(entry.name)), nifti_stem)
        if len(files) == 0:
            cause = "no NIfTI volume directly in it (.nii, .nii.gz)"
            raise ImageError(f"{self._images}: {cause}; put the volumes there, or give the folder they are in")
        return files

    def _labels(self, files: Files, notes: list[str]) -> Labels | None:
        if self._bare or not has_table(self.table):
            return None
        if self._file is not None:
            # Beside a single file, the table may be about other files, or be no table of images at all.
            try:
                lines = [line for _, line in table_lines(self.table, ("image",), NO_IMAGE)]
            except ImageError as error:
                notes.append(f"{error}: not used")
                return None
            count = sum(files.position(line["image"]) is not None for line in lines)
            if count > 1:
                raise ImageError(f"{self.table}: names {self._file.name} {count} times; keep one line")
            if count == 0:
                return None
        return Labels(self.table, files, quoted=self._named)

    def _volume(self, path: Path, files: Files, masks: MaskFiles | None, known: Line, read_masks: bool) -> Volume:
        stem = nifti_stem(path.name)
        if len(files.with_stem(stem)) > 1:
            raise ImageError(f"{path}: there is another file of its stem; rename or delete all but one")
        found = masks.named(stem) if masks else []
        if len(found) > 1:
            raise ImageError(f"{path}: more than one mask in {self._masks}; keep one volume, or the PNGs")
        drawn = masks.drawn.get(stem) if masks else None
        mask = self._masks / found[0] if found and drawn is None else None
        for file in filter(None, (None if self._file else path, mask)):
            refuse_link(file, self._path)
        header, _ = read_headers(path, mask if read_masks else None)
        if known.trouble:
            raise ImageError(f"{path}: {known.trouble}")
        axis = axis_of(header.ras_shape, self._axis)
        return Volume(path, stem, axis, header.ras_shape[AXES.index(axis)], header.volumes, mask, drawn, known)

    def _entries(self, volumes: list[Volume | Entry], masks: bool) -> Iterator[Entry]:
        for volume in volumes:
            if isinstance(volume, Entry):
                yield volume
                continue
            name, path, known = self._name(volume.path), self._shown(volume.path), volume.known
            for index in range(volume.slices):
                yield Entry(
                    name=f"{name}_{index:04d}",
                    path=f"{path}[{volume.axis} slice {index}]",
                    decode=partial(self._decode, volume, index, masks),
                    label=known.label,
                    split=known.split,
                    patient=known.patient or pseudonym(f"NIfTI {volume.stem}"),
                    line=volume.path.name,
                    file=volume.path,
                    masks=masks,
                )

    def _decode(self, volume: Volume, index: int, masks: bool) -> Decoded:
        """Decode a slice."""
        with self._explained(volume, index):
            whole, labels = self._whole(volume, masks)
            image = np.ascontiguousarray(to_slice(whole, volume.axis, index))
        has_mask = volume.mask is not None or self._drawn(volume, index) is not None
        later = partial(self._mask, volume, index, image, labels) if has_mask else None
        return Decoded(image, later, blank=shows_nothing(image))

    @contextmanager
    def _explained(self, volume: Volume, index: int) -> Iterator[None]:
        """Errors of a slice as they may be read by others."""
        try:
            with self._unnamed(volume.path):
                yield
        except ImageError as error:
            masks = [path for path in (volume.mask, self._drawn(volume, index)) if path is not None]
            raise ImageError(self._told(str(error), volume.path, *masks)) from None

    def _drawn(self, volume: Volume, index: int) -> Path | None:
        """File of the mask that is drawn on a slice."""
        return self._masks / volume.drawn[index] if volume.drawn and index in volume.drawn else None

    def _mask(self, volume: Volume, index: int, image: Pixels, labels: Image8 | None) -> Image8:
        """Read the mask of a slice that has one, if it is not among the labels that were read with the image."""
        with self._explained(volume, index):
            drawn = self._drawn(volume, index)
            if drawn is None:
                labels = self._whole(volume, masks=True)[1] if labels is None else labels
                assert labels is not None
                return np.ascontiguousarray(to_slice(labels, volume.axis, index))
            refuse_link(drawn, self._masks.parent)
            mask = read_mask(drawn)
            if wrong := mask_problem(mask, image, "slice"):
                raise ImageError(f"{volume.path}[{volume.axis} slice {index}]: {wrong}")
            return mask

    def _whole(self, volume: Volume, masks: bool) -> tuple[Image8, Image8 | None]:
        """Return a volume, decoded once for all slices, with its label volume if `masks` asks for it."""
        mask = volume.mask if masks else None
        return self._recent.get((volume.path, mask), partial(self._decode_whole, volume, mask))

    def _decode_whole(self, volume: Volume, mask: Path | None) -> tuple[Image8, Image8 | None]:
        """Decode a volume, and its label volume if it has one."""
        header, labels = read_headers(volume.path, mask)
        if header.ras_shape[AXES.index(volume.axis)] != volume.slices:
            raise ImageError(f"{volume.path}: has changed while it was read; start again")
        image = shown(header, read_volume(header), self._window)
        return image, class_numbers(labels, read_volume(labels)) if labels else None

    def names(self) -> Iterator[tuple[str, Path]]:
        """Pseudonym and path of each file that may be named."""
        for path in [
            *(self._images / name for name in self._volume_files()),
            *(self._masks / entry.name for entry in files_in(self._masks)),
        ]:
            yield self._pseudonym(path), path

    def _name(self, path: Path) -> str:
        return nifti_stem(path.name) if self._named else self._pseudonym(path)

    def _pseudonym(self, path: Path) -> str:
        return pseudonym(f"NIfTI {'masks/' if path.parent == self._masks else ''}{path.name}")

    def _shown(self, path: Path) -> str:
        return str(path) if self._named else f"{self._path}: NIfTI file {self._pseudonym(path)}"

    @contextmanager
    def _unnamed(self, path: Path) -> Iterator[None]:
        """Take the name of a file out of errors of the disk, if it must not be shown."""
        with nullcontext() if self._named else unnamed(self._shown(path)):
            yield

    def _told(self, problem: str, *paths: Path) -> str:
        """Reword a problem so that others may read it; it begins with one of these paths, or is about the first."""
        named = [path for path in paths if problem.startswith(str(path))]
        path = max(named, key=lambda path: len(path.name), default=paths[0])
        text = f"{self._shown(path)}{problem.removeprefix(str(path)) if named else f': {problem}'}"
        return text if self._named else f"{text} ({hint(self._path, self._pseudonym(path))})"

    def _about_series(self, series: list[Volume]) -> DataWarning:
        more = f" (and {len(series) - 1:,} more such files)" if len(series) > 1 else ""
        cause = f"the first of its {series[0].series:,} volumes is read{more}"
        text = f"{self._shown(series[0].path)}: {cause}; save the others as files of their own if they matter"
        return DataWarning("pages", text, len(series))


def _nothing() -> None:
    """Stands for what a bad volume holds."""
