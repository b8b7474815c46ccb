"""Images a second of others' masked pretraining beside ours: `python -m benchmarks.speed.peers CLONE…`.

Each CLONE is a folder with code of others, which this runs: SparK (github.com/keyu-tian/SparK; it needs timm). All have
images of 64 px in batches of 12, patches of 16, half of them hidden, an encoder of width 16, and Adam; in one thread,
in turn, by CPU time, channels last. The encoder is that of our U-Net, all else theirs.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ahm_env.model.unet import UNet
from benchmarks.speed.loops import (
    BATCH,
    SIZE,
    STEPS,
    WIDTH,
    joint_training,
    learning,
    make_env,
    make_reconstructor,
    times,
    train_images,
)
from benchmarks.speed.timing import in_turn, shown
from downstream.models.model import ENCODER

PATCH = 16  # what a patch has to be where it is a cell of the deepest level


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    loops = {
        "ours, a3c's masks": joint_training(make_env(co_train=True, patch_size=PATCH)),
        "ours, random masks": learning(make_reconstructor(patch_size=PATCH)),
    }
    loops |= {clone: training(find_model(Path(clone).resolve())) for clone in sys.argv[1:]}
    seconds = in_turn(*loops.values())
    table = Table("training", "images/s", "ours with a3c's masks / this")
    for name, own in zip(loops, seconds.T, strict=True):
        table.add_row(name, f"{BATCH * STEPS / np.median(own):.1f}", shown(own / seconds[:, 0]))
    Console().print(table)


def find_model(clone: Path) -> nn.Module:
    """Build the model of a clone: from images `(B, 3, S, S)`, standardised, to its loss."""
    for file, build in MODELS.items():
        if (clone / file).is_file():
            with imports_from((clone / file).parent), redirect_stdout(None):
                return build()
    raise SystemExit(f"error: {clone}: holds none of {', '.join(MODELS)}; give a clone of a code that is known here")


@contextmanager
def imports_from(folder: Path) -> Iterator[None]:
    """Import from a folder until the block ends, and forget what came from there: others may have the same names."""
    before, own = set(sys.modules), {path.stem for path in folder.iterdir()}
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in own:
                del sys.modules[name]


class Encoder(nn.Module):
    """The encoder of our U-Net with the methods that SparK asks a network for."""

    def __init__(self) -> None:
        super().__init__()
        unet = UNet(3, 3, WIDTH)
        for name in ENCODER:
            self.add_module(name, getattr(unet, name))

    def get_downsample_ratio(self) -> int:
        """Pixels of an image to one cell of the deepest level."""
        return PATCH

    def get_feature_map_channels(self) -> list[int]:
        """Channels of the four levels that are decoded."""
        return [WIDTH * 2**level for level in range(1, len(ENCODER))]

    def forward(self, images: Tensor, hierarchical: bool = True) -> Sequence[Tensor]:
        """Give the features of these levels, the deepest last."""
        features = [images]
        for layer in self.children():
            features.append(layer(features[-1]))
        return features[2:]


def spark() -> nn.Module:
    """Build SparK around our encoder, with a decoder of its own kind and of the deepest level's width."""
    encoder = import_module("encoder").SparseEncoder(Encoder(), SIZE)
    decoder = import_module("decoder").LightDecoder(PATCH, WIDTH * PATCH, sbn=False)
    model: nn.Module = import_module("spark").SparK(encoder, decoder, mask_ratio=0.5)
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {"pretrain/spark.py": spark}  # by a file that tells whose clone it is


def training(model: nn.Module) -> Callable[[], None]:
    """Return a function that trains a model which draws masks itself, its channels last, as ours has them."""
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(model.parameters(), 5e-4, fused=True)
    mean, std = make_reconstructor().standardisation.tensors(torch.device("cpu"))
    pixels, generator = train_images(), np.random.default_rng(0)

    def step() -> None:
        batch = torch.from_numpy(pixels[generator.integers(len(pixels), size=BATCH)]).float()
        loss = model(((batch - mean) / std).contiguous(memory_format=torch.channels_last))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return times(step)


if __name__ == "__main__":
    main()
