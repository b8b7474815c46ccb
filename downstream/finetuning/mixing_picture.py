"""A picture of what a student was shown of unlabelled images, so that a person sees whether to trust its teacher."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ahm_env.rendering import INK, PAPER, as_rgb
from downstream.evaluation.pictures import CAPTION, GAP, HEADER, Case, Picture, draw_overlay, enlarged
from downstream.finetuning.mean_teacher import MixedBatch

MIXED, MIXED_TILE = 8, 144  # mixed images of a row


def draw_mixing(rows: Mapping[str, MixedBatch], classes: Sequence[str]) -> Picture:
    """What a student was shown of unlabelled images, and what its teacher said of them.

    Of segmentation the teacher's labels are contours, and what it is unsure of is dimmed; of classification the class
    is under the image, in brackets where the teacher is unsure.

    Args:
        rows: Heading to the mixed images of a step; their first eight are drawn.
        classes: Names of the classes.
    """
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    columns = min(MIXED, *(len(batch.pixels) for batch in rows.values()))
    height = HEADER + MIXED_TILE + CAPTION
    sheet = Image.new("RGB", (GAP + columns * (MIXED_TILE + GAP), len(rows) * height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (heading, batch) in enumerate(rows.items()):
        sure = f"{float(batch.confident.float().mean()):.0%} of the labels count"
        draw.text((GAP, row * height + HEADER / 2), f"{heading}: {sure}", INK, font, anchor="lm")
        images = as_rgb(batch.pixels.clamp(0, 255).round().to(torch.uint8).cpu().numpy())
        labels, confident = batch.labels.cpu().numpy(), batch.confident.cpu().numpy()
        for column in range(columns):
            left, top = GAP + column * (MIXED_TILE + GAP), row * height + HEADER
            image = images[column]
            if labels.ndim == 3:
                picture = np.where(confident[column][..., None], image, image // 3)
                found, caption = labels[column].astype(np.uint8), f"{(labels[column] > 0).mean():.0%} marked"
            else:
                picture, found = image, np.zeros(image.shape[:2], np.uint8)
                name = classes[labels[column]]
                caption = name if confident[column] else f"({name})"
            tile = draw_overlay(enlarged(Case("", picture, None, found), MIXED_TILE), MIXED_TILE)
            sheet.paste(Image.fromarray(tile), (left, top))
            draw.text((left, top + MIXED_TILE + CAPTION / 2), caption, INK, small, anchor="lm")
    return np.asarray(sheet)
