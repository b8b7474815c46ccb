"""Public data sets as their archives unpack: one function a data set, which lists what is there and writes nothing."""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.formats.files import is_image, readable, refuse_link
from ahm_env.images.formats.labels import NO_IMAGE, table_lines
from ahm_env.images.formats.npz import Npz
from ahm_env.images.formats.pictures.picture import read_mask
from ahm_env.images.pixels.png import encode_png
from ahm_env.images.source import SPLITS, Entry, Pixels, not_text

PARTS = {"Training": "train", "Validation": "val", "Test": "test"}
DIAGNOSES = ("MEL", "NV", "BCC", "AKIEC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
TUMOURS = ("benign", "malignant", "normal")


@dataclass(frozen=True, slots=True)
class Row:
    """A line of `labels.csv`; what is not known is empty."""

    image: str
    label: str = ""
    split: str = ""
    patient: str = ""


@dataclass(frozen=True)
class PublicSet:
    """What a data set holds.

    Attributes:
        count: Number of images.
        writes: One call an image: it writes the image, and its mask, into a directory, and gives its line.
        has_masks: Whether every image has a mask.
        notes: What is left out, one line each.
    """

    count: int
    writes: Iterator[Callable[[Path], Row]]
    has_masks: bool
    notes: list[str] = field(default_factory=list)


Pair = tuple[Row, Path, Sequence[Path]]  # line, image, masks


def isic2018(source: Path) -> PublicSet:
    """ISIC 2018, Tasks 1 and 3, or ISIC 2019; a lesion is a patient, so that its photographs stay together."""
    folders = {
        Path(directory).name: Path(directory)
        for directory, _, names in os.walk(source, onerror=_unreadable)
        if any(map(is_image, names))
    }
    labels, lesions = _isic_tables(source)
    pairs, notes, inputs = list[Pair](), list[str](), list[tuple[str, Path]]()

    def files(folder: str, ending: str = ".jpg") -> list[Path]:
        return sorted(folders[folder].glob(f"ISIC_*{ending}")) if folder in folders else []

    def row(image: Path, split: str) -> Row:
        return Row(image.name, labels.get(image.stem, ""), split, lesions.get(image.stem, ""))

    photographs = [
        (split, path)
        for part, split in PARTS.items()
        for folder in (f"ISIC2018_Task3_{part}_Input", f"ISIC_2019_{part}_Input")
        for path in files(folder)
    ]
    has_masks = any(f"ISIC2018_Task1_{part}_GroundTruth" in folders for part in PARTS)
    for part, split in PARTS.items():
        folder, truth = f"ISIC2018_Task1-2_{part}_Input", f"ISIC2018_Task1_{part}_GroundTruth"
        images = {path.stem: path for path in files(folder)}
        masks = {path.stem.removesuffix("_segmentation"): [path] for path in files(truth, "_segmentation.png")}
        if not has_masks:
            inputs += [(split, path) for path in images.values()]
        elif images and truth not in folders:
            notes.append(f"{folders[folder]}: {len(images):,} images without masks are left out")
        else:
            pairs += [(row(images[stem], split), images[stem], masks[stem]) for stem in _paired(images, masks)]
    if not has_masks:
        pairs = [(row(path, split), path, ()) for split, path in photographs or inputs]
    elif photographs:
        cause = "have no masks and are left out; import them from a folder of their own"
        notes.append(f"{source}: {len(photographs):,} images of Task 3 and of 2019 {cause}")
    if not pairs:
        expected = "ISIC2018_Task1-2_Training_Input beside ISIC2018_Task1_Training_GroundTruth, or ISIC2018_Task3_"
        raise _unexpected(source, f"folders such as {expected}Training_Input")
    return _as_set(source, pairs, has_masks, notes)


def _isic_tables(source: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Classes and lesions by image, of all tables that are there."""
    labels: dict[str, str] = {}
    lesions: dict[str, str] = {}
    for table in sorted(source.rglob("ISIC*.csv")):
        refuse_link(table, source)
        if "GroundTruth" in table.name:
            for line, cells in table_lines(table, ("image",), NO_IMAGE):
                marked = [name for name in DIAGNOSES if cells.get(name.lower(), "") in ("1", "1.0")]
                if len(marked) > 1:
                    raise ImageError(f"{table}: line {line} marks {' and '.join(marked)}; download the table again")
                labels.setdefault(cells["image"], "".join(marked))
        elif table.stem.endswith(("_LesionGroupings", "_Metadata")):
            for _, cells in table_lines(table, ("image",), NO_IMAGE):
                lesions.setdefault(cells["image"], cells.get("lesion_id", ""))
    return labels, lesions


def busi(source: Path) -> PublicSet:
    """Breast Ultrasound Images (Al-Dhabyani et al. 2020): `benign (1).png`, `benign (1)_mask.png`, `…_mask_1.png`."""
    root = source / "Dataset_BUSI_with_GT"
    root = root if root.is_dir() else source
    pairs: list[Pair] = []
    for label in TUMOURS:
        images: dict[str, Path] = {}
        masks: dict[str, list[Path]] = {}
        for path in sorted((root / label).glob("*.png")):
            match = re.fullmatch(rf"{label} \((\d+)\)(_mask(?:_\d+)?)?", path.stem)
            if match is None:
                raise ImageError(f"{path}: expected a name such as `{label} (1).png` or `{label} (1)_mask.png`")
            if match[2]:
                masks.setdefault(match[1], []).append(path)
            else:
                images[match[1]] = path
        for number in _paired(images, masks):
            pairs.append((Row(f"{label}_{int(number):03d}.png", label), images[number], masks[number]))
    if not pairs:
        raise _unexpected(source, f"folders {', '.join(TUMOURS)} with images such as `benign (1).png`")
    return _as_set(source, pairs, has_masks=True)


def lgg(source: Path) -> PublicSet:
    """Lower-grade gliomas in MRI (Buda et al. 2019): `TCGA_XX_NNNN_DATE/TCGA_…_7.tif`, `…_7_mask.tif`."""
    root = source / "kaggle_3m"
    root = root if root.is_dir() else source
    pairs: list[Pair] = []
    for folder in sorted(path for path in root.glob("TCGA_*") if path.is_dir()):
        paths = sorted(folder.glob("*.tif"))
        masks = {path.stem.removesuffix("_mask"): [path] for path in paths if path.stem.endswith("_mask")}
        images = {path.stem: path for path in paths if not path.stem.endswith("_mask")}
        for stem in _paired(images, masks):
            pairs.append((Row(images[stem].name, patient=folder.name), images[stem], masks[stem]))
    if not pairs:
        raise _unexpected(source, "folders such as TCGA_CS_4941_19960909 with slices and their _mask.tif")
    return _as_set(source, pairs, has_masks=True)


def npz(source: Path) -> PublicSet:
    """Find the images of an .npz file of MedMNIST or MedSegBench."""
    if not source.is_file():
        raise ImageError(f"{source}: is a folder; give the .npz file itself")
    index = Npz(source).index()
    writes = (partial(_write_sample, load, index.classes) for load in index.samples)
    return PublicSet(index.count, writes, index.has_masks, index.notes)


def downloaded(kind: str, member: str, directory: Path) -> Path:
    """Download the file of a data set into a directory, by the package of that kind."""
    try:
        names, classes = import_module(f"{kind}.info").INFO, import_module(f"{kind}.dataset")
    except ImportError as error:
        remedy = f"pip install {kind}, or download the .npz file"
        raise SettingsError(f"{kind}:{member} needs the package {kind} ({error}): {remedy}") from None
    if member not in names:
        raise SettingsError(f"{kind}:{member} is unknown; choose one of: {', '.join(sorted(names))}")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        made = getattr(classes, names[member]["python_class"])(split="train", download=True, root=str(directory))
    except (RuntimeError, KeyError) as error:
        cause = " ".join(str(error).split())
        raise ImageError(f"{kind}:{member} could not be downloaded ({cause}); give the .npz file instead") from None
    return directory / f"{member}{made.size_flag}.npz"


def _paired(images: Mapping[str, Path], masks: Mapping[str, Sequence[Path]]) -> list[str]:
    """Stems of images that have masks: all, or an error names the first that lacks its other half."""
    for stem in sorted(images.keys() ^ masks.keys()):
        path, other = (images[stem], "mask") if stem in images else (masks[stem][0], "image")
        raise ImageError(f"{path}: its {other} is not there; the data set is incomplete, unpack it again")
    return list(images)


def _as_set(source: Path, pairs: Sequence[Pair], has_masks: bool, notes: Sequence[str] = ()) -> PublicSet:
    """Describe a data set of image files, each with its masks; refuse names that cannot go together in one folder."""
    for row, image, _ in pairs:
        if re.search(r"[/\\]", row.image):
            raise ImageError(f"{image}: its name holds a path; unpack the data set again with another program")
    refuse_names((row, image) for row, image, _ in pairs)
    return PublicSet(len(pairs), (partial(_copy, source, *pair) for pair in pairs), has_masks, list(notes))


def refuse_names(rows: Iterable[tuple[Row, str | Path]]) -> None:
    """Refuse lines that no table can hold, and images that cannot go together in one folder, before any is copied.

    Args:
        rows: The line of each image, and how an error names the image.

    Raises:
        ImageError: A name is not UTF-8, or two have one stem but for upper and lower case.
    """
    seen: dict[str, str | Path] = {}
    for row, path in rows:
        if wrong := next(filter(None, (not_text(cell, path) for cell in astuple(row))), ""):
            raise ImageError(wrong)
        stem = Path(row.image).stem.casefold()
        if stem in seen:
            remedy = "rename one of them, or give a folder that holds one data set"
            raise ImageError(f"{path}: has the same name as {seen[stem]} when they are in one folder; {remedy}")
        seen[stem] = path


def _copy(source: Path, row: Row, image: Path, masks: Sequence[Path], directory: Path) -> Row:
    """Copy an image, and write the union of its masks as 0 and 255."""
    for path in (image, *masks):
        _refuse_links(path, source)
    with readable(image):
        shutil.copyfile(image, directory / "images" / row.image)
    if masks:
        union = _binary(masks[0])
        for path in masks[1:]:
            mask = _binary(path)
            if mask.shape != union.shape:
                raise ImageError(f"{path}: its size is not that of {masks[0].name}; unpack the data set again")
            union |= mask
        name = Path(row.image).with_suffix(".png").name
        (directory / "masks" / name).write_bytes(encode_png(np.where(union, 255, 0).astype(np.uint8)))
    return row


def _refuse_links(path: Path, source: Path) -> None:
    """Refuse a file that is a link out of the folder, or that is in a folder of it that is a link."""
    for part in (path, *path.parents):
        if part == source:
            return
        refuse_link(part, source)


def _binary(path: Path) -> Pixels:
    """Read a mask as true inside, whichever number stands for that; soft edges are cut at half."""
    mask = read_mask(path)
    return np.asarray(mask > mask.max() / 2)


def _write_sample(load: Entry, classes: Sequence[str], directory: Path) -> Row:
    sample = load()
    assert sample is not None
    name = f"{sample.name}.png"
    (directory / "images" / name).write_bytes(encode_png(_storable(sample.image, sample.path)))
    if sample.mask is not None:
        (directory / "masks" / name).write_bytes(encode_png(sample.mask))
    return Row(name, classes[sample.label] if sample.label >= 0 else "", SPLITS[sample.split])


def _storable(image: Pixels, path: str) -> Pixels:
    """Convert an image to what PNG can hold; all but uint8 becomes uint16, to be scaled as before when it is read."""
    if image.dtype == np.uint8:
        return image
    stored = np.nan_to_num(image, nan=-1).clip(0, 65535).astype(np.uint16)
    if not np.array_equal(stored, image):
        raise ImageError(f"{path} holds {image.dtype} that PNG cannot keep; use the .npz file itself, it is a source")
    return stored


def _unreadable(error: OSError) -> None:
    raise ImageError(f"{error.filename}: cannot be read ({error.strerror}); check that it is permitted") from error


def _unexpected(source: Path, expected: str) -> ImageError:
    """Make the error to raise if nothing of a data set is found."""
    names = sorted(path.name for path in source.iterdir()) if source.is_dir() else ["a file"]
    there = ", ".join(names[:4] + ["…"] * (len(names) > 4)) or "nothing"
    return ImageError(f"{source}: expected {expected}; found {there}; unpack the archives, and give the folder above")
