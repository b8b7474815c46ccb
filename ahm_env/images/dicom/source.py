"""A folder of DICOM files, searched with its sub-folders; optional `masks/` and `labels.csv`, as for other images.

Names of patients, files and folders tell who somebody is: none is shown or written, only pseudonyms, from which `ahm
data find` leads back to the file.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.decoding import mask_problem
from ahm_env.images.dicom.index import DicomFiles, FrameRef, stem_of
from ahm_env.images.dicom.masks import Segmented, check_masks, find_segmented, mask_files, read_mask_of
from ahm_env.images.dicom.recognition import ENDINGS, NOT_DICOM, begins
from ahm_env.images.dicom.tree import digest_tree, walk
from ahm_env.images.files import PackedNames, images_in, unnamed
from ahm_env.images.labels import Labels, has_table, table_digest
from ahm_env.images.patients import hint, pseudonym
from ahm_env.images.pixels import Image8
from ahm_env.images.source import UNLABELLED, DatasetIndex, Entry, Pixels, Sample
from ahm_env.images.telling import digests
from ahm_env.images.window import Window

if TYPE_CHECKING:
    from ahm_env.images.dicom.header import Header


class Dicom:
    """Images in the `images/` of a folder, or else in the folder itself, at any depth; or a single file.

    Attributes:
        table: Where its `labels.csv` is, if it has one.
    """

    kind = "dicom"

    def __init__(self, path: Path, window: Window | None = None, burned_in: bool = False) -> None:
        """Take a folder or a file.

        Args:
            path: Where it is.
            window: Shown range of grey images, instead of the one that each file gives.
            burned_in: Take images that say that text is burned into their pixels: it may be a patient's name.
        """
        self._path, self._window, self._burned_in = path, window, burned_in
        self._images = images_in(path)
        self._masks = path / "masks"
        self.table = path / "labels.csv"

    def fingerprint(self) -> str:
        """Names, sizes and times of all files, the content of `labels.csv`, and the settings."""
        digests = " ".join(digest_tree(top, self._path) for top in self._tops())
        return f"{self.kind} {digests} {table_digest(self.table)} {self._window} {self._burned_in}"

    def index(self, masks: bool = True) -> DatasetIndex:
        """Read the headers of all files, and the table.

        Args:
            masks: Whether masks are read with their images; if not, a SEG is read only to learn which images it is
                about. If that fails it is a problem all the same: it is unknown which image lacks its mask.

        Raises:
            ImageError: There is no DICOM image, or `labels.csv` cannot be read.
            SettingsError: pydicom is missing.
        """
        _need_pydicom()
        problems, notes = list[str](), list[str]()
        has_masks = self._images != self._path and self._masks.is_dir()
        segmented = find_segmented(self._masks, self._path) if has_masks else Segmented()
        files, identities, marked = self._scan(problems, notes, segmented.images)
        labels = Labels(self.table, files, quoted=False) if has_table(self.table) else None
        if has_masks:
            shown = partial(self._shown, files)
            wrong = check_masks(self._masks, self._path, files, shown, set(marked.values()), segmented)
            problems += [self._problem(self._masks, relative, cause) for relative, cause in sorted(wrong.items())]
            others = f"{self._masks}: files that are neither PNG nor NIfTI nor DICOM SEG, and are not read"
            notes += [f"{others}: {segmented.others:,}"] * bool(segmented.others)
        return DatasetIndex(
            count=int(files.frames.sum()),
            samples=self._samples(files, labels, has_masks, marked, masks),
            classes=labels.classes if labels else (),
            has_masks=has_masks,
            problems=problems + (labels.problems if labels else []),
            warnings=labels.warnings if labels else [],
            notes=notes,
            slow=True,
            identities=identities,
        )

    def names(self) -> Iterator[tuple[str, Path]]:
        """Pseudonym and path of each file that can be told of."""
        for top in self._tops():
            for found in walk(top, self._path):
                yield self._name(top, found.relative), Path(found.path)

    def _shown(self, files: DicomFiles) -> set[str]:
        return {name for name, _, _ in self.frames(files)}

    def _tops(self) -> tuple[Path, ...]:
        """List the folders that are searched: that of images, and that of masks if it is another."""
        return (self._images,) if self._images == self._path else (self._images, self._masks)

    def _name(self, top: Path, relative: str) -> str:
        return pseudonym(f"path {'' if top == self._images else 'masks/'}{relative}")

    def _problem(self, top: Path, relative: str, cause: str) -> str:
        name = self._name(top, relative)
        what = "DICOM file" if top == self._images else "mask"
        return f"{self._path}: {what} {name}: {cause} ({hint(self._path, name)})"

    def _scan(
        self, problems: list[str], notes: list[str], segmented: Mapping[str, str]
    ) -> tuple[DicomFiles, frozenset[int], dict[str, str]]:
        """Find the images, and note what else there is.

        Args:
            problems: A list to add problems to.
            notes: A list to add notes to.
            segmented: SOP Instance UIDs of images, and the SEG that is about each.

        Returns:
            The images; digests of what tells whose they are; the SEG of each file that has one.
        """
        from ahm_env.images.dicom.header import read_header
        from ahm_env.images.dicom.opening import quiet

        quiet()
        known = set[str]()
        names, frames, marked = PackedNames(), array("q"), dict[str, str]()
        kinds, strangers, burned_in = Counter[str](), 0, 0
        for found in walk(self._images, self._path):
            path, count = Path(found.path), 1
            if path == self.table:
                continue
            if found.trouble:
                problems.append(self._problem(self._images, found.relative, found.trouble))
                continue
            try:
                with unnamed(str(self._path)):
                    if begins(path):
                        header = read_header(path)
                    elif found.relative.lower().endswith(ENDINGS):
                        raise ImageError(NOT_DICOM)
                    else:
                        strangers += 1
                        continue
                known |= header.identity
                if header.uid in segmented:
                    marked[found.relative] = segmented[header.uid]
                count = header.frames
                kinds.update([] if count else [header.kind])
                burned_in += count * header.burned_in
            except ImageError:
                # A bad sample: it says what is wrong when it is loaded.
                pass
            if count:
                names.append(found.relative)
                frames.append(count)
        told = "they are taken in" if self._burned_in else "they are left out; --burned-in takes them in"
        notes += [f"{self._path}: DICOM files without an image: {n:,}, {kind}" for kind, n in sorted(kinds.items())]
        notes += [f"{self._path}: files that are not DICOM, and are not read: {strangers:,}"] * bool(strangers)
        notes += [f"{self._path}: images that say that text is burned in: {burned_in:,}; {told}"] * bool(burned_in)
        files = DicomFiles(names, frames)
        if len(files) == 0:
            others = "; ".join(note.removeprefix(f"{self._path}: ") for note in notes) or "it is empty"
            raise ImageError(f"{self._path}: no DICOM image in it ({others}); give the folder they are in")
        return files, digests(known), marked

    def _samples(
        self, files: DicomFiles, labels: Labels | None, has_masks: bool, marked: Mapping[str, str], masks: bool
    ) -> Iterator[Entry]:
        for relative, frames in files:
            known, trouble = (UNLABELLED, 0, ""), ""
            try:
                known = labels.find(relative, "") if labels else known
            except ImageError as error:
                trouble = str(error).removeprefix(": ")
            namesake = has_masks and len(files.with_stem(stem_of(relative))) > 1
            about = has_masks, namesake, marked.get(relative, ""), *known, trouble
            for index in range(frames):
                yield partial(self._load, FrameRef(relative, index, frames, *about), masks)

    def _load(self, place: FrameRef, masks: bool = True) -> Sample | None:
        name = self._name(self._images, place.relative) + place.number
        where = f"{self._path}: DICOM file {name}"
        with self._explained(where, name):
            sample = self._read(place, name, where)
            return sample.with_mask() if sample is not None and masks else sample

    @contextmanager
    def _explained(self, where: str, name: str) -> Iterator[None]:
        """Errors of an image with its name, and how to find its file."""
        try:
            with unnamed(where):
                yield
        except ImageError as error:
            raise ImageError(f"{where}: {error} ({hint(self._path, name)})") from None

    def _read(self, place: FrameRef, name: str, where: str) -> Sample | None:
        from ahm_env.images.dicom.header import read_header
        from ahm_env.images.dicom.pixels import read_frame

        path = self._images / place.relative if self._images.is_dir() else self._images
        if not path.stat().st_size:
            raise ImageError("the file is empty (0 bytes); copy it again")
        if not begins(path):
            raise ImageError(NOT_DICOM)
        header = read_header(path)
        if header.burned_in and not self._burned_in:
            return None
        image = read_frame(path, place.index, self._window)
        if place.trouble:
            raise ImageError(place.trouble)
        found = mask_files(self._masks, place, name) if place.has_mask else []
        later = partial(self._mask, found, place, name, where, header, image) if found else None
        patient = place.patient or (pseudonym(f"DICOM {header.patient}") if header.patient else "")
        return Sample(name, where, image, None, place.label, place.split, patient, place.relative, later=later)

    def _mask(
        self, found: list[Path], place: FrameRef, name: str, where: str, header: "Header", image: Pixels
    ) -> Image8:
        with self._explained(where, name):
            mask = read_mask_of(found, self._masks, self._path, place, header, image)
            if wrong := mask_problem(mask, image):
                raise ImageError(wrong)
            return mask

    def files(self) -> tuple[DicomFiles, list[str], list[str]]:
        """Return the files with images, and the problems and notes of an index, all without masks and labels.

        Raises:
            ImageError: There is no DICOM image.
            SettingsError: pydicom is missing.
        """
        _need_pydicom()
        problems, notes = list[str](), list[str]()
        files, _, _ = self._scan(problems, notes, {})
        return files, problems, notes

    def frames(self, files: DicomFiles) -> Iterator[tuple[str, Path, Entry]]:
        """Of each image its name, known without decoding, its file, and the call that loads it without mask and label.

        The images of a file come one after another.
        """
        for relative, frames in files:
            path = self._images / relative if self._images.is_dir() else self._images
            for index in range(frames):
                place = FrameRef(relative, index, frames, False)
                yield self._name(self._images, relative) + place.number, path, partial(self._load, place)


def _need_pydicom() -> None:
    """Raise an error if pydicom is missing.

    Raises:
        SettingsError: It is missing.
    """
    if find_spec("pydicom") is None:
        raise SettingsError("reading DICOM needs pydicom: pip install 'ahm-env[medical]'")
