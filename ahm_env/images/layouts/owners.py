"""Which image a mask is of, by the names of both and of their folders."""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from ahm_env.images.formats.files import images_of_mask

Key = tuple[str, tuple[str, ...], str]  # split, folders that say neither that nor what is in them, stem


@dataclass(frozen=True, slots=True)
class File:
    """An image or a mask.

    Attributes:
        path: Where it is.
        key: By what it is found.
        drawn: Whether its folder is one of masks.
    """

    path: Path
    key: Key
    drawn: bool

    def named(self, stem: str) -> Key:
        """Return the key of a file in the same place."""
        return (*self.key[:2], stem)

    def images(self) -> list[Key]:
        """List the keys that its image may have, if it is called as a mask among images is."""
        return [self.named(stem) for stem in images_of_mask(self.key[2])]


class Owners:
    """The images that masks may be of."""

    def __init__(self, images: Set[Key], scans: Set[Key]) -> None:
        """Note where there are images, and by which stems.

        Args:
            images: Keys of all images.
            scans: Keys of what several scans share.
        """
        self._keys = images | scans
        self._places = {key[:2] for key in images}
        self._splits = {key[0] for key in images}
        self._folders = {folder for _, place, _ in images for folder in place}
        self._stems: Mapping[str, list[Key]] = defaultdict(list)
        for key in images:
            self._stems[key[2]].append(key)

    def of(self, masks: Sequence[File]) -> list[list[Key]]:
        """Find the key of the image of each mask, or of all its scans; none if there is none, several if unclear.

        Where there are both, `a_mask_1` is of `a_1`, or one of the masks of `a`, as all others with numbers are.
        """
        fits = [self._fits(mask) for mask in masks]
        names = [images_of_mask(mask.key[2]) for mask in masks]
        clear = [(some[0][2], two) for some, two in zip(fits, names, strict=True) if len(some) == 1 and len(two) == 2]
        ways = {two.index(stem) for stem, two in clear if stem in two}
        if len(ways) != 1:
            return fits
        way = ways.pop()
        return [
            [key for key in some if key[2] == two[way]] if len(some) > 1 and len(two) == 2 else some
            for some, two in zip(fits, names, strict=True)
        ]

    def _fits(self, mask: File) -> list[Key]:
        """List what a mask may be of: what is called as it is, or else what its name says.

        Only a mask in whose place there are no images, as in a folder of masks of all splits, is of one elsewhere.
        """
        here = mask.key[:2] in self._places
        for keys in ([mask.key], mask.images()):
            found = [one for key in keys for one in ([key] if here else self._elsewhere(mask, key[2]))]
            if fitting := [key for key in found if key in self._keys]:
                return fitting
        return []

    def _elsewhere(self, mask: File, stem: str) -> list[Key]:
        """List the images of a stem that lie where those of a mask can: in its split and its folders, if any do.

        A mask of `siteB/masks` is of no image of `siteA/images`; but one of `lungMasks` may be of one of `scans`.
        """
        split, place, _ = mask.key
        splits = {split if split in self._splits else ""} if split else self._splits
        folders = self._folders.intersection(place)
        # what is left of a name such as lungMasks is the name of no folder
        strange = not self._folders.issuperset(folder for folder in place if folder in mask.path.parts)
        return [
            key
            for key in self._stems.get(stem, ())
            if key[0] in splits and folders <= set(key[1]) and not (strange and set(key[1]).difference(place))
        ]
