"""Images cut to the lesion that a fine-tuned segmenter finds, so that a classifier looks at nothing else."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ahm_env import CheckpointError
from ahm_env.images.source import DatasetIndex, Decoded, Entries, Entry, Sample, Source
from downstream.evaluation.segmentation import segment
from downstream.models.model import Model

SEGMENTER_FILE = "segmenter.safetensors"  # beside a classifier that looks at crops
MARGIN = 0.15  # of the lesion's longer side, on each side
SMALLEST = 0.125  # of the image's longer side: smaller finds are enlarged to this


class Cropped:
    """A source whose images are cut to what a segmenter finds in them.

    Args:
        source: The images.
        segmenter: A model of segmentation.
        name: Of the source, as the user gave it.
    """

    kind = "cropped"

    def __init__(self, source: Source, segmenter: Model, name: str) -> None:
        self._source, self._segmenter, self._name = source, segmenter, name

    def __str__(self) -> str:
        return self._name

    def fingerprint(self) -> str:
        """Return a fingerprint of the images and of the segmenter that crops them."""
        digest = hashlib.sha256(repr(self._segmenter.spec).encode())
        for tensor in self._segmenter.network.state_dict().values():
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        segmenter = f"{self._segmenter.precision} {digest.hexdigest()}"
        return f"{self.kind} {MARGIN} {SMALLEST} {segmenter} {self._source.fingerprint()}"

    def index(self, masks: bool = True) -> DatasetIndex:
        """List what the source holds, without masks, of which none is opened."""
        index = self._source.index(masks=False)
        return replace(index, samples=Entries(self._entries, index.samples), has_masks=False)

    def _entries(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        for entry in entries:
            yield replace(entry, decode=partial(self._decode, entry))

    def _decode(self, entry: Entry) -> Decoded | None:
        sample = entry()
        return None if sample is None else Decoded(crop(sample, self._segmenter).image)


def crop(sample: Sample, segmenter: Model) -> Sample:
    """One image cut to what the segmenter finds in it, without its mask."""
    (found,) = segment(segmenter, [sample])
    top, left, height, width = lesion_box(found.mask > 0)
    return replace(sample, image=sample.image[top : top + height, left : left + width], mask=None, later=None)


def lesion_box(found: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the square around what was found, with a margin; of everything if nothing was."""
    height, width = found.shape
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    if rows.size == 0:
        return 0, 0, height, width
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    side = round(max(longer * (1 + 2 * MARGIN), SMALLEST * max(height, width)))
    middle = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
    top, left = (round(float(centre) - side / 2) for centre in middle)
    bottom, right = min(top + side, height), min(left + side, width)
    top, left = max(top, 0), max(left, 0)
    return top, left, bottom - top, right - left


def load_segmenter(path: Path, device: str | torch.device = "cpu", precision: str = "auto") -> Model:
    """Load the segmenter of a directory that `ahm finetune` wrote.

    Raises:
        CheckpointError: The directory holds no segmenter, or a damaged one.
    """
    model = Model.load(path, device, precision)
    if model.spec.task != "segmentation":
        raise CheckpointError(f"{path}: holds a classifier, not a segmenter; give one of --task segmentation")
    return model


def load_tuned(path: Path, device: str | torch.device, precision: str = "auto") -> tuple[Model, Model | None]:
    """Load a model that `ahm finetune` wrote, and, for a classifier of lesions, the segmenter that finds them.

    Args:
        path: The directory, or the file of the model in it.
        device: Where to compute.
        precision: Of the networks' layers.

    Raises:
        CheckpointError: A file, maybe that of the segmenter, is missing, damaged, or something else.
    """
    model = Model.load(path, device, precision)
    directory = path if path.is_dir() else path.parent
    segmenter = directory / SEGMENTER_FILE
    return model, load_segmenter(segmenter, model.device, precision) if model.spec.cropped else None
