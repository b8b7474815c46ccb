"""Which images count as labelled: the first N of an order in which every beginning is like the whole."""

import numpy as np

from ahm_env import ImageSet, SettingsError
from ahm_env.masks import Ints


def label_order(classes: Ints, seed: int) -> Ints:
    """An order of images by which the first N are a fair sample for every N, and contained in the first N + 1.

    Of a class of B_k among B images, the first N hold less than one image more or fewer than its share N·B_k/B: the one
    that must come soonest of those that may come already, as in the scheduling of periodic tasks by earliest deadline
    (Liu, Layland, J. ACM 1973). Which images of a class come first is left to chance, and so are ties between classes.

    Args:
        classes: `(B,)` class numbers; -1, unknown, is a class like any other.
        seed: Decides.

    Returns:
        `(B,)` positions.
    """
    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(classes == number)) for number in rng.permutation(np.unique(classes))]
    sizes, total = np.array([len(some) for some in members], np.int64), len(classes)
    taken, order = np.zeros_like(sizes), np.empty(total, np.int64)
    for place in range(total):
        latest = -(-(taken + 1) * total // sizes)
        chosen = np.where(taken * total < sizes * (place + 1), latest, total + 1).argmin()
        order[place] = members[chosen][taken[chosen]]
        taken[chosen] += 1
    return order


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
