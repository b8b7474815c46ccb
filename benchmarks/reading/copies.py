"""How well copies are told from other images: `python -m benchmarks.reading.copies ../shared/data/*`.

Of each set: the highest correlations between images of different patients that are below the threshold, and the pairs
above it, to be looked at; then, of the changed copies of a hundred images, how many lie above the threshold and how
many of these are found.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
from rich.console import Console
from rich.table import Table

from ahm_env.images.dataset.builder import for_each
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.inspection.copies import NEAR, Copies, fine_structure, unit
from ahm_env.images.inspection.inspected import Inspected, inspect_image
from ahm_env.images.pixels.fit import Image8, PixelSettings, to_uint8
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import DatasetIndex, Decoded, Entry, Pixels

COPIED = 100  # images of a set
CHANGES = {
    "JPEG, quality 30": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 0),
    "half the size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_LINEAR),
    "1.4 times the size": lambda image: cv2.resize(image, None, fx=1.4, fy=1.4, interpolation=cv2.INTER_CUBIC),
    "noise of 8 grey levels": lambda image: _bytes(image + np.random.default_rng(0).normal(0, 8, image.shape)),
    "10 % brighter": lambda image: _bytes(image * 1.1 + 10),
    "gamma 0.8": lambda image: _bytes(255 * (image / 255) ** 0.8),
    "1 % cut off each side": lambda image: _cropped(image, 0.01),
    "one pixel to the side": lambda image: np.roll(image, 1, axis=1),
    "mirrored": lambda image: image[:, ::-1],
}


def main() -> None:
    """Measure and print."""
    console = Console()
    for source in sys.argv[1:]:
        index = find_source(source, PixelSettings()).index(masks=False)
        images = [image for image in for_each(index, inspect_image) if isinstance(image, Inspected)]
        print_correlations(console, source, images)
        samples = islice(
            find_source(source, PixelSettings()).index(masks=False).samples, 0, None, len(images) // COPIED
        )
        print_copies(console, images, list(samples))


def print_correlations(console: Console, source: str, images: list[Inspected]) -> None:
    """Print the highest correlations of images that are not known to show the same patient."""
    fine = unit(fine_structure(np.stack([image.thumbnail for image in images])))
    patients = np.array([image.patient or f"image {number}" for number, image in enumerate(images)])
    correlations = np.where(patients[:, None] == patients, -1, fine @ fine.T)
    first, second = np.triu_indices(len(images), 1)
    values = correlations[first, second]
    order = np.argsort(-values)
    near = int((values >= NEAR).sum())
    below = ", ".join(f"{value:.3f}" for value in values[order[near : near + 8]])
    console.print(f"{source}: {len(images):,} images; {near} pairs of {NEAR} or more; the next {below}")
    for pair in order[:near]:
        names = (f"{images[at].name} (split {images[at].split})" for at in (first[pair], second[pair]))
        console.print(f"  {values[pair]:.4f}  {'  '.join(names)}")


def print_copies(console: Console, images: list[Inspected], samples: list[Entry]) -> None:
    """Print how many changed copies are above the threshold and found, all images being of one split."""
    table = Table("copies", "made", f"correlation {NEAR} or more", "found")
    fine = unit(fine_structure(np.stack([image.thumbnail for image in images])))
    for name, change in CHANGES.items():
        changed = [replace(load, decode=partial(_copy, load, change)) for load in samples]
        copies = for_each(DatasetIndex(len(changed), changed), inspect_image)
        made = [copy for copy in copies if isinstance(copy, Inspected)]
        thumbnails = np.stack([copy.thumbnail for copy in made])
        above = (unit(fine_structure(thumbnails)) @ fine.T).max(axis=1) >= NEAR
        with Copies() as compared:
            for image in images:
                compared.add(replace(image, split=0))
            for copy in made:
                compared.add(replace(copy, split=2))
            table.add_row(name, str(len(made)), str(above.sum()), str(compared.near().count))
    console.print(table)


def _copy(load: Entry, change: Callable[[Image8], Image8]) -> Decoded:
    sample = load()
    assert sample is not None
    image = to_uint8(sample.image)
    grey = image if image.ndim == 2 else _bytes(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    return Decoded(np.ascontiguousarray(change(grey)))


def _bytes(values: Pixels) -> Image8:
    return np.clip(values, 0, 255).astype(np.uint8)


def _cropped(image: Image8, share: float) -> Image8:
    cut = max(1, round(share * image.shape[0]))
    return image[cut:-cut, cut:-cut]


if __name__ == "__main__":
    main()
