"""Which images count as labelled: the first N of an order in which every beginning is like the whole."""

import numpy as np

from ahm_env import ImageSet, SettingsError
from ahm_env.masks import Ints


def label_order(classes: Ints, seed: int) -> Ints:
    """An order of images by which the first N are a fair sample for every N, and contained in the first N + 1.

    Every class is spread evenly over the order; within a class, and between classes, chance decides.

    Args:
        classes: `(B,)` class numbers; -1, unknown, is a class like any other.
        seed: Decides.

    Returns:
        `(B,)` positions.
    """
    rng = np.random.default_rng(seed)
    places = np.empty(len(classes))
    for number in np.unique(classes):
        members = rng.permutation(np.flatnonzero(classes == number))
        places[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(places, kind="stable")


def choose_labelled(images: ImageSet, indices: Ints, count: int | None, seed: int) -> Ints:
    """The images that count as labelled: `count` of `indices`, or all; the smaller choice lies within the larger.

    Raises:
        SettingsError: There are fewer images than asked for.
    """
    if count is None:
        return indices
    if count > len(indices):
        raise SettingsError(
            f"--labels {count}: {images.source} has {len(indices)} labelled images to train on; ask for fewer, or all"
        )
    return np.sort(indices[label_order(images.labels(indices), seed)[:count]])
