"""Which images a model can be tested on, those that have what its task needs, and what is true of their pixels."""

from dataclasses import replace

import numpy as np

from ahm_env import ImageError, ImageSet, SettingsError
from ahm_env.images.dataset.values import are_binary, mask_values
from ahm_env.images.pixels.fit import Image8
from ahm_env.images.source import Sample
from ahm_env.masks import Ints
from downstream.models.model import ModelSpec

BINARY = (0, 1)  # what an ImageSet makes of masks of two values
IGNORED = 255  # in place of the number of a class
NONE = "none"


def usable(task: str, images: ImageSet, indices: Ints) -> Ints:
    """Those of the images that have what a task needs: a mask, or a label."""
    if task == "classification":
        return indices[images.labels(indices) >= 0] if indices.size else indices
    return indices[images.masked(indices)] if indices.size else indices


def find_tested(task: str, images: ImageSet) -> tuple[str, Ints]:
    """Name and images of the split to test on: `test`, or `val` where no image of `test` has a mask or label."""
    name = "test" if usable(task, images, images.split("test")).size else "val"
    return name, usable(task, images, images.split(name))


def class_numbers(sample: Sample, values: tuple[int, ...], ignore: int | None = None) -> Image8:
    """Convert the true mask of an image to numbers of classes `(H, W)`.

    Args:
        sample: The image with its mask.
        values: What stands for each class in the mask.
        ignore: What stands for no class, and becomes `IGNORED`.

    Raises:
        ImageError: There is no mask, or it holds a number that no class has.
    """
    if sample.mask is None:
        raise ImageError(f"{sample.path}: has no mask to compare with; put one in masks/, with the stem of its image")
    numbers, found = {value: number for number, value in enumerate(values)}, mask_values(sample.mask)
    if values == BINARY and are_binary(found - {ignore}):
        numbers[255] = 1  # as most programs store a mask of two values
    if ignore is not None:
        numbers[ignore] = IGNORED
    if odd := sorted(found - numbers.keys()):
        known = ", ".join(map(str, values))
        remedy = "renumber the mask's classes" + (", or leave 255 out with --ignore 255" if odd == [255] else "")
        raise ImageError(f"{sample.path}: its mask holds {odd[0]}, but the model knows {known}; {remedy}")
    table = np.zeros(256, np.uint8)
    table[list(numbers)] = list(numbers.values())
    return table[sample.mask]


def check_ignore(number: int | None) -> None:
    """Refuse what cannot stand for pixels to be ignored in a mask; None is nothing.

    Raises:
        SettingsError: It is the background, or no number of a mask.
    """
    if number is not None and not 1 <= number <= 255:
        raise SettingsError(f"--ignore {number} must be a number in masks from 1 to 255; 0 is the background")


def with_ignore(spec: ModelSpec, ignore: int | str | None) -> ModelSpec:
    """Return a model's spec with another number in masks to be ignored.

    Args:
        spec: Of the model.
        ignore: The number, or its digits; `none`; None for that of the spec.

    Raises:
        SettingsError: It is no number of a mask, or stands for a class; or the model does not segment.
    """
    if ignore is None:
        return spec
    if spec.task != "segmentation":
        raise SettingsError(f"--ignore {ignore} is for models that segment; leave it out")
    if ignore == NONE:
        return replace(spec, ignore=None)
    try:
        number = int(ignore)
    except ValueError:
        raise SettingsError(f"--ignore {ignore} is neither a number nor {NONE}; for example --ignore 255") from None
    check_ignore(number)
    if number in spec.values:
        raise SettingsError(f"--ignore {number} is a class of the model ({', '.join(map(str, spec.values))})")
    return replace(spec, ignore=number)
