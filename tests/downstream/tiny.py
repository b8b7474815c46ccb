"""Tiny models for the tests of several rooms, and how their tensors are compared."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from downstream.models.model import Model, ModelSpec

SIDE = 16


def make_model(
    path: Path,
    task: str = "segmentation",
    classes: tuple[str, ...] = ("background", "foreground"),
    values: tuple[int, ...] | None = None,
    seed: int = 0,
    background: float = 0.0,
    cropped: bool = False,
    fit: str = "pad",
    normalises: bool = True,
) -> Model:
    """A model in a file, its last layer scaled so that its predictions differ between images, and within them."""
    if values is None:
        values = tuple(range(len(classes))) if task == "segmentation" else ()
    spec = ModelSpec(task, "unet", classes, values, SIDE, 3, fit, (127.0,) * 3, (60.0,) * 3, 2, "batch", False, cropped)
    model = Model.create(spec, seed)
    squares = np.random.default_rng(0).integers(0, 256, (32, 3, 4, 4)).repeat(SIDE // 4, 2).repeat(SIDE // 4, 3)
    pixels = torch.from_numpy(squares).float()
    model.network.train()
    with torch.no_grad():
        for _ in range(20 * normalises):  # the running means of its normalisation; without, it sees nearly the same
            model.logits(pixels)
        model.network.eval()
        last = model.network.outc.conv if task == "segmentation" else model.network.head
        last.weight /= model.logits(pixels).transpose(0, 1).flatten(1).std(1).view(-1, *(1,) * (last.weight.ndim - 1))
        last.bias -= model.logits(pixels).transpose(0, 1).flatten(1).mean(1)
        last.bias[0] += background
    model.save(path)
    return Model.load(path)


def shake(network: nn.Module) -> None:
    """Statistics and scales as training might leave them: none is 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.1, 0.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.add_(torch.empty_like(tensor).uniform_(-0.3, 0.3, generator=generator))


def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
