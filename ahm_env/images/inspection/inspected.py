"""What `check_images` looks at in one image."""

import hashlib
from dataclasses import dataclass

import numpy as np

from ahm_env.images.pixels.fit import Image8, to_uint8
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import Pixels, Sample

SIDE = 32  # of a thumbnail, pixels
SHADES = 8  # that a mask may have; of 635 images of four real sets the least has 56
FEW = f"images of {SHADES} grey levels or fewer, as masks have; look at them, and put masks into a folder `masks`"
PLAIN = 3.0  # grey levels; of 5,649 images of four real sets the least has 6.7


@dataclass(frozen=True, slots=True, eq=False)
class Inspected:
    """What is known of an image once it has been looked at, in a kilobyte.

    Attributes:
        name: Name within the source.
        label: Class number, or -1.
        split: Index into `SPLITS`.
        patient: Pseudonym, or empty.
        size: (width, height) in pixels.
        pixel_type: Name of the NumPy type of its pixels.
        channels: 1 or 3; three equal channels count as 1.
        mask_pixels: Pixels of the mask by class number; None without a mask.
        plain: Whether it is nearly of one colour: the standard deviation of each channel, in 0..255, is below `PLAIN`.
        digest: 64 bits that images of the same pixels share.
        thumbnail: (SIDE, SIDE) uint8, grey.
        remarks: As of `Sample`, and whether it has as few grey levels as a mask.
    """

    name: str
    label: int
    split: int
    patient: str
    size: tuple[int, int]
    pixel_type: str
    channels: int
    mask_pixels: dict[int, int] | None
    plain: bool
    digest: int
    thumbnail: Image8
    remarks: tuple[str, ...]


def inspect_image(sample: Sample) -> Inspected:
    """Look at an image and its mask.

    Raises:
        ImageError: No value is finite.
    """
    image = to_uint8(sample.image)
    height, width = image.shape[:2]
    grey = np.asarray(image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    colour = image.ndim == 3 and not (image[..., :1] == image).all()
    plain = bool((cv2.meanStdDev(image)[1] < PLAIN).all())
    few = not plain and len(_pixels_by_class(grey)) <= SHADES
    return Inspected(
        name=sample.name,
        label=sample.label,
        split=sample.split,
        patient=sample.patient,
        size=(width, height),
        pixel_type=sample.image.dtype.name,
        channels=3 if colour else 1,
        mask_pixels=None if sample.mask is None else _pixels_by_class(sample.mask),
        plain=plain,
        digest=_digest(sample.image),
        thumbnail=np.asarray(cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8),
        remarks=(*sample.remarks, *(FEW,) * few),
    )


def _pixels_by_class(mask: Image8) -> dict[int, int]:
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    found = np.flatnonzero(counts)
    return dict(zip(found.tolist(), counts[found].tolist(), strict=True))


def _digest(image: Pixels) -> int:
    digest = hashlib.blake2b(f"{image.shape} {image.dtype.str}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(image).data)
    return int.from_bytes(digest.digest())
