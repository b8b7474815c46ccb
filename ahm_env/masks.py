"""Patches, masks and quotas: how many patches are hidden, and which. The sign is fixed: 1 hides.

What computes on patches here takes arrays of NumPy and tensors of PyTorch alike where both are needed.
"""

from dataclasses import dataclass
from math import floor, isqrt
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ahm_env.errors import SettingsError

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Reals = npt.NDArray[np.floating[Any]]
Array = TypeVar("Array", Tensor, npt.NDArray[Any])


@dataclass(frozen=True)
class PatchGrid:
    """A square image cut into square patches, numbered row by row.

    Args:
        image_size: Side of the image in pixels (S).
        patch_size: Side of a patch in pixels (P); divides S.

    Raises:
        SettingsError: S is not a multiple of P, or there are fewer than two patches a side.
    """

    image_size: int
    patch_size: int

    def __post_init__(self) -> None:
        if self.patch_size < 1 or self.image_size < 1:
            raise SettingsError(
                f"image size {self.image_size} and patch size {self.patch_size} must both be 1 or more pixels"
            )
        if self.image_size < 2 * self.patch_size:
            raise SettingsError(
                f"image size {self.image_size} holds fewer than 2 x 2 patches of {self.patch_size}; "
                f"use a larger image or a smaller patch"
            )
        if self.image_size % self.patch_size:
            nearest = self.image_size // self.patch_size * self.patch_size
            raise SettingsError(
                f"image size {self.image_size} is not divisible by patch size {self.patch_size}; "
                f"try --image-size {nearest} or another --patch-size"
            )

    @classmethod
    def of(cls, patches: int, image_size: int) -> "PatchGrid":
        """Make the grid that cuts images of `image_size` pixels a side into so many patches."""
        return cls(image_size, image_size // isqrt(patches))

    @property
    def side(self) -> int:
        """Patches a side: rows = columns."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Number of patches (N)."""
        return self.side**2

    def to_pixels(self, patch_map: Array) -> Array:
        """Blow up a patch map `(B, N)` to pixels `(B, 1, S, S)`."""
        grid = patch_map.reshape(-1, 1, self.side, self.side)
        if isinstance(grid, Tensor):
            return grid.repeat_interleave(self.patch_size, 2).repeat_interleave(self.patch_size, 3)
        return grid.repeat(self.patch_size, 2).repeat(self.patch_size, 3)

    def patch_means(self, pixel_map: Array) -> Array:
        """Mean over the pixels and channels of each patch: `(B, S, S)` or `(B, C, S, S)` to `(B, N)`."""
        patches = pixel_map.reshape(len(pixel_map), -1, self.side, self.patch_size, self.side, self.patch_size)
        means: Array = patches.mean((1, 3, 5))
        return means.reshape(len(pixel_map), self.patches)


@dataclass(frozen=True)
class MaskRatio:
    """Share of the patches that a mask hides: one number, or a range within which the agent decides.

    Args:
        low: Smallest share, above 0.
        high: Largest share, below 1; equal to `low` where the share is fixed.

    Raises:
        SettingsError: A share is not strictly between 0 and 1, or the range is reversed.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high < 1):
            raise SettingsError(
                f"mask ratio {self} must lie strictly between 0 and 1, low before high; for example 0.5 or 0.3:0.7"
            )

    @classmethod
    def parse(cls, ratio: "str | float | tuple[float, float] | list[float] | MaskRatio") -> "MaskRatio":
        """Read `0.5`, `"0.5"`, `"0.3:0.7"` or `(0.3, 0.7)`.

        Raises:
            SettingsError: Not a ratio.
        """
        if isinstance(ratio, MaskRatio):
            return ratio
        try:
            parts = ratio.split(":") if isinstance(ratio, str) else np.atleast_1d(np.asarray(ratio)).tolist()
            numbers = [float(part) for part in parts]
            if len(numbers) not in (1, 2):
                raise ValueError
        except (TypeError, ValueError):
            raise SettingsError(
                f"mask ratio {ratio!r} is not a number or a range; for example 0.5 or 0.3:0.7"
            ) from None
        return cls(numbers[0], numbers[-1])

    def __str__(self) -> str:
        low, high = repr(float(self.low)), repr(float(self.high))  # in full: it is read again
        return low if low == high else f"{low}:{high}"

    def quotas(self, patches: int) -> tuple[int, int]:
        """Smallest and largest number of hidden patches among `patches` (k = round(ratio x N)).

        Raises:
            SettingsError: A quota would be none or all of the patches.
        """
        low, high = rounded(self.low * patches), rounded(self.high * patches)
        if low < 1 or high >= patches:
            raise SettingsError(
                f"mask ratio {self} of {patches} patches hides {low if low < 1 else high} of them; "
                f"at least one patch must be hidden and one visible: change the ratio or use smaller patches"
            )
        return low, high


def rounded(number: float) -> int:
    """Round half up, so that quotas grow evenly (Python's own rounding goes to the even number)."""
    return floor(number + 0.5)


def step_quota(quota: Ints, step: int | Ints, horizon: int, share: float | Floats) -> tuple[Ints, Ints]:
    """Patches to hide in step `step` (counted from 0) of `horizon`, and how many of them the agent may choose.

    After step t, round(k·t/T) patches are hidden, round(share·round(k·t/T)) of them by choice.

    Args:
        quota: `(B,)` patches hidden at the end of the episode (k).
        step: Steps taken so far, a number or `(B,)`.
        horizon: Steps an episode (T).
        share: Share of the quota that the agent may choose, 0 to 1, a number or `(B,)`.

    Returns:
        Total and chosen numbers for this step, each `(B,)`.
    """
    before = np.floor(quota * step / horizon + 0.5)
    after = np.floor(quota * (np.asarray(step) + 1) / horizon + 0.5)
    chosen = np.floor(share * after + 0.5) - np.floor(share * before + 0.5)
    return (after - before).astype(np.int64), chosen.astype(np.int64)


def highest(scores: Reals, counts: Ints, excluded: Bools) -> Bools:
    """Mark the patches that score highest in each row; of equal scores, the lower number of a patch goes first.

    Args:
        scores: `(B, N)`, infinities included.
        counts: `(B,)` how many to mark.
        excluded: `(B, N)` patches that come after all others, whatever they score.

    Returns:
        `(B, N)`, exactly `counts` ones a row.
    """
    order = np.lexsort((-scores, excluded))
    marked = np.zeros(scores.shape, bool)
    np.put_along_axis(marked, order, np.arange(scores.shape[1]) < counts[:, None], 1)
    return marked


def mean_over(patch_map: Array, patches: Array) -> Array:
    """Mean of each row of `(B, N)` over the patches marked in `(B, N)`; 0 where none is."""
    means: Array = (patch_map * patches).sum(1) / patches.sum(1).clip(1)
    return means


def random_subsets(allowed: Bools, counts: Ints, noise: Reals) -> Bools:
    """Uniformly random subset of each row's allowed patches.

    Args:
        allowed: `(B, N)` patches to draw from.
        counts: `(B,)` how many to draw; where fewer are allowed, all of them are drawn.
        noise: `(B, N)` independent uniform numbers in [0, 1).

    Returns:
        `(B, N)` the subset.
    """
    return allowed & highest(-noise, counts, ~allowed)


def fill_quota(wanted: Bools, hidden: Bools, total: Ints, choosable: Ints, noise: Floats) -> tuple[Bools, Bools]:
    """Turn what the agent wants to hide into exactly `total` newly hidden patches.

    Ones on patches already hidden are ignored; of too many ones a random subset is kept; what is missing is
    filled up with random patches.

    Args:
        wanted: `(B, N)` the agent's action.
        hidden: `(B, N)` patches hidden before.
        total: `(B,)` patches to hide now.
        choosable: `(B,)` how many of them the agent may choose.
        noise: `(B, 2, N)` independent uniform numbers in [0, 1).

    Returns:
        `(B, N)` newly hidden patches, and `(B, N)` those among them that were chosen.
    """
    chosen = random_subsets(wanted & ~hidden, choosable, noise[:, 0])
    filled = random_subsets(~(hidden | chosen), total - chosen.sum(1), noise[:, 1])
    return chosen | filled, chosen


def random_masks(count: int, patches: int, quota: int, generator: np.random.Generator) -> Bools:
    """Draw `count` uniformly random masks `(count, patches)` that each hide `quota` patches."""
    allowed = np.ones((count, patches), bool)
    return random_subsets(allowed, np.full(count, quota), generator.random((count, patches)))
