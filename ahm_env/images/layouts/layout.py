"""Images and masks found by the names of files and folders, as sets lie on disk that people download.

| layout | such as |
|---|---|
| masks beside their images | `a.png`, `a_mask.png`, `a_mask_1.png` |
| scans of a patient beside the mask | `P_flair.nii.gz`, `P_t1.nii.gz`, `P_seg.nii.gz`, or `img_1.png`, `mask_1.png` |
| folders of masks | `images/a.png` and `labels/a.png`, or `annotations/a_segmentation.png` |
| nnU-Net | `imagesTr/a_0000.nii.gz`, `labelsTr/a.nii.gz`, `dataset.json` |
| folders of splits | `train/images/a.png`, or `images/train/a.png` |

What the folders that all files share are called says nothing. A file whose folder or ending is in none of the tables
is an image.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.formats.files import images_of_mask, is_image, parts_of, walk
from ahm_env.images.formats.nifti.names import is_nifti, nifti_stem
from ahm_env.images.layouts.owners import File, Key, Owners

# Words in names of folders, such as those of imagesTr, ground_truth or train2017
SPLIT_WORDS = dict.fromkeys(("train", "training", "Tr"), "train")
SPLIT_WORDS |= dict.fromkeys(("val", "valid", "validation"), "val") | dict.fromkeys(("test", "testing", "Ts"), "test")
MASK_WORDS = {"mask", "masks", "label", "labels", "annotation", "annotations", "groundtruth", "truth"}
MASK_WORDS |= {"seg", "segs", "segmentation", "segmentations", "manual"}
OTHER_WORDS = {"image", "images", "img", "imgs", "input", "inputs", "data", "ground"}
NNUNET = ("Tr", "Ts")  # not the TS of BraTS
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
SCANS = 16  # of a patient; more are pictures with numbers
SUPERPIXELS = re.compile(r"[_-]superpixels$", re.IGNORECASE)


@dataclass
class Layout:
    """The images of a set with their masks.

    Attributes:
        images: By what each is found.
        masks: Those of each image that has some.
        beside: How many masks lie among images.
        notes: What is left out, one line each.
        tables: Names of the tables that lie among them, without `labels.csv`.
    """

    images: dict[Key, Path]
    masks: dict[Key, list[Path]] = field(default_factory=lambda: defaultdict(list))
    beside: int = 0
    notes: list[str] = field(default_factory=list)
    tables: Sequence[str] = ()

    def __str__(self) -> str:
        """Say in a few words what is there."""
        count = sum(map(len, self.masks.values()))
        where = "among them" if self.beside else "in folders of their own"
        masks = f" and {count:,} mask{'s' * (count > 1)} {where}" if count else ""
        splits = sorted({split for split, _, _ in self.images} - {""}, key=("train", "val", "test").index)
        return (
            f"{len(self.images):,} image{'s' * (len(self.images) > 1)}{masks}"
            + f", in splits ({', '.join(splits)})" * bool(splits)
        )


def find_layout(source: Path, scan: str | None = None) -> Layout:
    """Find out which files below a folder are images, and which their masks.

    Args:
        source: The folder.
        scan: Which of several scans of a patient is the image, such as `flair` or `0000`; None is the one that most
            patients have, of several the first by name.

    Raises:
        ImageError: There is no image, a mask has none, or two images could have the same mask.
        SettingsError: There is no such scan.
    """
    paths, others, tables = image_files(source)
    files = _placed(paths)
    if all(one.drawn for one in files):
        files = [File(one.path, one.key, False) for one in files]
    superpixels = [one for one in files if SUPERPIXELS.search(one.key[2])]
    files = [one for one in files if not SUPERPIXELS.search(one.key[2])]
    images = _images((one for one in files if not one.drawn), source)
    bases = {key: some for key, one in images.items() if (some := one.images())}
    drawn = {key for one in files if one.drawn for key in (one.key, *one.images())}
    scans = _scans(images.keys() - bases.keys(), drawn.union(*bases.values()))
    beside = [images[key] for key, some in bases.items() if any(base in images or base in scans for base in some)]
    among = set(beside)
    layout = Layout(
        {key: one.path for key, one in images.items() if one not in among}, beside=len(beside), tables=tables
    )
    masks = [*beside, *(one for one in files if one.drawn)]
    owners = Owners(layout.images.keys(), scans.keys()).of(masks)
    _refuse_unclear(masks, owners, source)
    alone = [mask.path for mask, some in zip(masks, owners, strict=True) if not some]
    by_scan = any(key in scans and key not in layout.images for some in owners for key in some)
    for mask, some in zip(masks, owners, strict=True):
        layout.masks[some[0] if some else mask.key].append(mask.path)
    strays = [path for (_, _, stem), path in layout.images.items() if images_of_mask(stem)]
    if beside:  # then one whose image is lacking is none, either
        alone += strays
    elif strays:
        cause = f"called as masks are, but taken for images, since they have none: {len(strays):,}"
        layout.notes.append(f"{source}: {cause}")
    if alone:
        cause = f"masks without an image: {len(alone):,}{_such(alone[0], source)}"
        cause += "; the set is incomplete, or its names differ"
        raise ImageError(f"{source}: {cause}; unpack it again, or rename them")
    if by_scan:
        _choose_scan(layout, scans, scan, source)
    elif scan is not None:
        raise SettingsError(f"--scan {scan}: {source} does not have several scans of a patient; leave it out")
    if several := [key for key, some in layout.masks.items() if len({path.parent for path in some}) > 1]:
        folders = ", ".join(sorted({path.parent.name for path in layout.masks[several[0]]}))
        cause = f"{len(several):,} of its images have masks in several folders ({folders})"
        raise ImageError(f"{source}: {cause}; take out those that are not to be learned from")
    for count, what in ((len(superpixels), "superpixels, which are no masks"), (others, "files of other formats")):
        layout.notes += [f"{source}: {what}, are left out: {count:,}"] if count else []
    return layout


def image_files(source: Path) -> tuple[list[Path], int, list[str]]:
    """Pictures, or volumes where these are more, below a folder, how many of the other kind, and names of tables.

    Raises:
        ImageError: There is none, or a folder cannot be read.
    """
    pictures, volumes, tables = list[Path](), list[Path](), list[str]()
    everything = sorted(walk(source, source), key=lambda one: one.relative)
    nameless = any(is_nifti(found.path) for found in everything)  # files and folders may be called after patients
    for found in everything:
        if found.trouble and (is_image(found.path) or is_nifti(found.path) or os.path.isdir(found.path)):
            where = f"{source}: a file or folder in it" if nameless else f"{found.path}:"
            raise ImageError(f"{where} {found.trouble}")
        if "__MACOSX" not in found.relative:
            pictures += [Path(found.path)] if is_image(found.path) else []
            volumes += [Path(found.path)] if is_nifti(found.path) else []
            tables += [Path(found.path).name] if found.path.endswith(".csv") else []
    chosen, others = (volumes, pictures) if len(volumes) > len(pictures) else (pictures, volumes)
    if not chosen:
        raise ImageError(f"{source}: no image in it or in its sub-folders; give the folder that a set was unpacked in")
    return chosen, len(others), [name for name in tables if name != "labels.csv"]


def _placed(paths: Sequence[Path]) -> list[File]:
    """Read off their folders what files are; those that all of them share say nothing."""
    shared = len(Path(os.path.commonpath([path.parent for path in paths])).parts)
    folders = {path.parent: _said(path.parent.parts[shared:]) for path in paths}
    # where a mask has no other name, as in `P1/imaging.nii.gz` and `P1/segmentation.nii.gz`, their folder has it
    stems = {path: stem_of(path) for path in paths}
    named = {path.parent for path, stem in stems.items() if stem.isalpha() and images_of_mask(f"x {stem}") == ["x"]}
    files = []
    for path, stem in stems.items():
        split, place, drawn = folders[path.parent]
        stem = f"{path.parent.name}_{stem}" if path.parent in named and not drawn else stem
        files.append(File(path, (split, place, stem), drawn))
    return files


def _said(folders: Sequence[str]) -> tuple[str, tuple[str, ...], bool]:
    """Read off the names of folders: the split, what says neither that nor what is in them, and whether it is masks."""
    place = list[str]()
    for folder in folders:
        words = _words(folder)
        rest = [word for word in words if word not in {*SPLIT_WORDS, *MASK_WORDS, *OTHER_WORDS}]
        if rest and rest != ["gt"]:
            place.append(folder if len(rest) == len(words) else "_".join(rest))
    return named_split(folders), tuple(place), any(map(is_of_masks, folders))


def named_split(folders: Sequence[str]) -> str:
    """Return the split after which one of these is named, of several the last; empty if none is."""
    words = [word for folder in folders for word in _words(folder)]
    return next((SPLIT_WORDS[word] for word in reversed(words) if word in SPLIT_WORDS), "")


def is_of_masks(folder: str) -> bool:
    """Whether a folder is one of masks, by its name."""
    words = set(_words(folder))
    # alone, for TCGA_GT_0123 is a patient
    return not MASK_WORDS.isdisjoint(words) or {"gt"} == words - SPLIT_WORDS.keys() - OTHER_WORDS


def _words(folder: str) -> list[str]:
    return [word if word in NNUNET else word.lower() for word in WORD.findall(folder)]


def _images(files: Iterator[File], source: Path) -> dict[Key, File]:
    images = dict[Key, File]()
    for one in files:
        other = images.setdefault(one.key, one)
        if other is not one:
            names = "two volumes" if is_nifti(one.path.name) else f"{other.path.name} and {one.path.name}"
            raise ImageError(f"{source}: {names} have one stem, and could have one mask; rename one of them")
    return images


def _scans(images: Set[Key], masks: set[Key]) -> Mapping[Key, Mapping[str, Key]]:
    """Find images that share the stem of a mask but for the word of a scan, and those without a mask of such words.

    Args:
        images: Keys of all images.
        masks: Keys that masks have, or that their images would have.

    Returns:
        By what they share, and by that word.
    """
    ways = {key: [((*key[:2], stem), word) for stem, word in parts_of(key[2])] for key in sorted(images - masks)}
    masked = {key: [way for way in some if way[0] in masks] for key, some in ways.items()}
    words = {some[0][1] for some in masked.values() if some}
    others = {key: [way for way in ways[key] if way[1] in words] for key, some in masked.items() if not some}
    scans = defaultdict[Key, dict[str, Key]](dict)
    for key, some in (*masked.items(), *others.items()):
        if some:
            scans[some[0][0]].setdefault(some[0][1], key)
    return {key: some for key, some in scans.items() if len(some) <= SCANS}


def _refuse_unclear(masks: Sequence[File], owners: Sequence[Sequence[Key]], source: Path) -> None:
    """Refuse masks that could be of several images."""
    unclear = [(mask.path, some) for mask, some in zip(masks, owners, strict=True) if len(some) > 1]
    if unclear:
        path, rivals = unclear[0]
        stems = " or ".join("/".join(filter(None, (split, *place, stem))) for split, place, stem in rivals)
        cause = f"masks that could be of several images: {len(unclear):,}{_such(path, source, f' of {stems}')}"
        remedy = (
            "name each as its image with `_mask` after it, in the folder of the image, and merge those of one image"
        )
        raise ImageError(f"{source}: {cause}; {remedy}")


def _such(path: Path, source: Path, more: str = "") -> str:
    """Name a file as an example; volumes are not named."""
    return "" if is_nifti(path.name) else f", such as {path.relative_to(source)}{more}"


def _choose_scan(layout: Layout, scans: Mapping[Key, Mapping[str, Key]], asked: str | None, source: Path) -> None:
    """Take one scan of each patient as the image, under the name that all share."""
    counts = Counter(name for some in scans.values() for name in some)
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if asked is not None and asked not in names:
        raise SettingsError(f"--scan {asked}: {source} has {', '.join(sorted(names))}; choose one of these")
    chosen = asked or names[0]
    lacking = sum(chosen not in some for some in scans.values())
    images = {key: layout.images[some[chosen]] for key, some in scans.items() if chosen in some}
    scanned = {key for some in scans.values() for key in some.values()}
    layout.images = {key: path for key, path in layout.images.items() if key not in scanned} | images
    layout.masks = {key: some for key, some in layout.masks.items() if key in layout.images}
    if len(names) > 1:
        others = ", ".join(sorted(set(names) - {chosen}))
        layout.notes.append(f"{source}: of several scans {chosen} is taken; --scan takes another ({others})")
    if lacking:
        layout.notes.append(f"{source}: patients without the scan {chosen}, who are left out: {lacking:,}")


def stem_of(path: Path) -> str:
    """Strip the ending off the name of an image or a volume."""
    return nifti_stem(path.name) if is_nifti(path.name) else path.stem
