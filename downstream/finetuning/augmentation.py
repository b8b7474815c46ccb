"""Augmentation: images turned, mirrored, scaled, bent and recoloured, masks along with them (Kornia)."""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ahm_env import ImageSet, SettingsError
from ahm_env.masks import Ints

AUGMENTATIONS = ("none", "flips", "affine", "full", "strong")
STRONG = ("colour", "grey")
LOOKED_AT = 64  # images looked at to decide whether a set is of colour photographs
# A photograph of tissue has one hue, more or less, and has it clearly; sequences of an MRI put into the three channels
# have all hues, and grey images none.
HUE_CONCENTRATION, SATURATION = 0.8, 0.1


class Augmentation:
    """Random changes that keep the meaning of a medical image.

    Args:
        kind: `none`; `flips`; `affine` (flips, rotation, scale, shift and colour); `full` (also elastic bending);
            `strong` (affine, and the strong changes of colour). Parts of these: `shape` (flips, rotation, scale,
            shift), `recolour` (the strong changes of colour).
        strong: Of `strong` and `recolour`: `colour`, for colour photographs, or `grey`.

    Raises:
        SettingsError: Unknown kind.
    """

    def __init__(self, kind: str, strong: str = "grey") -> None:
        if kind not in (*AUGMENTATIONS, "shape", "recolour"):
            raise SettingsError(f"--augment {kind} is unknown; choose one of {', '.join(AUGMENTATIONS)}")
        self.kind, self.strong = kind, strong

    def __call__(self, images: Tensor, masks: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Change a batch; the same seed changes it in the same way.

        Args:
            images: `(B, C, S, S)` float32 in 0..255.
            masks: `(B, S, S)` int64 class numbers. What comes into view from outside repeats the border, in both.
            seed: Decides what is done.

        Returns:
            Images and masks of the same shapes.
        """
        if self.kind == "none":
            return images, masks
        # Kornia draws from PyTorch's global generator: it is put back as it was
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            # its changes of colour take three channels; of grey ones, saturation and hue stay what they are
            changed, bent = self._change(images.expand(-1, 3, -1, -1) / 255, masks[:, None].float())
        return changed[:, : images.shape[1]].clamp(0, 1) * 255, bent[:, 0].round().long()

    @cached_property
    def _change(self) -> Any:
        return _sequence(self.kind, self.strong)


def strong_kind(asked: str, images: ImageSet, indices: Ints) -> str:
    """Which strong changes suit a set: `colour` for colour photographs, `grey` for all others.

    Args:
        asked: `colour`, `grey`, or `auto`, which looks at some of the images.
        images: The set.
        indices: Which of it.
    """
    if asked != "auto":
        return asked
    if images.channels == 1:
        return "grey"
    some = indices[np.linspace(0, len(indices) - 1, min(LOOKED_AT, len(indices))).astype(int)]
    return "colour" if shows_colour(images.images(some)) else "grey"


def shows_colour(images: npt.NDArray[np.uint8]) -> bool:
    """Whether images `(B, 3, S, S)` are colour photographs: they have colour, and nearly all of it is of one hue."""
    red, green, blue = (images[:, channel].astype(np.float32) / 255 for channel in range(3))
    # hue and its strength as a vector: of a grey pixel it is 0
    along, across = red - (green + blue) / 2, (green - blue) * np.float32(np.sqrt(3) / 2)
    strength = np.hypot(along, across)
    concentration = np.hypot(along.sum(), across.sum()) / max(float(strength.sum()), 1e-9)
    return bool(strength.mean() > SATURATION and concentration > HUE_CONCENTRATION)


def _sequence(kind: str, strong: str) -> Any:
    import kornia.augmentation as kornia
    from kornia.constants import DataKey, Resample

    flips = [kornia.RandomHorizontalFlip(p=0.5), kornia.RandomVerticalFlip(p=0.5)]
    affine = [
        kornia.RandomAffine(
            degrees=180.0, translate=(0.1, 0.1), scale=(0.8, 1.25), padding_mode="border", align_corners=False, p=1.0
        )
    ]
    bend = [
        kornia.RandomElasticTransform(
            kernel_size=(17, 17), sigma=(6.0, 6.0), alpha=(0.5, 0.5), padding_mode="border", align_corners=False, p=0.5
        )
    ]
    colour = [kornia.ColorJiggle(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.03, p=1.0)]
    blur = kornia.RandomGaussianBlur(kernel_size=(5, 5), sigma=(0.1, 1.5), p=0.5)
    recolour = {
        "colour": [
            kornia.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1, p=0.8),
            kornia.RandomGrayscale(p=0.2),
            blur,
        ],
        "grey": [
            kornia.ColorJitter(brightness=0.5, contrast=0.5, saturation=0.0, hue=0.0, p=0.8),
            kornia.RandomGamma(gamma=(0.6, 1.6), p=0.8),
            kornia.RandomGaussianNoise(mean=0.0, std=0.04, p=0.5),
            blur,
        ],
    }[strong]
    changes = {
        "flips": flips,
        "affine": flips + affine + colour,
        "full": flips + affine + bend + colour,
        "strong": flips + affine + recolour,
        "shape": flips + affine,
        "recolour": recolour,
    }[kind]
    masks = {DataKey.MASK: {"resample": Resample.NEAREST, "align_corners": False}}
    return kornia.AugmentationSequential(*changes, data_keys=["image", "mask"], extra_args=masks)
