"""Results in the form that images came in: a NIfTI volume for a volume, a DICOM SEG for a DICOM series.

Masks are gathered from the PNGs of the images, so that what an earlier run predicted counts, and memory holds those of
one volume or series only.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from ahm_env import ImageError
from ahm_env.images.formats.dicom.seg_writer import (
    NoPlaceError,
    Series,
    find_series,
    is_segmentation_of,
    need_highdicom,
    save_segmentation,
    without_copies,
    without_repeats,
)
from ahm_env.images.formats.dicom.source import Dicom
from ahm_env.images.formats.files import image_stem, is_image
from ahm_env.images.formats.nifti.mask_volume import save_mask
from ahm_env.images.formats.nifti.names import nifti_stem
from ahm_env.images.formats.nifti.source import Nifti
from ahm_env.images.formats.pictures.picture import read_mask
from ahm_env.images.source import Entry, Sample
from downstream.evaluation.segmentation import Mask
from downstream.evaluation.tested import class_numbers
from downstream.models.model import ModelSpec
from downstream.prediction.inputs import Incoming, Problem

MASKS = "masks"
BAD = "some of its images could not be used; mend them, and the same command adds it"


class Returning:
    """Gives masks back in the form that images came in, as soon as all that belong together are there.

    Args:
        out: Directory of the predictions.
        spec: Of the model; unless it segments, nothing is given back.
        model: Digest of its weights.
        images: All of them.

    Attributes:
        files: Of each image the file that it was given back in; complete at the end.
        notes: What could not be given back, but for no fault.

    Raises:
        SettingsError: highdicom is needed, and missing.
    """

    def __init__(self, out: Path, spec: ModelSpec, model: str, images: Incoming) -> None:
        self._masks, self._spec, self._model, self._images = out / MASKS, spec, model, images
        self._returns = spec.task == "segmentation"
        self._volumes = groupby(images.entries(Nifti.kind) if self._returns else (), lambda entry: entry.file)
        self._next = self._next_volume()
        self._files, self._empty, self._bad = dict[str, Path | None](), set[str](), set[str]()
        self.files: list[dict[str, str]] = []
        self.notes: list[str] = []
        if self._returns and any(one.source.kind == Dicom.kind for one in images.inputs):
            need_highdicom()

    def loaded(self, entry: Entry, found: Sample | ImageError | None) -> None:
        """Note what came of an image, in the order of all images."""
        if isinstance(found, Sample):
            self._files[entry.name] = entry.file
        else:
            (self._empty if found is None else self._bad).add(entry.name)

    def written(self, name: str) -> Iterator[Problem | None]:
        """Note that an image's mask is written; save the volumes before it, now complete, and yield their problems."""
        file = self._files.pop(name)
        while self._next is not None and file != self._next[0] and not (file is not None and is_image(file.name)):
            yield self._save_volume(*self._next)
            self._next = self._next_volume()

    def rest(self) -> Iterator[Problem | None]:
        """Give back all that is left, one volume or series a step; gives its problem, if it has one."""
        while self._next is not None:
            yield self._save_volume(*self._next)
            self._next = self._next_volume()
        entries = self._images.entries(Dicom.kind) if self._returns else ()
        frames = ((entry.name, entry.file) for entry in entries if entry.file and entry.name not in self._empty)
        for name, series in find_series(frames).items():
            yield self._save_series(name, series)

    def _next_volume(self) -> tuple[Path, list[str]] | None:
        """Find the next volume, and the names of its slices."""
        for file, entries in self._volumes:
            names = [entry.name for entry in entries if not entry.trouble]
            if file is not None and names:
                return file, names
        return None

    def _save_volume(self, file: Path, names: list[str]) -> Problem | None:
        path = self._masks / f"{nifti_stem(file.name)}.nii.gz"
        try:
            if not self._bad.isdisjoint(names):
                raise ImageError(f"{file}: {path.name} is not written: {BAD}")
            if not path.exists():
                values = np.asarray(self._spec.values, np.uint8)
                masks = [None if mask is None else values[mask] for mask in map(self._mask, names)]
                save_mask(path, file, masks, self._spec.pixels.axis, int(values[0]))
            self._given(path, names)
        except ImageError as error:
            return file.name, str(error)
        finally:
            self._empty.difference_update(names)
        return None

    def _save_series(self, name: str, series: Series) -> Problem | None:
        path, names = self._masks / f"{name}.seg.dcm", [image for source in series for image in source.names]
        if self._bad.issuperset(names):
            return None  # warned of when they were loaded
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
                    save_segmentation(
                        path,
                        part,
                        [mask for mask in masks if mask is not None],
                        self._spec.classes,
                        self._spec.model,
                        self._model,
                    )
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
        path = self._masks / f"{image_stem(name)}.png"
        mask = read_mask(path)
        return class_numbers(Sample(name, str(path), mask, mask), self._spec.values)
