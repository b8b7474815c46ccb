"""Judge finished runs on their held-out images: `python -m benchmarks.hardness RUN …`.

For each run, with its own U-Net: hardness, as the last row of its metrics has it; and, measured anew: how often the
least and the most hidden patch is hidden; in which share of patches masks of two images, and two masks of one image,
differ; and, where the images have masks, how often lesion and background are hidden.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agents import load_agent
from agents.measuring import measure
from agents.runs import RunDirectory
from agents.schedule import split_held_out
from ahm_env import Reconstructor, load_images

PAIRS = 1024  # image and mask pairs a run


def main(paths: list[Path]) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    table = Table("run", "images", "hardness", "least – most hidden", "differ: images – draws", "lesion – background")
    for path in paths:
        directory = RunDirectory(path)
        settings, checkpoint = directory.settings(), directory.latest()
        if settings is None or checkpoint is None:
            raise SystemExit(f"{path}: not a finished run")
        images = load_images(settings.data, settings.image_size, settings.channels, settings.fit, settings.skip_bad)
        held_out = split_held_out(images)[1]
        agent = load_agent(path / "agent")
        reconstructor = Reconstructor.load(path / "unet.safetensors", settings.grid)
        draws = max(2, PAIRS // len(held_out))
        found = measure(agent, reconstructor, images, held_out, settings.ratio, settings.horizon, draws, seed=1)
        hidden = found.masks.mean(0)
        lesions = "–"
        if images.has_masks:
            side, patch = settings.grid.side, settings.patch_size
            lesion = (
                (images.masks(held_out) > 0).reshape(-1, side, patch, side, patch).mean((2, 4)).reshape(hidden.shape)
            )
            shares = [float((hidden * part).sum() / part.sum()) for part in (lesion, 1 - lesion)]
            lesions = f"{shares[0]:.2f} – {shares[1]:.2f}"
        table.add_row(
            path.name,
            f"{checkpoint.images:,}",
            f"{checkpoint.about['rows'][-1]['hardness']:.3f}",
            f"{found.frequencies.min():.2f} – {found.frequencies.max():.2f}",
            f"{np.round(found.between_images, 3):.3f} – {np.round(found.within_images, 3):.3f}",
            lesions,
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
