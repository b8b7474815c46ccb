"""Panels: image | policy map | masked | reconstruction | loss map, one row an image."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ahm_env.images.pixels.opencv import cv2
from ahm_env.masks import Bools, PatchGrid

Pixels = npt.NDArray[np.uint8]
Map = npt.NDArray[np.float32]
Limits = tuple[float, float]

TILE = 144  # shown side of an image, pixels
GAP = 8
HEADER = 30
FOOTER = 34  # room for a colour scale
PAPER, INK = (255, 255, 255), (40, 40, 48)
HIDDEN = (58, 62, 74)  # colour of a hidden patch
# Readable on skin, on grey scans, and for people who do not see red and green apart (Okabe, Ito, 2008)
COLOURS = ((0, 158, 255), (230, 159, 0), (0, 200, 140), (204, 121, 167), (240, 228, 66), (213, 94, 0))


def panel(columns: Mapping[str, Pixels], scales: Mapping[str, Limits] | None = None) -> Pixels:
    """Lay out columns of images under their headings, and colour scales under those that have one.

    Args:
        columns: Heading to images `(B, H, W, 3)` uint8 RGB; every column has the same number.
        scales: Heading to the numbers that the darkest and the brightest colour of its maps stand for.

    Returns:
        `(height, width, 3)` uint8 RGB.
    """
    rows = len(next(iter(columns.values())))
    width, height = len(columns) * (TILE + GAP) + GAP, HEADER + rows * (TILE + GAP) + (FOOTER if scales else 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, (heading, images) in enumerate(columns.items()):
        left = GAP + column * (TILE + GAP)
        draw.text((left + TILE / 2, HEADER / 2), heading, INK, font, anchor="mm")
        for row, image in enumerate(images):
            sheet.paste(Image.fromarray(enlarge(image)), (left, HEADER + row * (TILE + GAP)))
        if scales and heading in scales:
            top, ramp = height - FOOTER, np.arange(256, dtype=np.uint8)[None].repeat(8, 0)
            sheet.paste(Image.fromarray(_coloured(ramp)).resize((TILE, 8)), (left, top))
            for limit, place, anchor in zip(scales[heading], (left, left + TILE), ("lt", "rt"), strict=True):
                draw.text((place, top + 12), f"{limit:.2g}", INK, ImageFont.load_default(12), anchor=anchor)
    return np.asarray(sheet)


def limits(patch_maps: Map) -> Limits:
    """Find the smallest and the largest number of some maps."""
    finite = _finite(patch_maps)
    return float(finite.min()), float(finite.max())


def _finite(patch_maps: Map) -> Map:
    """Replace what is not finite, as of a policy that diverged, by 0."""
    return np.nan_to_num(patch_maps, posinf=0, neginf=0)


def enlarge(image: Pixels) -> Pixels:
    """Scale `(H, W, 3)` to the size of a tile: blocks stay sharp where pixels are magnified."""
    way = cv2.INTER_AREA if image.shape[0] > TILE else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (TILE, TILE), interpolation=way), np.uint8)


def as_rgb(images: Pixels) -> Pixels:
    """`(B, C, S, S)`, C 1 or 3, to `(B, S, S, 3)`."""
    return np.ascontiguousarray(np.broadcast_to(images, (len(images), 3, *images.shape[2:])).transpose(0, 2, 3, 1))


def colour_map(patch_map: Map, image_size: int, scale: Limits | None = None) -> Pixels:
    """Patch maps `(B, N)` as colours `(B, S, S, 3)`.

    Args:
        patch_map: `(B, N)`; what is not finite, as of a policy that diverged, is shown as 0.
        image_size: S.
        scale: Numbers of the darkest and the brightest colour; None: each map's own smallest and largest.
    """
    patch_map = _finite(patch_map)
    low, high = scale or (patch_map.min(1, keepdims=True), patch_map.max(1, keepdims=True))
    grey = (255 * (patch_map - low) / np.maximum(high - low, 1e-9)).clip(0, 255).round().astype(np.uint8)
    return np.stack([_coloured(one) for one in PatchGrid.of(grey.shape[1], image_size).to_pixels(grey)[:, 0]])


def _coloured(grey: Pixels) -> Pixels:
    """`(H, W)` to `(H, W, 3)`, from dark to bright."""
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)


def overlay(images: Pixels, patch_map: Map, opacity: float = 0.6, scale: Limits | None = None) -> Pixels:
    """Colours of a patch map `(B, N)` over grey versions of images `(B, S, S, 3)`; `scale` as in `colour_map`."""
    grey = images.mean(3, keepdims=True)
    blend = opacity * colour_map(patch_map, images.shape[1], scale) + (1 - opacity) * grey
    return np.asarray(blend, np.uint8)


def masked(images: Pixels, masks: Bools) -> Pixels:
    """Images `(B, S, S, 3)` with the patches of masks `(B, N)` painted over."""
    return np.where(hidden_pixels(masks, images.shape[1]), np.array(HIDDEN, np.uint8), images)


def hidden_pixels(masks: Bools, image_size: int) -> Bools:
    """Masks `(B, N)` as pixels `(B, S, S, 1)`, 1 hides."""
    return PatchGrid.of(masks.shape[1], image_size).to_pixels(masks).transpose(0, 2, 3, 1)


def draw_contour(picture: Pixels, inside: Bools, colour: tuple[int, int, int], line: int) -> None:
    """Outline what is inside, `(H, W)`, holes too, on a picture `(H, W, 3)`, with a line of so many pixels."""
    found, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, found, -1, colour, line, cv2.LINE_AA)


def reconstruction_columns(images: Pixels, masks: Bools, reconstructions: Pixels, losses: Map) -> dict[str, Pixels]:
    """Draw the columns masked, reconstruction, loss map.

    Args:
        images: `(B, C, S, S)` uint8.
        masks: `(B, N)` bool.
        reconstructions: `(B, C, S, S)` uint8; only their hidden patches are shown, in place of the image's.
        losses: `(B, N)` patch losses; only those of hidden patches are shown.
    """
    shown, made = as_rgb(images), as_rgb(reconstructions)
    pixels = hidden_pixels(masks, images.shape[2])
    loss = np.where(pixels, colour_map(np.where(masks, losses, 0), images.shape[2]), shown // 3)
    return {
        "masked": masked(shown, masks),
        "reconstruction": np.where(pixels, made, shown),
        "patch loss": loss.astype(np.uint8),
    }
