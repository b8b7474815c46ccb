"""Results in the form that images came in: a NIfTI volume for a volume, a DICOM SEG for a DICOM series.

Masks are gathered from the PNGs of the images, so that what an earlier run predicted counts, and memory holds those of
one volume or series only.
"""

import gzip
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ahm_env import ImageError
from ahm_env.files import atomic
from ahm_env.images.decoding import read_mask
from ahm_env.images.nifti import from_slices, to_slice
from ahm_env.images.nifti.volume import KINDS, QUIET, STARTS, read_header
from ahm_env.images.pixels import AXES
from ahm_env.images.source import Sample
from downstream.evaluation.segmentation import Mask
from downstream.evaluation.tested import class_numbers
from downstream.models.model import ModelSpec
from downstream.prediction.dicom_seg import (
    NoPlaceError,
    Series,
    find_series,
    is_segmentation_of,
    need_highdicom,
    save_segmentation,
    without_copies,
    without_repeats,
)
from downstream.prediction.inputs import DicomTree, Group, NiftiFile, Problem, stem

MASKS = "masks"
LEVEL = 6  # of compression
BAD = "some of its images could not be used; mend them, and the same command adds it"
# Of a header, the numbers that say where its volume lies; no text, which may tell whom it shows.
PLACE = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


class Returning:
    """Gives masks back in the form that images came in, as soon as all that belong together are there.

    Args:
        out: Directory of the predictions.
        spec: Of the model; unless it segments, nothing is given back.
        model: Digest of its weights.
        groups: All images.

    Attributes:
        files: Of each image the file that it was given back in; complete at the end.
        notes: What could not be given back, but for no fault.

    Raises:
        SettingsError: highdicom is needed, and missing.
    """

    def __init__(self, out: Path, spec: ModelSpec, model: str, groups: Sequence[Group]) -> None:
        self._masks, self._card, self._model = out / MASKS, spec, model
        chosen = groups if spec.task == "segmentation" else ()
        self._volumes = deque((place, group) for place, group in enumerate(chosen) if isinstance(group, NiftiFile))
        self._trees = [group for group in chosen if isinstance(group, DicomTree)]
        self._places, self._empty, self._bad = dict[str, int](), set[str](), set[str]()
        self.files: list[dict[str, str]] = []
        self.notes: list[str] = []
        if self._trees:
            need_highdicom()

    def loaded(self, place: int, name: str, found: Sample | ImageError | None) -> None:
        """Note what came of an image, in the order of the groups; `place` is the number of its group."""
        if isinstance(found, Sample):
            self._places[name] = place
        else:
            (self._empty if found is None else self._bad).add(name)

    def written(self, name: str) -> Iterator[Problem | None]:
        """Note that an image's mask is written; save the volumes before it, now complete, and yield their problems."""
        place = self._places.pop(name)
        while self._volumes and self._volumes[0][0] < place:
            yield self._save_next_volume()

    def rest(self) -> Iterator[Problem | None]:
        """Give back all that is left, one volume or series a step; gives its problem, if it has one."""
        while self._volumes:
            yield self._save_next_volume()
        frames = (frame for tree in self._trees for frame in tree.frames() if frame[0] not in self._empty)
        for name, series in find_series(frames).items():
            yield self._save_series(name, series)

    def _save_next_volume(self) -> Problem | None:
        _, group = self._volumes.popleft()
        if isinstance(group.volume, ImageError):
            return None
        names = [name for name, _ in group.images()]
        path = self._masks / f"{group.volume.stem}.nii.gz"
        try:
            if not self._bad.isdisjoint(names):
                raise ImageError(f"{group.path}: {path.name} is not written: {BAD}")
            if not path.exists():
                save_volume(path, group, [self._mask(name) for name in names], self._card.values)
            self._given(path, names)
        except ImageError as error:
            return group.path.name, str(error)
        finally:
            self._empty.difference_update(names)
        return None

    def _save_series(self, name: str, series: Series) -> Problem | None:
        path, names = self._masks / f"{name}.seg.dcm", [image for source in series for image in source.names]
        if self._bad.issuperset(names):
            return None  # told when they were loaded
        try:
            if not self._bad.isdisjoint(names):
                raise ImageError(f"not written: {BAD}")
            kept, copies = without_copies(series)
            if copies:
                cause = "have the SOP Instance UID of another image and are taken for copies of it"
                self.notes.append(f"{path}: {copies:,} images {cause}; their masks are PNGs only")
            for number, part in enumerate(without_repeats(kept)):
                path = self._masks / (f"{name}_{number + 1}.seg.dcm" if number else f"{name}.seg.dcm")
                if not is_segmentation_of(path, part):
                    masks = [self._mask(image) for source in part for image in source.names]
                    save_segmentation(path, part, [mask for mask in masks if mask is not None], self._card, self._model)
                self._given(path, [image for source in part for image in source.names])
        except NoPlaceError as error:
            self.notes.append(f"{path}: not written: {error}; the masks of its {len(names):,} images are PNGs only")
        except ImageError as error:
            return path.name, f"{path}: {error} (masks of its {len(names):,} images: {names[0]}.png …)"
        return None

    def _given(self, path: Path, names: Sequence[str]) -> None:
        seen = (name for name in names if name not in self._empty)
        self.files += [{"image": name, "file": f"{MASKS}/{path.name}"} for name in seen]

    def _mask(self, name: str) -> Mask | None:
        """Class numbers of an image; None where it shows nothing."""
        if name in self._empty:
            return None
        path = self._masks / f"{stem(name)}.png"
        mask = read_mask(path)
        return class_numbers(Sample(name, str(path), mask, mask), self._card.values)


def save_volume(path: Path, group: NiftiFile, slices: Sequence[Mask | None], values: Sequence[int]) -> None:
    """Write masks of slices as a volume that lies where that of the images lies, voxel on voxel.

    Args:
        path: File to write, `.nii.gz`.
        group: The images.
        slices: `(H, W)` class numbers of each slice; None is background.
        values: What stands for each class.

    Raises:
        ImageError: The images have changed since they were predicted.
    """
    assert not isinstance(group.volume, ImageError)
    header, axis = read_header(group.path), group.volume.axis
    blank = to_slice(np.zeros(header.ras_shape, np.uint8), axis, 0)
    found = [blank if one is None else one for one in slices]
    if len(found) != header.ras_shape[AXES.index(axis)] or any(one.shape != blank.shape for one in found):
        raise ImageError(f"{group.path}: has changed since its slices were predicted; choose another --out")
    volume = header.from_ras(np.asarray(values, np.uint8)[from_slices(found, axis)])
    target = _placed_like(group.path, header.shape)
    content = _nibabel().Nifti1Image if target["sizeof_hdr"] == min(KINDS) else _nibabel().Nifti2Image
    with atomic(path) as temporary, temporary.open("wb") as file, gzip.GzipFile("", "wb", LEVEL, file, 0) as stream:
        stream.write(content(volume, None, target).to_bytes())


def _placed_like(path: Path, shape: tuple[int, ...]) -> Any:
    """Make a header for class numbers that lie where the volume of a file lies; nothing else of the file is kept."""
    with _nibabel().openers.ImageOpener(str(path)) as file:
        block = file.read(max(KINDS))
    size, order = STARTS[block[:4]]
    kind = _nibabel().Nifti1Header if size == min(KINDS) else _nibabel().Nifti2Header
    source, target = kind(block[:size], endianness=order, check=False), kind()
    source.check_fix(logger=QUIET, error_level=logging.ERROR)
    target.set_data_dtype(np.uint8)
    target.set_data_shape(shape)
    for name in PLACE:
        target[name] = source[name]
    return target


def _nibabel() -> Any:
    return import_module("nibabel")
