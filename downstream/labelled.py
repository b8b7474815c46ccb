"""Which images count as labelled: the first N of an order that takes one image of each patient after the other."""

import numpy as np

from ahm_env import ImageSet, SettingsError
from ahm_env.images.patients import round_robin
from ahm_env.masks import Ints


def choose_labelled(images: ImageSet, indices: Ints, count: int | None, seed: int, stratified: bool = False) -> Ints:
    """The images that count as labelled: `count` of `indices`, or all; the smaller choice lies within the larger.

    No mask and no class is looked at: who labels images chooses them before knowing what is on them.

    Args:
        images: The set.
        indices: Images that have what it takes.
        count: How many; None is all.
        seed: Decides.
        stratified: Look at the classes after all, so that each has its share: for comparisons of methods only.

    Raises:
        SettingsError: There are fewer images than asked for.
    """
    if count is None:
        return indices
    if count > len(indices):
        raise SettingsError(
            f"--labels {count}: {images.source} has {len(indices)} labelled images to train on; ask for fewer, or all"
        )
    classes = images.labels(indices) if stratified else None
    return np.sort(indices[round_robin(images.patients(indices), seed, classes)[:count]])
