"""Pictures of results: contours on images, the best and the worst cases, the confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ahm_env.images.pixels.fit import to_uint8
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import Pixels
from ahm_env.rendering import COLOURS, INK, PAPER, draw_contour

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]

TRUTH, FOUND = (255, 255, 255), COLOURS[0]
TILE, GAP, CAPTION, HEADER = 220, 10, 22, 34
LARGEST = 1024  # longest side of an overlay, pixels


@dataclass(frozen=True)
class Case:
    """One image of a picture of cases.

    Attributes:
        caption: Line under it.
        image: `(H, W)` or `(H, W, 3)`, any depth.
        truth: `(H, W)` numbers of classes, None where it is not known.
        found: `(H, W)` numbers of classes.
    """

    caption: str
    image: Pixels
    truth: Mask | None
    found: Mask


def draw_overlay(case: Case, largest: int = LARGEST, smallest: int = 1) -> Picture:
    """Draw an image with the contours of what is true (white) and what was found (in colour).

    Args:
        case: The image; its caption is not drawn.
        largest: The longest side is made this long if it is longer.
        smallest: Likewise if it is shorter, so that contours are fine.

    Returns:
        `(h, w, 3)` uint8 RGB.
    """
    height, width = case.image.shape[:2]
    longest = max(height, width)
    scale = min(max(1.0, smallest / longest), largest / longest)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    way = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    resized = np.asarray(cv2.resize(to_uint8(case.image), size, interpolation=way), np.uint8)
    picture = np.repeat(resized[..., None], 3, 2) if resized.ndim == 2 else resized
    for mask, colours, line in ((case.found, COLOURS, 2), (case.truth, (TRUTH,), 1)):
        if mask is not None:
            numbers = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
            for number in range(1, int(numbers.max(initial=0)) + 1):
                draw_contour(picture, numbers == number, colours[(number - 1) % len(colours)], line)
    return picture


def lay_out(rows: Sequence[tuple[str, Sequence[tuple[Picture, str]]]], tile: int) -> Image.Image:
    """Lay out rows of pictures, each row under its heading and each picture above its caption.

    Args:
        rows: Heading of each row, and its pictures with their captions.
        tile: Room for a picture, pixels a side.
    """
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    columns, height = max(len(cells) for _, cells in rows), HEADER + tile + CAPTION
    sheet = Image.new("RGB", (GAP + columns * (tile + GAP), len(rows) * height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (heading, cells) in enumerate(rows):
        top = row * height + HEADER
        draw.text((GAP, top - HEADER / 2), heading, INK, font, anchor="lm")
        for column, (picture, caption) in enumerate(cells):
            left, shown = GAP + column * (tile + GAP), Image.fromarray(picture)
            sheet.paste(shown, (left + (tile - shown.width) // 2, top + (tile - shown.height) // 2))
            draw.text((left, top + tile + CAPTION / 2), caption, INK, small, anchor="lm")
    return sheet


def draw_cases(rows: Sequence[tuple[str, Sequence[Case]]], classes: Sequence[str] = ("",)) -> Picture:
    """Rows of cases, such as best, median and worst, each under its heading.

    Args:
        rows: Headings and cases.
        classes: Names of the classes beside the background, for the legend; a single one is not named.
    """
    drawn = [(heading, [(draw_overlay(case, TILE, TILE), case.caption) for case in some]) for heading, some in rows]
    cases, small = lay_out(drawn, TILE), ImageFont.load_default(12)
    found = ["found"] if len(classes) == 1 else [f"found: {name}" for name in classes]
    width = GAP + 84 + sum(52 + int(small.getlength(text)) for text in found)
    sheet = Image.new("RGB", (max(cases.width, width), cases.height + HEADER), PAPER)
    sheet.paste(cases)
    draw, legend = ImageDraw.Draw(sheet), cases.height + HEADER / 2
    draw.rectangle((GAP, legend - 6, GAP + 24, legend + 6), fill=(90, 90, 98))
    draw.line((GAP + 3, legend, GAP + 21, legend), TRUTH, 2)
    draw.text((GAP + 32, legend), "truth", INK, small, anchor="lm")
    left = GAP + 84
    for number, text in enumerate(found):
        draw.line((left, legend, left + 24, legend), COLOURS[number % len(COLOURS)], 3)
        draw.text((left + 32, legend), text, INK, small, anchor="lm")
        left += 52 + int(small.getlength(text))
    return np.asarray(sheet)


def draw_confusion(confusion: npt.NDArray[np.int64], classes: Sequence[str]) -> Picture:
    """Draw a confusion matrix: rows are the truth, and a cell is coloured by its share of the row.

    Args:
        confusion: `(K, K)` counts.
        classes: K names.
    """
    font, small, large = ImageFont.load_default(13), ImageFont.load_default(12), ImageFont.load_default(18)
    names = [name if len(name) <= 14 else name[:13] + "…" for name in classes]
    left = 60 + int(max(font.getlength(name) for name in names))
    cell, count = 84, len(classes)
    sheet = Image.new("RGB", (left + count * cell + 20, 84 + count * cell), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((left + count * cell / 2, 18), "predicted", INK, font, anchor="mm")
    draw.text((20, 64 + count * cell / 2), "truth", INK, font, anchor="mm")
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    for i in range(count):
        draw.text((left + (i + 0.5) * cell, 50), names[i], INK, font, anchor="mm")
        draw.text((left - 10, 64 + (i + 0.5) * cell), names[i], INK, font, anchor="rm")
        for j in range(count):
            box = (left + j * cell, 64 + i * cell, left + (j + 1) * cell - 2, 64 + (i + 1) * cell - 2)
            share = float(shares[i, j])
            draw.rectangle(box, fill=tuple(round(242 - share * (242 - dark)) for dark in (0, 92, 158)))
            ink = PAPER if share > 0.55 else INK
            middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            draw.text((middle[0], middle[1] - 9), f"{confusion[i, j]:,}", ink, large, anchor="mm")
            draw.text((middle[0], middle[1] + 14), f"{share:.0%}", ink, small, anchor="mm")
    return np.asarray(sheet)
