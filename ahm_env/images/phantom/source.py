"""Phantoms: drawn dermoscopy with masks and three classes, for trying everything offline."""

import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from ahm_env.errors import SettingsError
from ahm_env.images.phantom.dermoscopy import CLASSES, DRAWING, draw
from ahm_env.images.source import DatasetIndex, Entry, Sample

COUNT, SEED = 1000, 0
SPELLING = re.compile(r"phantom(?::([1-9][0-9]{0,8})(?::([0-9]{1,18}))?)?")


class Phantom:
    """`phantom`, `phantom:COUNT` or `phantom:COUNT:SEED`; image i depends on seed, i and size only."""

    kind = "phantom"

    def __init__(self, spec: str, image_size: int) -> None:
        """Read the spec.

        Raises:
            SettingsError: It is misspelt.
        """
        found = SPELLING.fullmatch(spec)
        if found is None:
            raise SettingsError(f"{spec}: not phantom:COUNT:SEED; write for example phantom:1000 or phantom:1000:7")
        self._count, self._seed = int(found[1] or COUNT), int(found[2] or SEED)
        self._image_size = image_size

    def fingerprint(self) -> str:
        """State the parameters, and the version of the drawing."""
        return f"phantom {DRAWING} {self._count} {self._seed} {self._image_size}"

    def index(self, masks: bool = True) -> DatasetIndex:
        """Of ten images, the ninth is for validation and the tenth for the test."""
        return DatasetIndex(self._count, self._samples(masks), CLASSES, has_masks=True)

    def _samples(self, masks: bool) -> Iterator[Entry]:
        for index in range(self._count):
            yield partial(self._load, index, masks)

    def _load(self, index: int, masks: bool) -> Sample:
        image, mask, label = draw(self._seed, index, self._image_size)
        name = f"phantom_{index:06d}"
        sample = Sample(name, name, image, None, label, split=max(0, index % 10 - 7), later=partial(np.asarray, mask))
        return sample.with_mask() if masks else sample
