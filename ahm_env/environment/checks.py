"""What Gymnasium's users hand to the environments: read here, or refused where it would silently go wrong."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing import current_process
from pathlib import Path
from typing import Any, get_type_hints
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec

from ahm_env.errors import ActionError, SettingsError, check_kind
from ahm_env.masks import Bools, Ints
from ahm_env.model.reconstruction import Reconstructor

# U-Nets that single environments of this process train, in the order in which they began.
_trained: WeakKeyDictionary[Reconstructor, None] = WeakKeyDictionary()


class PlainSpec:
    """The `spec` that Gymnasium gives an environment, with paths as strings, so that its `to_json` takes it."""

    def __get__(self, env: Any, kind: type) -> EnvSpec | None:
        return None if env is None else vars(env).get("spec")

    def __set__(self, env: Any, spec: EnvSpec) -> None:
        kwargs = {name: str(value) if isinstance(value, Path) else value for name, value in spec.kwargs.items()}
        vars(env)["spec"] = replace(spec, kwargs=kwargs)


def check_keywords(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Refuse a keyword whose value is not of the type that a function's signature says.

    Raises:
        SettingsError: With the keyword, and what it must be.
    """
    for name, kind in get_type_hints(function).items():
        if name in given:
            check_kind(name, given[name], kind)


def read_indices(indices: npt.ArrayLike) -> Ints:
    """Read the numbers of the images to show.

    Raises:
        SettingsError: They are no whole numbers in a row.
    """
    numbers = np.asarray(indices)
    if numbers.ndim != 1 or (len(numbers) and numbers.dtype.kind not in "iu"):
        raise SettingsError(
            "indices must be whole numbers in a row, those of the images to show, from 0; of a mask of "
            "booleans use numpy.flatnonzero"
        )
    return numbers.astype(np.int64)


def read_actions(actions: npt.ArrayLike, shape: tuple[int, ...]) -> Bools:
    """Read zeros and ones of any numeric type, or bools.

    Args:
        actions: What an agent wants to hide, 1 hides.
        shape: `(N,)`, or `(B, N)`.

    Raises:
        ActionError: Another shape, or anything but zeros and ones.
    """
    try:
        numbers = np.asarray(actions)
    except ValueError:  # NumPy's, of lists
        raise ActionError(f"an action must have the shape {shape}, not rows of different lengths") from None
    if numbers.shape != shape:
        raise ActionError(f"an action must have the shape {shape}, a 0 or 1 for each patch, not {numbers.shape}")
    numeric = numbers.dtype == bool or np.issubdtype(numbers.dtype, np.number)
    wrong = (numbers != 0) & (numbers != 1) if numeric else np.ones(shape, bool)
    if wrong.any():
        raise ActionError(
            f"an action must hold a 0 or 1 for each patch, 1 hides, not {numbers[wrong].tolist()[0]!r}; for scores, "
            f"logits or probabilities use ahm_env.ScoreActions, or VectorScoreActions on what gym.make_vec gives"
        )
    return numbers.astype(bool)


def read_images(options: Mapping[str, Any] | None, count: int, images: int, *others: str) -> list[int | None]:
    """Read from the options of a reset which image each episode shall show; None is the next one.

    Args:
        options: `image_index`, one number or one for each episode, and others.
        count: Number of episodes.
        images: Number of images.
        others: Names of the other options.

    Raises:
        SettingsError: An option of another name, or what is not the number of an image.
    """
    known, options = ("image_index", *others), options or {}
    if odd := [name for name in options if name not in known]:
        raise SettingsError(f"reset has no option {odd[0]!r}; it takes {' and '.join(known)}")
    given = np.asarray(options.get("image_index"), object)
    if given.shape not in ((), (count,)):
        raise SettingsError(f"image_index must be one number, or one for each of the {count} environments")
    asked: list[int | None] = np.broadcast_to(given, (count,)).tolist()
    for image in asked:
        whole = isinstance(image, int | np.integer) and not isinstance(image, bool)
        if image is not None and not (whole and 0 <= image < images):
            raise SettingsError(f"image_index {image!r} is not the number of one of the {images} images, from 0")
    return asked


def read_reset_mask(options: Mapping[str, Any] | None, count: int) -> Bools:
    """Read from the options of a reset which of `count` environments it is for; by default all of them.

    Raises:
        SettingsError: Not that many bools, or all of them false.
    """
    mask = np.asarray((options or {}).get("reset_mask", np.ones(count, bool)))
    if mask.dtype != bool or mask.shape != (count,) or not mask.any():
        raise SettingsError(f"reset_mask must be {count} booleans, at least one of them true")
    return mask


def refuse_a_unet_each(reconstructor: Reconstructor) -> None:
    """Refuse to train this U-Net in turn with others, as a vector of single co-training environments would.

    Raises:
        SettingsError: With the remedy.
    """
    in_turn = reconstructor in list(_trained)[:-1]
    if in_turn or (current_process().daemon and not next(reconstructor.unet.parameters()).is_shared()):
        raise SettingsError(
            "co-training environments side by side would train a U-Net each, on one image a step; use gym.make_vec, "
            "where all share one, or give all the same Reconstructor as unet; to evaluate, use AHM/PatchMask-v0"
        )
    _trained[reconstructor] = None


def release(reconstructor: Reconstructor) -> None:
    """Forget a U-Net whose environment is closed."""
    _trained.pop(reconstructor, None)
