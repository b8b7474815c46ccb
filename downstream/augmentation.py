"""Augmentation: labelled images turned, mirrored, scaled, bent and recoloured, masks along with them (Kornia)."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ahm_env import SettingsError

AUGMENTATIONS = ("none", "flips", "affine", "full")


class Augmentation:
    """Random changes that keep the meaning of a medical image.

    Args:
        kind: `none`; `flips`; `affine` (flips, rotation, scale, shift and colour); `full` (also elastic bending).

    Raises:
        SettingsError: Unknown kind.
    """

    def __init__(self, kind: str) -> None:
        if kind not in AUGMENTATIONS:
            raise SettingsError(f"--augment {kind} is unknown; choose one of {', '.join(AUGMENTATIONS)}")
        self.kind = kind

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
        return changed[:, : images.shape[1]] * 255, bent[:, 0].round().long()

    @cached_property
    def _change(self) -> Any:
        return _sequence(self.kind)


def _sequence(kind: str) -> Any:
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
    changes = flips + (affine if kind != "flips" else []) + (bend if kind == "full" else [])
    if kind != "flips":
        changes = changes + colour
    masks = {DataKey.MASK: {"resample": Resample.NEAREST, "align_corners": False}}
    return kornia.AugmentationSequential(*changes, data_keys=["image", "mask"], extra_args=masks)
