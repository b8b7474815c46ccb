"""A folder of DICOM files, searched with its sub-folders; optional `masks/` and `labels.csv`, as for other images.

Names of patients, files and folders tell who somebody is: none is shown or written, only pseudonyms, from which `ahm
data find` leads back to the file.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.formats.dicom.index import ENDINGS, NOT_DICOM, DicomFiles, FrameRef, begins, stem_of
from ahm_env.images.formats.dicom.masks import TWINS, Segmented, check_masks, find_segmented, mask_files, read_mask_of
from ahm_env.images.formats.files import images_in, walk
from ahm_env.images.formats.fingerprint import digest_tree
from ahm_env.images.formats.labels import Labels, Line, has_table, table_digest
from ahm_env.images.formats.pictures.picture import mask_problem
from ahm_env.images.pixels.fit import Image8
from ahm_env.images.pixels.window import Window
from ahm_env.images.privacy import digests, hint, pseudonym, unnamed
from ahm_env.images.source import DatasetIndex, Decoded, Entries, Entry, Pixels

if TYPE_CHECKING:
    from ahm_env.images.formats.dicom.header import Header

# With another version of one of these packages an image may be readable that was not.
DECODERS = ("pydicom", "pyjpegls", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg")
SEVERAL = "names no patient for it, and several for files of the same PatientID or study; name one for it"


class Dicom:
    """Images in the `images/` of a folder, or else in the folder itself, at any depth; or a single file.

    Attributes:
        table: Where its `labels.csv` is, if it has one.
    """

    kind = "dicom"
    stem_of = staticmethod(stem_of)

    def __init__(self, path: Path, window: Window | None = None, burned_in: bool = False, bare: bool = False) -> None:
        """Take a folder or a file.

        Args:
            path: Where it is.
            window: Shown range of grey images, instead of the one that each file gives.
            burned_in: Take images that say that text is burned into their pixels: it may be a patient's name.
            bare: What lies beside the images, masks and labels, is not looked at.
        """
        self._path, self._window, self._burned_in, self._bare = path, window, burned_in, bare
        self._images = images_in(path)
        self._masks = path / "masks"
        self.table = path / "labels.csv"

    def fingerprint(self) -> str:
        """Paths, sizes and times of all files, the content of `labels.csv`, the settings, and what decodes."""
        with unnamed(str(self._path)):
            digests = " ".join(digest_tree(top, self._path) for top in self._tops())
        return f"{self.kind} {digests} {table_digest(self.table)} {self._window} {self._burned_in} {_decoders()}"

    def index(self, masks: bool = True) -> DatasetIndex:
        """Read the headers of all files, and the table.

        Args:
            masks: Whether masks are read with their images; if not, a SEG is read only to learn which images it is
                about. If that fails it is a problem all the same: it is unknown which image lacks its mask.

        Raises:
            ImageError: There is no DICOM image, or `labels.csv` cannot be read.
            SettingsError: pydicom is missing.
        """
        if find_spec("pydicom") is None:
            raise SettingsError("reading DICOM needs pydicom: pip install 'ahm-env[medical]'")
        problems, notes = list[str](), list[str]()
        has_masks = not self._bare and self._masks.is_dir()
        if has_masks and self._images == self._path:
            remedy = "put the images into `images/`, or rename `masks/` if it does not hold their masks"
            problems.append(f"{self._masks}: masks are read only where the images are in `images/`; {remedy}")
            has_masks = False
        segmented = (
            find_segmented(self._masks, self._path, partial(self._name, self._masks)) if has_masks else Segmented()
        )
        files, identities = self._scan(problems, notes, segmented)
        labels = Labels(self.table, files, quoted=False) if not self._bare and has_table(self.table) else None
        if has_masks:
            shown = partial(self._shown, files)
            wrong = check_masks(self._masks, self._path, files, shown, segmented)
            problems += [self._problem(self._masks, relative, cause) for relative, cause in sorted(wrong.items())]
            others = f"{self._masks}: files that are neither PNG nor NIfTI nor DICOM SEG, and are not read"
            notes += [f"{others}: {segmented.others:,}"] * bool(segmented.others)
        return DatasetIndex(
            count=int(files.known["frames"].sum()),
            samples=Entries(self._entries, files, labels, has_masks, masks),
            classes=labels.classes if labels else (),
            has_masks=has_masks,
            problems=problems + (labels.problems if labels else []),
            warnings=labels.warnings if labels else [],
            notes=notes + (labels.notes if labels else []),
            slow=True,
            identities=identities,
        )

    def names(self) -> Iterator[tuple[str, Path]]:
        """Pseudonym and path of each file that may be named."""
        for top in self._tops():
            for found in walk(top, self._path):
                yield self._name(top, found.relative), Path(found.path)

    def _shown(self, files: DicomFiles) -> set[str]:
        return {entry.name for entry in self._entries(files, None, False, False)}

    def _tops(self) -> tuple[Path, ...]:
        """List the folders that are searched: that of images, and that of masks if it is another."""
        return (self._images,) if self._bare or self._images == self._path else (self._images, self._masks)

    def _name(self, top: Path, relative: str) -> str:
        return pseudonym(f"path {'' if top == self._images else 'masks/'}{relative}")

    def _problem(self, top: Path, relative: str, cause: str) -> str:
        name = self._name(top, relative)
        what = "DICOM file" if top == self._images else "mask"
        return f"{self._path}: {what} {name}: {cause} ({hint(self._path, name)})"

    def _scan(self, problems: list[str], notes: list[str], segmented: Segmented) -> tuple[DicomFiles, frozenset[int]]:
        """Find the images, and note what else there is.

        Args:
            problems: A list to add problems to.
            notes: A list to add notes to.
            segmented: The SEGs; one that may be about several images in different places becomes a problem.

        Returns:
            The images; digests of what tells whose they are.
        """
        from ahm_env.images.formats.dicom.dicom_file import quiet
        from ahm_env.images.formats.dicom.header import read_header

        quiet()
        identities = set[str]()
        names, known = list[str](), list[tuple[int, int, bool]]()
        marked, places = dict[str, str](), dict[str, int]()
        kinds, strangers, burned_in, studies = Counter[str](), 0, 0, 0
        owners = dict[int, int]()  # patients, by study
        for found in walk(self._images, self._path):
            path, count, patient, burned = Path(found.path), 1, 0, False
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
                identities |= header.identity
                if about := segmented.images.get(header.uid):
                    marked[found.relative] = about
                    lies = hash(tuple(plane is not None and plane.tobytes() for plane in header.planes))
                    if places.setdefault(header.uid, lies) != lies:
                        segmented.problems[about] = TWINS
                count, burned = header.frames, header.burned_in
                study = int(pseudonym(f"DICOM study: {header.study}"), 16) if header.study else 0
                if count and header.patient:
                    patient = int(pseudonym(f"DICOM {header.patient}"), 16)
                    if study:
                        owners.setdefault(study, patient)
                elif count and study:
                    # Of one who is not named all that is known is which images were made together.
                    patient = study
                    studies += 1
                kinds.update([] if count else [header.kind])
                burned_in += count * burned
            except ImageError:
                # A bad sample: it says what is wrong when it is loaded.
                pass
            if count:
                names.append(found.relative)
                known.append((count, patient, burned))
        what = "they are taken in" if self._burned_in else "they are left out; --burned-in takes them in"
        notes += [f"{self._path}: DICOM files without an image: {n:,}, {kind}" for kind, n in sorted(kinds.items())]
        notes += [f"{self._path}: files that are not DICOM, and are not read: {strangers:,}"] * bool(strangers)
        notes += [f"{self._path}: images that say that text is burned in: {burned_in:,}; {what}"] * bool(burned_in)
        notes += [f"{self._path}: files that name no patient: {studies:,}; a study counts as one"] * bool(studies)
        marked = {relative: about for relative, about in marked.items() if about not in segmented.problems}
        files = DicomFiles(names, ((count, owners.get(whose, whose), burned) for count, whose, burned in known), marked)
        if len(files) == 0:
            others = "; ".join(note.removeprefix(f"{self._path}: ") for note in notes) or "it is empty"
            raise ImageError(f"{self._path}: no DICOM image in it ({others}); give the folder they are in")
        return files, digests(identities)

    def _entries(self, files: DicomFiles, labels: Labels | None, has_masks: bool, masks: bool) -> Iterator[Entry]:
        named = _named(files, labels)
        for position, (relative, (frames, patient, burned_in)) in enumerate(
            zip(files, files.known.tolist(), strict=True)
        ):
            path = self._images / relative if self._images.is_dir() else self._images
            left_out = burned_in and not self._burned_in
            known = labels.find(position) if labels and not left_out else Line()
            whose = known.patient or named.get(patient, f"{patient:016x}" if patient else "")
            trouble = known.trouble or (f"{self.table} {SEVERAL}" if whose == SEVERAL else "")
            namesake = has_masks and len(files.with_stem(stem_of(relative))) > 1
            about = frames, has_masks, namesake, files.segmentations.get(relative, "")
            base = self._name(self._images, relative)
            for index in range(frames):
                place = FrameRef(relative, index, *about)
                name = base + place.number
                where = f"{self._path}: DICOM file {name}"
                yield Entry(
                    name=name,
                    path=where,
                    decode=_nothing if left_out else partial(self._decode, place, path, name, where),
                    label=known.label,
                    split=known.split,
                    patient=whose,
                    line=relative,
                    file=path,
                    trouble=f"{where}: {trouble} ({hint(self._path, name)})" if trouble else "",
                    masks=masks,
                )

    @contextmanager
    def _explained(self, where: str, name: str) -> Iterator[None]:
        """Errors of an image with its name, and how to find its file."""
        try:
            with unnamed(where):
                yield
        except ImageError as error:
            raise ImageError(f"{where}: {error} ({hint(self._path, name)})") from None

    def _decode(self, place: FrameRef, path: Path, name: str, where: str) -> Decoded:
        from ahm_env.images.formats.dicom.header import read_header
        from ahm_env.images.formats.dicom.pixels import read_frame

        with self._explained(where, name):
            if not path.stat().st_size:
                raise ImageError("the file is empty (0 bytes); copy it again")
            if not begins(path):
                raise ImageError(NOT_DICOM)
            image = read_frame(path, place.index, self._window)
            found = mask_files(self._masks, place, name) if place.has_mask else []
            later = partial(self._mask, found, place, name, where, read_header(path), image) if found else None
            return Decoded(image, later)

    def _mask(
        self, found: list[Path], place: FrameRef, name: str, where: str, header: "Header", image: Pixels
    ) -> Image8:
        with self._explained(where, name):
            mask = read_mask_of(found, self._masks, self._path, place, header, image)
            if wrong := mask_problem(mask, image):
                raise ImageError(wrong)
            return mask


def _named(files: DicomFiles, labels: Labels | None) -> dict[int, str]:
    """Find what the table calls a patient, of whom it may leave other files blank, by the number in `files.known`.

    `SEVERAL` where it has several names: of a file that it leaves blank nothing tells which is meant.
    """
    named = dict[int, str]()
    for position, number in enumerate(files.known["patient"].tolist() if labels else ()):
        if labels and number and (name := labels.find(position).patient):
            named[number] = name if named.get(number, name) == name else SEVERAL
    return named


def _decoders() -> list[str]:
    """Versions of the packages that decode pixels, as far as they are installed."""
    versions = list[str]()
    for name in DECODERS:
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return versions


def _nothing() -> None:
    """Stands for an image that is left out."""
