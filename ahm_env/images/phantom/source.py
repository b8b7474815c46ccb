"""Phantoms: drawn dermoscopy with masks and three classes, for trying everything offline."""

import re
from collections.abc import Iterator
from functools import partial

import numpy as np

from ahm_env.errors import SettingsError
from ahm_env.images.phantom.dermoscopy import CLASSES, DRAWING, draw, label_of
from ahm_env.images.source import DatasetIndex, Decoded, Entries, Entry

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
        return DatasetIndex(self._count, Entries(self._entries, masks), CLASSES, has_masks=True)

    def _entries(self, masks: bool) -> Iterator[Entry]:
        for index in range(self._count):
            name = f"phantom_{index:06d}"
            yield Entry(
                name=name,
                path=name,
                decode=partial(self._decode, index),
                label=label_of(self._seed, index),
                split=max(0, index % 10 - 7),
                masks=masks,
            )

    def _decode(self, index: int) -> Decoded:
        image, mask, _ = draw(self._seed, index, self._image_size)
        return Decoded(image, partial(np.asarray, mask))
