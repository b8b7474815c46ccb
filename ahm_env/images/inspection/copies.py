"""Images that are there twice, to the pixel or nearly, and names that differ in case or Unicode form only.

Whether two images are nearly the same is seen on thumbnails of 32 x 32 pixels, less their Gaussian blur: a correlation
of these says the same fine structure in the same place, at any size, compression and brightness. Pairs need not be
compared one by one: an image is compared with its neighbours among the others in sorted order of hashes, several times
with the bits in other orders (Charikar, STOC 2002), which takes a time that grows with n log n.
"""

import os
import unicodedata
from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import SupportsInt

import numpy as np
import numpy.typing as npt

from ahm_env.images.dataset.patients import digest
from ahm_env.images.inspection.inspected import SIDE, Inspected
from ahm_env.images.pixels.fit import Image8
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import SPLITS

NEAR = 0.96  # correlation from which two images are nearly the same
BLUR, FAINT = 2.0, 1.0  # pixels, and grey levels: what has less structure is compared with nothing
BITS, TURNS, WINDOW = 128, 16, 4  # of hashes; orders of their bits; neighbours on either side
BATCH, SAMPLE = 512, 4096  # images at a time, and from which the mean structure is estimated
_ONES = np.array([number.bit_count() for number in range(256)], np.uint8)

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Twins:
    """Images that are like others.

    Attributes:
        count: How many there are.
        pairs: The first few, each with one that it is like: names, with their splits where those differ.
    """

    count: int
    pairs: tuple[tuple[str, str], ...]


class Copies(ExitStack):
    """What of all images is compared; on disk but for some bytes an image. Close it, or use it in a `with` block.

    Args:
        most: Pairs that are named.
    """

    def __init__(self, most: int = 5) -> None:
        super().__init__()
        self._most = most
        self._thumbnails = self.enter_context(TemporaryFile())  # noqa: SIM115 (it is entered)
        self._names = self.enter_context(TemporaryFile())  # noqa: SIM115
        self._ends = array("Q", [0])
        self._digests, self._stems = array("Q"), array("Q")
        self._splits, self._plain = bytearray(), bytearray()

    def add(self, image: Inspected) -> None:
        """Take in one more image."""
        name = os.fsencode(image.name)
        self._names.write(name)
        self._ends.append(self._ends[-1] + len(name))
        self._thumbnails.write(image.thumbnail.tobytes())
        self._digests.append(image.digest)
        self._stems.append(digest(unicodedata.normalize("NFKC", os.path.splitext(image.name)[0]).casefold()))
        self._splits.append(image.split)
        self._plain.append(image.plain)

    def named_alike(self) -> Twins:
        """Images whose names differ from another's in case or Unicode form only."""
        stems = np.frombuffer(self._stems, np.uint64)
        order = np.argsort(stems, kind="stable")
        again = np.flatnonzero(stems[order[1:]] == stems[order[:-1]])
        return self._twins(order[again + 1], order[again])

    def same(self) -> tuple[Twins, Twins]:
        """Images with the very pixels of another: of another split, and of their own; plain ones left out."""
        found, first, before = self._same()
        splits = self.splits
        across = splits[found] != splits[first]
        within = splits[found] == splits[before]
        return self._twins(found[across], first[across]), self._twins(found[within], before[within])

    def near(self) -> Twins:
        """Images nearly the same as one of another split, but not to the pixel; plain ones left out."""
        splits = self.splits
        if len(np.unique(splits)) < 2:
            return Twins(0, ())
        hashes, compared = self._hashes()
        found, first, _ = self._same()
        compared[found[splits[found] != splits[first]]] = False
        pairs = list[tuple[SupportsInt, SupportsInt]]()
        for split in range(1, len(SPLITS)):
            asked = np.flatnonzero(compared & (splits == split))
            others = np.flatnonzero(compared & (splits < split))
            if len(asked) and len(others):
                nearest = others[_nearest(hashes[asked], hashes[others])]
                pairs += [pair for pair in zip(asked, nearest, strict=True) if self._alike(*pair)]
        images, twins = np.array(pairs, np.int64).reshape(-1, 2).T
        return self._twins(images, twins)

    @property
    def splits(self) -> npt.NDArray[np.uint8]:
        """Splits of all images, `(N,)` indices into `SPLITS`."""
        return np.frombuffer(self._splits, np.uint8)

    def _same(self) -> tuple[Indices, Indices, Indices]:
        """Images of the pixels of an earlier one (of an earlier split, too), the first, and the one before them."""
        digests = np.frombuffer(self._digests, np.uint64)
        kept = np.flatnonzero(np.frombuffer(self._plain, np.uint8) == 0)
        order = kept[np.lexsort((self.splits[kept], digests[kept]))]
        new = np.diff(digests[order], prepend=~digests[order[:1]]) != 0
        first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
        again = np.flatnonzero(~new)
        return order[again], first[again], order[again - 1]

    def _twins(self, images: Indices, twins: Indices) -> Twins:
        shown = np.argsort(images)[: self._most]
        return Twins(len(images), tuple(self._told(*pair) for pair in zip(images[shown], twins[shown], strict=True)))

    def _told(self, image: int, twin: int) -> tuple[str, str]:
        pair = image, twin
        splits = {self._splits[index] for index in pair}
        names = [self._name(index) + f" ({SPLITS[self._splits[index]]})" * (len(splits) > 1) for index in pair]
        return names[0], names[1]

    def _name(self, index: int) -> str:
        self._names.seek(self._ends[index])
        return os.fsdecode(self._names.read(self._ends[index + 1] - self._ends[index]))

    def _structure(self, start: int, count: int = BATCH) -> Floats:
        self._thumbnails.seek(start * SIDE * SIDE)
        content = np.frombuffer(self._thumbnails.read(count * SIDE * SIDE), np.uint8)
        return fine_structure(content.reshape(-1, SIDE, SIDE))

    def _hashes(self) -> tuple[Words, npt.NDArray[np.bool_]]:
        """Signs of random projections, `(B, BITS / 64)`, and which images have structure enough to be compared."""
        count = len(self._splits)
        steps = range(0, count, BATCH)
        sample = steps[:: max(1, len(steps) * BATCH // SAMPLE)]
        mean = sum(unit(self._structure(start)).mean(axis=0) for start in sample) / np.float32(len(sample))
        directions = np.random.default_rng(0).standard_normal((SIDE * SIDE, BITS)).astype(np.float32)
        hashes, compared = np.empty((count, BITS // 64), np.uint64), np.frombuffer(self._plain, np.uint8) == 0
        for start in steps:
            fine = self._structure(start)
            bits = np.packbits((unit(fine) - mean) @ directions > 0, axis=1)
            hashes[start : start + len(fine)] = bits.view(np.uint64)
            compared[start : start + len(fine)] &= fine.std(axis=1) >= FAINT
        return hashes, compared

    def _alike(self, *pair: SupportsInt) -> bool:
        one, two = (unit(self._structure(int(image), 1))[0] for image in pair)
        return float(one @ two) >= NEAR


def fine_structure(thumbnails: Image8) -> Floats:
    """Thumbnails `(B, SIDE, SIDE)` less what is coarse in them, of mean 0, `(B, SIDE * SIDE)`."""
    images = thumbnails.astype(np.float32)
    fine = np.stack([image - cv2.GaussianBlur(image, (0, 0), BLUR) for image in images]).reshape(len(images), -1)
    return np.asarray(fine - fine.mean(axis=1, keepdims=True), np.float32)


def unit(fine: Floats) -> Floats:
    """Scale rows to length 1, so that their products are correlations."""
    return np.asarray(fine / (np.linalg.norm(fine, axis=1, keepdims=True) + 1e-6), np.float32)


def _nearest(asked: Words, others: Words) -> Indices:
    """Which of the others has, of those that were looked at, the fewest bits unlike each of these hashes."""
    best, least = np.zeros(len(asked), np.int64), np.full(len(asked), BITS + 1, np.int64)
    for turn in range(TURNS):
        bits = turn * BITS // TURNS
        keys = _turned(others, bits)
        order = np.argsort(keys)
        place = np.searchsorted(keys[order], _turned(asked, bits))
        for step in range(-WINDOW, WINDOW):
            seen = order[(place + step).clip(0, len(order) - 1)]
            unlike = _ONES[(asked ^ others[seen]).view(np.uint8)].sum(axis=1, dtype=np.int64)
            closer = unlike < least
            best[closer], least[closer] = seen[closer], unlike[closer]
    return best


def _turned(hashes: Words, bits: int) -> Words:
    """64 bits of each hash, from a bit onwards and round."""
    word, shift = divmod(bits, 64)
    first, second = hashes[:, word], hashes[:, (word + 1) % hashes.shape[1]]
    return first << np.uint64(shift) | second >> np.uint64(64 - shift) if shift else first
