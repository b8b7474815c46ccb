"""Weights of a U-Net as files that cannot execute code, with its standardisation; and saved states, copied back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ahm_env.errors import CheckpointError, SettingsError
from ahm_env.files import atomic, first_line, load_tensors, save_tensors
from ahm_env.model.unet import UNet

DEFAULT_UNET = Path(__file__).with_name("default_unet.safetensors")


@dataclass(frozen=True)
class Standardisation:
    """Channel mean and std of the images that the U-Net was trained on, in 0..255 units."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and std as `(1, C, 1, 1)` on the device."""
        shape = (1, len(self.mean), 1, 1)
        mean = torch.tensor(self.mean, device=device).reshape(shape)
        return mean, torch.tensor(self.std, device=device).reshape(shape)


def save_unet(path: Path, unet: UNet, standardisation: Standardisation) -> None:
    """Write a U-Net as safetensors, or as a `.pth` state dict that Pytorch-UNet loads, by the suffix of `path`."""
    if path.suffix == ".pth":
        with atomic(path) as temporary:
            torch.save({name: tensor.cpu().contiguous() for name, tensor in unet.state_dict().items()}, temporary)
        return
    about = {"mean": standardisation.mean, "std": standardisation.std, "skip_connections": unet.skip_connections}
    save_tensors(path, unet.state_dict(), about)


def load_unet(path: Path) -> tuple[UNet, Standardisation | None]:
    """Read a U-Net from `.safetensors`, or from a Pytorch-UNet `.pth` without executing anything in it.

    Width, norm, channels and kind of upsampling are read off the shapes.

    Raises:
        CheckpointError: Missing, damaged, would execute code, or not a U-Net.
    """
    if path.suffix == ".pth":
        weights, about = read_pth(path), dict[str, Any]()
    else:
        weights, about = load_tensors(path)
    try:
        first, last = weights["inc.double_conv.0.weight"], weights["outc.conv.weight"]
        norm = "batch" if "inc.double_conv.1.running_mean" in weights else "group"
        bilinear, skip_connections = "up1.up.weight" not in weights, bool(about.get("skip_connections", True))
        unet = UNet(first.shape[1], last.shape[0], first.shape[0], norm, bilinear, skip_connections)
        unet.load_state_dict(weights)
    except (KeyError, RuntimeError, IndexError, AttributeError, SettingsError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{path}: not the weights of a U-Net ({reason}); check which file it is") from None
    if "mean" not in about:
        return unet, None
    return unet, Standardisation(tuple(about["mean"]), tuple(about["std"]))


def copy_state(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy a state that was saved into the tensors that learning changes.

    Args:
        tensors: Name to tensor of any shape, changed in place.
        state: The same names, and maybe more, to tensors of the same shapes.

    Raises:
        KeyError: The state lacks a tensor, or has it in another shape, which `copy_` might broadcast.
    """
    for name, tensor in tensors.items():
        if state[name].shape != tensor.shape:
            raise KeyError(f"{name} of shape {tuple(tensor.shape)}")
        tensor.detach().copy_(state[name])


def read_pth(path: Path) -> dict[str, Tensor]:
    """Read a `.pth` state dict; nothing in it is executed.

    Raises:
        CheckpointError: Missing, damaged, or more than plain weights.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check the path")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle can fail in any way, and PyTorch's text advises to execute it
        raise CheckpointError(f"{path}: damaged, or more than plain weights; save it again as a state dict") from None
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path}: holds no state dict; save the model's state_dict() instead")
    weights.pop("mask_values", None)  # Pytorch-UNet's train.py adds it
    return weights
