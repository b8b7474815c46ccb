"""Phantoms: drawn dermoscopy with masks and three classes, for trying everything offline."""

from collections.abc import Iterator
from functools import partial

from ahm_env.errors import SettingsError
from ahm_env.images.dermoscopy import CLASSES, DRAWING, draw
from ahm_env.images.source import Catalogue, Load, Sample

COUNT, SEED = 1000, 0


class Phantom:
    """`phantom`, `phantom:COUNT` or `phantom:COUNT:SEED`; image i depends on seed, i and size only."""

    kind = "phantom"

    def __init__(self, spec: str, image_size: int) -> None:
        parts = spec.split(":")[1:]
        if (
            len(parts) > 2
            or not all(part.isascii() and part.isdigit() for part in parts)
            or parts[:1] == ["0"]
        ):
            raise SettingsError(
                f"{spec}: not phantom:COUNT:SEED; write for example phantom:1000 or phantom:1000:7"
            )
        self.count = int(parts[0]) if parts else COUNT
        self.seed = int(parts[1]) if len(parts) > 1 else SEED
        self.image_size = image_size

    def fingerprint(self) -> str:
        """The parameters, and the version of the drawing."""
        return f"phantom {DRAWING} {self.count} {self.seed} {self.image_size}"

    def catalogue(self) -> Catalogue:
        """Of ten images, the ninth is for validation and the tenth for the test."""
        return Catalogue(self.count, self._samples(), CLASSES, has_masks=True)

    def _samples(self) -> Iterator[Load]:
        for index in range(self.count):
            yield partial(self._load, index)

    def _load(self, index: int) -> Sample:
        image, mask, label = draw(self.seed, index, self.image_size)
        name = f"phantom_{index:06d}"
        return Sample(name, name, image, mask, label, split=max(0, index % 10 - 7))
