"""An animation of how an agent's masks evolved in a run: `python examples/animate_masks.py RUN OUT.gif`."""

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from agents.pretraining.run_directory import RunDirectory
from agents.pretraining.snapshots import Frame
from ahm_env import ImageSet, RunError, load_images
from ahm_env.rendering import HEADER, INK, as_rgb, hidden_pixels, limits, masked, overlay, panel

ROWS = 4  # images
MILLISECONDS = 500


def main(run: Path, out: Path) -> None:
    """Write the animation: image, policy map, mask and reconstruction, after more and more images."""
    directory, settings = RunDirectory.open(run)
    frames = directory.frames()
    if not frames:
        raise RunError(f"{run}: holds no run with frames; give the directory that `ahm train-agent` wrote")
    images = load_images(settings.data, skip_bad=settings.skip_bad, masks=False, **asdict(settings.pixels))
    scale = limits(np.stack([frame.policy for frame in frames]))
    pictures = [picture(frame, images, scale) for frame in frames]
    pauses = [MILLISECONDS] * (len(pictures) - 1) + [5 * MILLISECONDS]
    pictures[0].save(out, save_all=True, append_images=pictures[1:], duration=pauses, loop=0, optimize=True)


def picture(frame: Frame, images: ImageSet, scale: tuple[float, float]) -> Image.Image:
    """One moment."""
    shown, masks = as_rgb(images.images(frame.shown[:ROWS])), frame.masks[:ROWS]
    made = as_rgb(frame.reconstructions[:ROWS])
    visible = np.stack([np.asarray(Image.fromarray(one).resize(made.shape[1:3])) for one in shown])
    columns = {
        "image": shown,
        "policy map": overlay(shown, frame.policy[:ROWS], scale=scale),
        "masked": masked(shown, masks),
        "reconstruction": np.where(hidden_pixels(masks, made.shape[1]), made, visible),
    }
    body = Image.fromarray(panel(columns, {"policy map": scale}))
    sheet = Image.new("RGB", (body.width, body.height + HEADER), "white")
    sheet.paste(body, (0, HEADER))
    text = f"after {frame.images:,} images"
    ImageDraw.Draw(sheet).text((sheet.width / 2, HEADER / 2 + 4), text, INK, ImageFont.load_default(18), anchor="mm")
    return sheet.quantize(256)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
