"""Which images a model can be tested on: those that have what its task needs."""

from ahm_env import ImageSet
from ahm_env.masks import Ints


def usable(task: str, images: ImageSet, indices: Ints) -> Ints:
    """Those of the images that have what a task needs: a mask, or a label."""
    if task == "classification":
        return indices[images.labels(indices) >= 0] if indices.size else indices
    return indices[images.masked(indices)] if indices.size else indices


def find_tested(task: str, images: ImageSet) -> tuple[str, Ints]:
    """Name and images of the split to test on: `test`, or `val` where no image of `test` has a mask or label."""
    name = "test" if usable(task, images, images.split("test")).size else "val"
    return name, usable(task, images, images.split(name))
