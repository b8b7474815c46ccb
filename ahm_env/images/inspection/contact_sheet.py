"""A contact sheet: a sample of a set at a glance, each image with the contours of its mask, its name and its class."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ahm_env.errors import SettingsError
from ahm_env.files import check_name
from ahm_env.images.dataset.image_set import ImageSet
from ahm_env.images.dataset.loader import load_images
from ahm_env.images.dataset.patients import fair_order
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.pixels.png import save_picture
from ahm_env.images.source import SPLITS, Source
from ahm_env.masks import Bools, Ints
from ahm_env.rendering import COLOURS, INK, PAPER, as_rgb, draw_contour

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

TILE = 192  # side of an image, pixels
GAP, MARGIN = 14, 24
CAPTION = 42  # room for two lines under an image
HEADER, LEGEND_LINE = 40, 24
FINE = 3  # contours are drawn at so many times the size, for smooth lines
LINE, EDGE_LINE = 4, 8  # widths of a contour and of what sets it off from any image, at that size
FAINT, EDGE = (112, 112, 122), (40, 40, 48)


@dataclass(frozen=True, slots=True, eq=False)
class ContactSheet:
    """A picture of a sample of a set.

    Attributes:
        picture: `(H, W, 3)` uint8 RGB.
        images: The set.
        indices: Which of them it shows.
    """

    picture: Picture
    images: ImageSet
    indices: Ints

    def save(self, path: str | Path) -> None:
        """Write the picture as a PNG file.

        Raises:
            SettingsError: The path does not end in .png, or is a directory.
        """
        check_name(Path(path), ".png")
        save_picture(Path(path), self.picture)


def make_contact_sheet(source: str | Path | Source, count: int = 24, seed: int = 0, **options: Any) -> ContactSheet:
    """Load a source and draw a fair sample of it.

    Args:
        source: As for `load_images`.
        count: Images on the sheet; fewer where there are fewer.
        seed: Decides which.
        **options: As for `load_images`: window, axis, burned_in, skip_bad, cache_dir and progress.

    Raises:
        ImageError: The source, or one of its images, cannot be used.
        SettingsError: A setting is out of range.
    """
    if count < 1:
        raise SettingsError(f"--count {count}: too few; give 1 or more")
    # Padded, so that everything has the shape that its readers know.
    images = load_images(source, TILE, fit="pad", **options)
    chosen = fair_sample(images, count, seed)
    return ContactSheet(contact_sheet(images, chosen), images, chosen)


def fair_sample(images: ImageSet, count: int, seed: int = 0) -> Ints:
    """Draw images that show a set fairly: classes and splits by their shares, patients by turns.

    Args:
        images: The set.
        count: Images wanted; fewer where the set has fewer.
        seed: Decides.

    Returns:
        Indices, by class and then in the order of the set.
    """
    every = np.arange(len(images))
    labels, patients = images.labels(every), images.patients(every)
    kinds = len(SPLITS) * labels + images.splits(every)
    left, drawn = np.random.default_rng(seed).permutation(every), np.empty(0, np.int64)
    while len(left) and len(drawn) < count:
        places = np.unique(patients[left], return_index=True)[1]
        first = left[places]
        drawn = np.append(drawn, first[fair_order(kinds[first], first, seed)])
        left = np.delete(left, places)
    drawn = drawn[:count]
    return drawn[np.lexsort((drawn, labels[drawn]))]


def contact_sheet(images: ImageSet, indices: npt.ArrayLike, columns: int = 6) -> Picture:
    """Draw images in a grid, masks as contours in a colour for each class, with names, classes and splits.

    Args:
        images: The set.
        indices: `(B,)` integers.
        columns: Images in a row, at most.

    Returns:
        `(H, W, 3)` uint8 RGB.
    """
    chosen = np.atleast_1d(np.asarray(indices, np.int64))
    columns = max(1, min(columns, len(chosen)))
    colours = _colours(images, chosen)
    width = 2 * MARGIN + columns * (TILE + GAP) - GAP
    legend = _legend(colours, width - 2 * MARGIN)
    top = MARGIN + HEADER
    below = top + -(-len(chosen) // columns) * (TILE + CAPTION + GAP)
    sheet = Image.new("RGB", (width, below + (legend.height or -GAP) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    _title(draw, images, len(chosen), width)
    splits = images.splits(np.arange(len(images)))
    several = len(np.unique(splits)) > 1
    font, small = ImageFont.load_default(13), ImageFont.load_default(12)
    for place, index in enumerate(chosen.tolist()):
        row, column = divmod(place, columns)
        x, y = MARGIN + column * (TILE + GAP), top + row * (TILE + CAPTION + GAP)
        sheet.paste(Image.fromarray(_tile(images, index, colours)), (x, y))
        about = [images.classes[label] for label in images.labels(index).tolist() if label >= 0]
        about += [SPLITS[splits[index]]] if several else []
        draw.text((x, y + TILE + 13), _shortened(images.names[index], font, TILE), INK, font, anchor="lm")
        draw.text((x, y + TILE + 30), _shortened(", ".join(about), small, TILE), FAINT, small, anchor="lm")
    sheet.paste(legend, (MARGIN, below))
    return np.asarray(sheet)


def _title(draw: ImageDraw.ImageDraw, images: ImageSet, count: int, width: int) -> None:
    font, small = ImageFont.load_default(20), ImageFont.load_default(14)
    shown = f"{count:,} of {len(images):,} images"
    draw.text((width - MARGIN, MARGIN + 11), shown, FAINT, small, anchor="rm")
    room = width - 2 * MARGIN - GAP - small.getlength(shown)
    name = Path(images.source).name or images.source
    draw.text((MARGIN, MARGIN + 10), _shortened(name, font, room), INK, font, anchor="lm")


def _tile(images: ImageSet, index: int, colours: Mapping[int, Colour]) -> Picture:
    """One image with its contours, `(TILE, TILE, 3)`."""
    picture = _resized(as_rgb(images.images(index))[0], FINE * TILE)
    if colours and images.masked(index)[0]:
        mask = images.masks(index)[0]
        for number, colour in colours.items():
            inside: Bools = _resized((mask == number) * np.uint8(255), FINE * TILE) >= 128
            draw_contour(picture, inside, EDGE, EDGE_LINE)
            draw_contour(picture, inside, colour, LINE)
    return _resized(picture, TILE)


def _resized(picture: Picture, side: int) -> Picture:
    way = cv2.INTER_AREA if side < picture.shape[0] else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (side, side), interpolation=way), np.uint8)


def _colours(images: ImageSet, chosen: Ints) -> dict[int, Colour]:
    """Choose a colour for each class in these masks except background; none if there are no masks."""
    numbers = [number for number in images.mask_values(chosen) if number] if images.has_masks else []
    return {number: _colour(place) for place, number in enumerate(numbers)}


def _colour(place: int) -> Colour:
    """Choose the colour of a class; beyond the palette, space hues by the golden ratio."""
    if place < len(COLOURS):
        return COLOURS[place]
    hue = round(180 * ((place * 0.618034) % 1)) % 180
    red, green, blue = cv2.cvtColor(np.array([[[hue, 170, 240]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def _legend(colours: Mapping[int, Colour], width: int) -> Image.Image:
    """Lines that say which colour is which class of the masks."""
    font = ImageFont.load_default(13)
    texts = {number: "mask" if len(colours) == 1 else f"mask {number}" for number in colours}
    step = 48 + max((int(font.getlength(text)) for text in texts.values()), default=0)
    across = max(1, width // step)
    legend = Image.new("RGB", (width, LEGEND_LINE * -(-len(texts) // across)), PAPER)
    draw = ImageDraw.Draw(legend)
    for place, (number, text) in enumerate(texts.items()):
        x, y = place % across * step, (place // across + 0.5) * LEGEND_LINE
        draw.line((x, y, x + 22, y), EDGE, 5)
        draw.line((x + 1, y, x + 21, y), colours[number], 3)
        draw.text((x + 30, y), text, FAINT, font, anchor="lm")
    return legend


def _shortened(text: str, font: Font, width: float) -> str:
    """Shorten a text to this width by cutting out its middle, since names differ at their ends."""
    kept = len(text)
    short = text
    while kept and font.getlength(short) > width:
        kept -= 1
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
    return short
