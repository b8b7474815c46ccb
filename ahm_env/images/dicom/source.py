"""A folder of DICOM files, searched with its sub-folders; optional `masks/` and `labels.csv`, as for other images.

Names of patients, files and folders tell who somebody is: none is shown or written, only pseudonyms, from which `ahm
data find` leads back to the file.
"""

import re
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.decoding import mismatch, read_mask
from ahm_env.images.dicom.index import DicomFiles, stem_of
from ahm_env.images.dicom.label_volumes import Plane, cut
from ahm_env.images.dicom.tree import digest_tree, walk
from ahm_env.images.files import ASTRAY, PackedNames, images_in, inside
from ahm_env.images.labels import Labels, table_digest
from ahm_env.images.nifti.names import nifti_stem
from ahm_env.images.patients import hint, pseudonym
from ahm_env.images.source import UNLABELLED, Catalogue, Load, Sample
from ahm_env.images.window import Window

VOLUMES = (".nii.gz", ".nii")
ENDINGS = (".dcm", ".dicom", ".ima")
NOT_DICOM = "not DICOM, or its beginning is damaged; copy or export it again, or take it out"
TELLING = (
    "the path of these images holds a name, number, date or institution of their headers, and runs write it down; "
    "rename the folder, or give one above it, or a link with another name"
)
SEARCHED = 2000
HEAD = 4096
PREAMBLE, PREFIX = 128, b"DICM"
FIRST_GROUPS = (b"\x02\x00", b"\x00\x02", b"\x08\x00", b"\x00\x08")
# (0008,0016) SOP Class UID, one of the standard's, in either order of bytes, with or without its type.
SOP_CLASS = re.compile(rb"(?:\x08\x00\x16\x00|\x00\x08\x00\x16)(?:UI..|....)1\.2\.840\.10008\.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """Which image a sample is, and what is known of it without its file.

    Attributes:
        relative: The file's path within the folder.
        index: The frame, from 0.
        frames: How many the file has.
        has_mask: Whether it may have a mask.
        label: Class number, or -1.
        split: Index into `SPLITS`.
        patient: Pseudonym that the table gives the patient, or empty.
        trouble: Why it cannot be used, or empty.
    """

    relative: str
    index: int
    frames: int
    has_mask: bool
    label: int = UNLABELLED
    split: int = 0
    patient: str = ""
    trouble: str = ""

    @property
    def number(self) -> str:
        """What tells a frame from the others of its file, as in `_0001`; empty where there is but one."""
        return f"_{self.index + 1:04d}" if self.frames > 1 else ""


class Dicom:
    """Images in the `images/` of a folder, or else in the folder itself, at any depth; or a single file.

    Attributes:
        table: Where its `labels.csv` is, if it has one.
    """

    kind = "dicom"

    def __init__(self, path: Path, window: Window | None = None, burned_in: bool = False) -> None:
        """Takes a folder or a file.

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

    def catalogue(self) -> Catalogue:
        """Reads the headers of all files, and the table.

        Raises:
            ImageError: There is no DICOM image, or `labels.csv` cannot be read.
            SettingsError: pydicom is missing, or the given path, which runs keep, tells whose images they are.
        """
        files, problems, notes = self.files(kept=True)
        labels = Labels(self.table, files, quoted=False) if self.table.is_file() else None
        has_masks = self._check_masks(files, problems)
        return Catalogue(
            count=int(files.frames.sum()),
            samples=self._samples(files, labels, has_masks),
            classes=labels.classes if labels else (),
            has_masks=has_masks,
            problems=problems + (labels.problems if labels else []),
            notes=notes,
            slow=True,
        )

    def names(self) -> Iterator[tuple[str, Path]]:
        """Pseudonym and path of each file that can be told of."""
        for top in self._tops():
            for found in walk(top, self._path):
                yield self._name(top, found.relative), Path(found.path)

    def _tops(self) -> tuple[Path, ...]:
        """What is searched: images, and masks where they are apart."""
        return (self._images,) if self._images == self._path else (self._images, self._masks)

    def _name(self, top: Path, relative: str) -> str:
        return pseudonym(f"path {'' if top == self._images else 'masks/'}{relative}")

    def _problem(self, top: Path, relative: str, cause: str) -> str:
        name = self._name(top, relative)
        return f"{self._path}: DICOM file {name} {cause} ({hint(self._path, name)})"

    def _scan(self, problems: list[str], notes: list[str], kept: bool) -> DicomFiles:
        """Finds the images; says what else there is."""
        _need_pydicom()
        from ahm_env.images.dicom.header import quiet, read_header
        from ahm_env.images.dicom.identity import PathWords

        quiet()
        words = PathWords(self._path)
        names, frames = PackedNames(), array("q")
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
                    if _begins(path):
                        header = read_header(path)
                    elif found.relative.lower().endswith(ENDINGS):
                        raise ImageError(NOT_DICOM)
                    else:
                        strangers += 1
                        continue
                if kept and words.tell(header.identity):
                    raise SettingsError(TELLING)
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
        notes += [f"{self._path}: {n:,} DICOM files hold no image: {kind}" for kind, n in sorted(kinds.items())]
        notes += [f"{self._path}: {strangers:,} files are not DICOM and are not read"] * bool(strangers)
        notes += [f"{self._path}: {burned_in:,} images say that text is burned into them; {told}"] * bool(burned_in)
        return DicomFiles(names, frames)

    def _check_masks(self, files: DicomFiles, problems: list[str]) -> bool:
        """Whether there is any mask; a mask without its image is a problem."""
        if self._images == self._path:
            return False
        any_mask = False
        for found in walk(self._masks, self._path):
            name, is_volume = found.relative, found.relative.endswith(VOLUMES)
            if name.lower().endswith(".png") or is_volume:
                any_mask = True
                known = files.has(nifti_stem(name)) if is_volume else files.has_frame(name[: -len(".png")])
                if found.trouble or not known:
                    cause = found.trouble or "is a mask without an image of its name; add the image or delete the mask"
                    problems.append(self._problem(self._masks, found.relative, cause))
        return any_mask

    def _samples(self, files: DicomFiles, labels: Labels | None, has_masks: bool) -> Iterator[Load]:
        for relative, frames in files:
            known, trouble = (UNLABELLED, 0, ""), ""
            try:
                known = labels.find(relative, "") if labels else known
            except ImageError as error:
                trouble = str(error).removeprefix(": ")
            if has_masks and len(files.with_stem(stem_of(relative))) > 1:
                trouble = "another file has the same name but for the extension; rename one, and its mask"
            for index in range(frames):
                yield partial(self._load, Place(relative, index, frames, has_masks, *known, trouble))

    def _load(self, place: Place) -> Sample | None:
        name = self._name(self._images, place.relative) + place.number
        where = f"{self._path}: DICOM file {name}"
        try:
            with unnamed(where):
                return self._read(place, name, where)
        except ImageError as error:
            raise ImageError(f"{where}: {error} ({hint(self._path, name)})") from None

    def _read(self, place: Place, name: str, where: str) -> Sample | None:
        from ahm_env.images.dicom.header import read_header
        from ahm_env.images.dicom.pixels import read_frame

        path = self._images / place.relative if self._images.is_dir() else self._images
        if not path.stat().st_size:
            raise ImageError("the file is empty (0 bytes); copy it again")
        if not _begins(path):
            raise ImageError(NOT_DICOM)
        header = read_header(path)
        if header.burned_in and not self._burned_in:
            return None
        lies = header.planes[min(place.index, len(header.planes) - 1)]
        image = read_frame(path, place.index, self._window)
        if place.trouble:
            raise ImageError(place.trouble)
        mask = self._mask(place, lies, image.shape[:2]) if place.has_mask else None
        if mask is not None and (wrong := mismatch(mask, image)):
            raise ImageError(wrong)
        patient = place.patient or (pseudonym(f"DICOM {header.patient}") if header.patient else "")
        return Sample(name, where, image, mask, place.label, place.split, patient, place.relative)

    def _mask(self, place: Place, lies: Plane | None, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
        """Its own PNG, or what a label volume named after its file, or after a folder that it is in, has for it."""
        stem = stem_of(place.relative)
        names = [f"{stem}{place.number}.png", *(f"{one}{end}" for one in (stem, *_above(stem)) for end in VOLUMES)]
        found = [self._masks / name for name in names if (self._masks / name).is_file()]
        if not found:
            return None
        if not all(inside(path, self._path) for path in found):
            raise ImageError(f"its mask {ASTRAY}")
        if len(found) > 1:
            raise ImageError(f"more than one mask in {self._masks}; keep one, a PNG or a label volume")
        (path,) = found
        try:
            return read_mask(path) if path.suffix == ".png" else cut(path, lies, (shape[0], shape[1]))
        except ImageError as error:
            raise ImageError(f"its mask: {str(error).removeprefix(f'{path}: ')}") from None

    def files(self, kept: bool = False) -> tuple[DicomFiles, list[str], list[str]]:
        """The files with images, masks and labels left aside, and the problems and notes as of a catalogue.

        Args:
            kept: Whether the given path will be written down.

        Raises:
            ImageError: There is no DICOM image.
            SettingsError: pydicom is missing, or a path that will be written down tells whose images they are.
        """
        problems, notes = list[str](), list[str]()
        files = self._scan(problems, notes, kept)
        if len(files) == 0:
            found = "; ".join(note.removeprefix(f"{self._path}: ") for note in notes) or "it is empty"
            raise ImageError(f"{self._path}: no DICOM image in it ({found}); give the folder they are in")
        return files, problems, notes

    def frames(self, files: DicomFiles) -> Iterator[tuple[str, Path, Load]]:
        """Of each image its name, known without decoding, its file, and the call that loads it without mask and label.

        The images of a file come one after another.
        """
        for relative, frames in files:
            path = self._images / relative if self._images.is_dir() else self._images
            for index in range(frames):
                place = Place(relative, index, frames, False)
                yield self._name(self._images, relative) + place.number, path, partial(self._load, place)


def _above(stem: str) -> list[str]:
    """The folders that a file is in, from the innermost."""
    return [str(folder) for folder in PurePosixPath(stem).parents][:-1]


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM does: with the mark of a file, or with elements that name a class of objects."""
    try:
        return path.is_file() and _begins(path)
    except OSError:
        return False


def _begins(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head[PREAMBLE : PREAMBLE + len(PREFIX)] == PREFIX:
        return True
    return head.startswith(FIRST_GROUPS) and SOP_CLASS.search(head) is not None


def holds_dicom(folder: Path) -> bool:
    """Whether one of the first files of a folder and its sub-folders, hidden ones left out, is DICOM."""
    try:
        return any(is_dicom(Path(found.path)) for found in islice(walk(folder, folder), SEARCHED) if not found.trouble)
    except ImageError:
        return False


@contextmanager
def unnamed(where: str) -> Iterator[None]:
    """Takes the path out of the operating system's errors: it may hold a patient's name.

    Args:
        where: What to name instead.

    Raises:
        ImageError: A file is gone, or not permitted.
        OSError: Another error, of the disk or the network: no fault of that file.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError) as error:
        raise ImageError(f"cannot be read ({error.strerror}); check that it is there and permitted") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, where) from None


def _need_pydicom() -> None:
    """Ends where it is missing.

    Raises:
        SettingsError: It is.
    """
    if find_spec("pydicom") is None:
        raise SettingsError("reading DICOM needs pydicom: pip install 'ahm-env[medical]'")
