"""Make the small pretrained U-Net that the environments use by default, `ahm_env/model/default_unet.safetensors`.

    python examples/make_default_unet.py [FILE]

A U-Net of width 8 learns to fill in random masks of phantom images, with patches of 8 and of 16 pixels in turn.
Weights are rounded to half precision, so that the file stays under 1 MB.
"""

import sys
from pathlib import Path

import numpy as np

from ahm_env import PatchGrid, Reconstructor, Standardisation, load_images
from ahm_env.files import save_tensors
from ahm_env.masks import random_masks
from ahm_env.model.weights import DEFAULT_UNET

BATCHES, BATCH = 3_000, 16


def main() -> None:
    """Train and write."""
    images = load_images("phantom:2000:1", 64)
    train = images.split("train")
    mean, std = images.standardisation(train)
    grids = [PatchGrid(64, 8), PatchGrid(64, 16)]
    standardisation = Standardisation(tuple(mean.tolist()), tuple(std.tolist()))
    reconstructor = Reconstructor.create(grids[0], standardisation, width=8, learning_rate=2e-3)
    generator = np.random.default_rng(0)
    for batch in range(BATCHES):
        reconstructor.grid = grid = grids[batch % 2]
        reconstructor.optimiser.set_learning_rate(2e-3 * (1 - batch / BATCHES))
        shown = images.images(generator.choice(train, BATCH, replace=False))
        ratio = generator.uniform(0.3, 0.75)
        masks = random_masks(BATCH, grid.patches, round(ratio * grid.patches), generator)
        losses = reconstructor.learn(shown, masks)
        if batch % 250 == 0:
            print(f"batch {batch:>5} of {BATCHES}  loss {losses[masks].mean():.4f}", flush=True)
    about = {"mean": standardisation.mean, "std": standardisation.std}
    weights = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in reconstructor.unet.state_dict().items()
    }
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_UNET
    save_tensors(path, weights, about)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
