"""The masks of DICOM images: PNGs of their names, label volumes (NIfTI) named after files or folders, DICOM SEG."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from ahm_env.errors import ImageError
from ahm_env.images.formats.dicom.index import DicomFiles, FrameRef, begins, stem_of
from ahm_env.images.formats.dicom.planes import Plane, voxels_on
from ahm_env.images.formats.files import ASTRAY, inside, walk
from ahm_env.images.formats.labels import folded
from ahm_env.images.formats.nifti.intensities import class_numbers
from ahm_env.images.formats.nifti.names import nifti_stem
from ahm_env.images.formats.nifti.recent import LRUCache
from ahm_env.images.formats.nifti.volume import read_header, read_volume
from ahm_env.images.formats.pictures.picture import read_mask
from ahm_env.images.pixels.fit import Image8
from ahm_env.images.privacy import unnamed
from ahm_env.images.source import Pixels

if TYPE_CHECKING:  # needs pydicom
    from ahm_env.images.formats.dicom.header import Header

DRAWN, VOLUMES = ".png", (".nii.gz", ".nii")
SECOND = "one of its images has another segmentation, too; keep one"
ALIKE = "give a segment the same number and the same label in all files"
TWINS = "images that lie in different places share a SOP Instance UID that it refers to; keep one of them"
NOT_OURS = "none of its images is there; add them or delete the segmentation"
CAPITALS = "its ending is in capitals, so it is not taken for a mask; rename it"
ALONE = "there is no image of its name; rename it (a label volume after the folder of its series), or take it out"
GRID = "save it on the grid of the whole series (where DICOM counts to the left and back, NIfTI counts right and front)"
# Images of a series come one after another.
_kept: LRUCache[Image8] = LRUCache(1)


@dataclass
class Segmented:
    """The DICOM SEGs of a folder of masks.

    Attributes:
        images: SOP Instance UID of each image to the path within the folder of the SEG that is about it.
        problems: Path within the folder of what cannot be used, and why.
        others: How many files are no masks of any kind.
    """

    images: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    others: int = 0


class Meanings:
    """What the numbers of segments mean, which become those of classes: in all SEGs a number must have one label.

    Labels are compared, never shown: whoever drew a segment may have typed a patient's name.
    """

    def __init__(self) -> None:
        """Know of none yet."""
        self._labels: dict[int, tuple[str, str]] = {}  # by number, with the name of the file that said so first
        self._numbers: dict[str, tuple[int, str]] = {}

    def add(self, name: str, segments: Mapping[int, str]) -> str:
        """Learn what the segments of a SEG are; if that contradicts what is known already, say how, and learn nothing.

        Args:
            name: Of the file.
            segments: Labels by number.
        """
        labels = {number: folded(label) for number, label in segments.items() if label}
        if len(set(labels.values())) < len(labels):
            return f"two of its segments have one label; {ALIKE}"
        for number, label in labels.items():
            known, file = self._labels.get(number, (label, ""))
            if known != label:
                return f"its segment {number} has another label than that of mask {file}; {ALIKE}"
            first, file = self._numbers.get(label, (number, ""))
            if first != number:
                return f"its segment {number} has the label of segment {first} of mask {file}; {ALIKE}"
        for number, label in labels.items():
            self._labels.setdefault(number, (label, name))
            self._numbers.setdefault(label, (number, name))
        return ""


def find_segmented(folder: Path, within: Path, name: Callable[[str], str]) -> Segmented:
    """Read the SEGs in a folder.

    Args:
        folder: Where masks are; it may be missing.
        within: The folder of the source, out of which no link may lead.
        name: Gives the pseudonym of a path within the folder.
    """
    from ahm_env.images.formats.dicom.segmentations import read_segmentation

    segmented, claims, meanings = Segmented(), defaultdict[str, list[str]](list), Meanings()
    others = (
        (found.relative, Path(found.path))
        for found in walk(folder, within)
        if not (found.trouble or found.relative.lower().endswith((*VOLUMES, DRAWN)))
    )
    for relative, path in sorted(others):
        try:
            with unnamed(str(folder)):
                segmentation = read_segmentation(path) if begins(path) else None
            if segmentation is None:
                segmented.others += 1
                continue
            if contradiction := meanings.add(name(relative), segmentation.labels):
                raise ImageError(contradiction)
        except ImageError as error:
            segmented.problems[relative] = str(error)
            continue
        for uid in segmentation.images:
            claims[uid].append(relative)
    for uid, some in claims.items():
        if len(some) > 1:
            segmented.problems |= dict.fromkeys(some, SECOND)
        else:
            segmented.images[uid] = some[0]
    return segmented


def check_masks(
    folder: Path, within: Path, files: DicomFiles, shown: Callable[[], set[str]], segmented: Segmented
) -> dict[str, str]:
    """Find masks that belong to no image, or cannot be used.

    Args:
        folder: Where masks are; it may be missing.
        within: The folder of the source, out of which no link may lead.
        files: The images.
        shown: Gives the pseudonyms of all of them.
        segmented: All SEGs.

    Returns:
        Path within the folder, and what is wrong.
    """
    pseudonyms: set[str] | None = None
    unused = set(segmented.images.values()) - set(files.segmentations.values())
    alone = dict.fromkeys(unused, NOT_OURS) | segmented.problems
    for found in walk(folder, within):
        name = found.relative
        if found.trouble:
            alone[name] = found.trouble
        if not name.endswith((*VOLUMES, DRAWN)):
            if name.lower().endswith((*VOLUMES, DRAWN)):
                alone[name] = CAPITALS
            continue
        known = files.has_frame(name[: -len(DRAWN)]) if name.endswith(DRAWN) else files.has(nifti_stem(name))
        if not known and name.endswith(DRAWN):
            pseudonyms = shown() if pseudonyms is None else pseudonyms
            known = name[: -len(DRAWN)] in pseudonyms
        if not known:
            alone.setdefault(name, ALONE)
    return alone


def mask_files(folder: Path, place: FrameRef, name: str) -> list[Path]:
    """Files that hold the mask of an image, found by their names; more than one is a mistake.

    A PNG is named after the image's file or, as predictions are, after its pseudonym; a label volume after the file or
    after a folder that it is in.

    Args:
        folder: Where masks are.
        place: Which image it is.
        name: Its pseudonym.
    """
    stem = stem_of(place.relative)
    folders = [str(parent) for parent in PurePosixPath(stem).parents][:-1]
    names = [f"{stem}{place.number}{DRAWN}", *(f"{one}{ending}" for one in (stem, *folders) for ending in VOLUMES)]
    names += [f"{name}{DRAWN}", *[place.segmentation] * bool(place.segmentation)]
    return [folder / name for name in names if (folder / name).is_file()]


def read_mask_of(
    found: list[Path], folder: Path, within: Path, place: FrameRef, header: "Header", image: Pixels
) -> Image8:
    """Class numbers of an image: its own PNG, or what a label volume or a SEG has for it.

    Args:
        found: What `mask_files` found, at least one file.
        folder: Where masks are.
        within: The folder of the source, out of which no link may lead.
        place: Which image it is.
        header: Of its file.
        image: (H, W) or (H, W, 3).

    Returns:
        (H, W), as a rule.

    Raises:
        ImageError: There are several, or it cannot be used.
    """
    stem = stem_of(place.relative)
    if not all(inside(path, within) or inside(path, folder) for path in found):
        raise ImageError(f"its mask {ASTRAY}")
    if len(found) > 1:
        raise ImageError(f"more than one mask in {folder}; keep one, a PNG, a label volume or a segmentation")
    (path,) = found
    if place.namesake and path.name.startswith(PurePosixPath(stem).name) and not place.segmentation:
        raise ImageError("another file has the same name but for the extension; rename one, and its mask")
    shape = image.shape[0], image.shape[1]
    try:
        if place.segmentation:
            from ahm_env.images.formats.dicom.segmentations import read_marked

            return read_marked(path, header, place.index, shape)
        if path.suffix == DRAWN:
            return read_mask(path)
        lies = header.planes[min(place.index, len(header.planes) - 1)]
        return cut(path, lies, shape)
    except ImageError as error:
        raise ImageError(f"its mask: {str(error).removeprefix(f'{path}: ')}") from None


def cut(path: Path, lies: Plane | None, shape: tuple[int, int]) -> Image8:
    """Cut out the part of a label volume that lies on an image, pixel on voxel.

    Args:
        path: The volume.
        lies: The image's plane.
        shape: Its rows and columns.

    Returns:
        `shape`, class numbers.

    Raises:
        ImageError: The volume cannot be read, or its voxels do not lie on the pixels.
        SettingsError: nibabel is not installed.
    """
    if lies is None:
        raise ImageError(f"{path}: its image does not say where it lies in the patient; draw a mask as PNG instead")
    header = read_header(path)
    if header.volumes > 1:
        raise ImageError(f"{path}: holds {header.volumes} volumes; save it as one, of class numbers 0..255")
    if np.linalg.matrix_rank(header.ras_affine) < len(header.ras_affine):
        raise ImageError(f"{path}: its affine does not say where it lies; save it on the grid of the series")
    try:
        voxels = voxels_on(header.ras_affine, header.ras_shape, lies, shape)
    except ImageError as error:
        raise ImageError(f"{path}: {error}; {GRID}") from None
    status = path.stat()
    key = path, status.st_size, status.st_mtime_ns
    labels = _kept.get(key, lambda: class_numbers(header, read_volume(header)))
    return np.ascontiguousarray(labels[tuple(voxels)])
