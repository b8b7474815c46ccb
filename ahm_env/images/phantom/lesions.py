"""The three lesions of a phantom, with what a dermatologist looks for in each.

nevus: symmetric, smooth border, one or two browns, a regular pigment network or globules.
melanoma: irregular border, several colours, asymmetric; atypical network, dots, streaks, veil.
keratosis: stuck on, waxy, sharp border; milia-like cysts, comedo-like openings, ridges.
"""

from dataclasses import dataclass

import numpy as np

from ahm_env.images.phantom.canvas import Canvas, Colour, Field, smoothstep
from ahm_env.images.pixels.opencv import cv2

ANGLES = 512


@dataclass(frozen=True, slots=True)
class Lesion:
    """Where a lesion is.

    Attributes:
        depth: (R, R) distance from the border as a share of the radius: 1 at the centre, 0 at the border,
            negative outside.
        centre: (x, y) on the canvas.
        radius: Mean radius on the canvas.
    """

    depth: Field
    centre: tuple[float, float]
    radius: float

    def scatter(self, canvas: Canvas, count: int, reach: float) -> Field:
        """`count` points spread evenly within `reach` of the radius: (count, 2)."""
        distance = self.radius * reach * np.sqrt(canvas.rng.random(count, np.float32))
        angle = canvas.rng.random(count, np.float32) * (2 * np.pi)
        offsets: Field = np.stack([distance * np.cos(angle), distance * np.sin(angle)], axis=1)
        return np.asarray(offsets + np.array(self.centre))


def nevus(canvas: Canvas) -> Lesion:
    """Draw a nevus."""
    rng = canvas.rng
    lesion = _place(canvas, waves=5, roughness=0.05, warp=0.025, aspect=rng.uniform(0.7, 1.0))
    inside = smoothstep(lesion.depth, -0.08, rng.uniform(0.15, 0.45))
    brown = _brown(canvas, rng.uniform(0.1, 0.75))
    canvas.lay(brown, inside * rng.uniform(0.7, 0.95))
    second = _brown(canvas, rng.uniform(0.1, 0.9))
    if rng.random() < 0.5:
        canvas.lay(second, smoothstep(lesion.depth, 0.25, 0.75) * 0.75)
    else:
        canvas.lay(second, inside * smoothstep(lesion.depth, 0.6, 0.2) * 0.6)
    inside_only = smoothstep(lesion.depth, 0.0, 0.2)
    canvas.shade(1 + inside_only * 0.1 * canvas.fractal(12))
    if rng.random() < 0.65:
        lines = _network(canvas, rng.uniform(0.085, 0.125), 0.4)
        fading = inside_only * smoothstep(lesion.depth, 1.1, 0.3) * smoothstep(canvas.noise(5), -1.6, 0.2)
        canvas.lay(brown * 0.4, lines * fading * rng.uniform(0.5, 0.8))
        canvas.lay(brown * 0.5 + 100, (1 - lines) * fading * 0.2)
    else:
        _globules(canvas, lesion, count=int(rng.integers(60, 150)), reach=0.88, colour=brown * 0.42, size=0.026)
    return lesion


def melanoma(canvas: Canvas) -> Lesion:
    """Draw a melanoma."""
    rng = canvas.rng
    lesion = _place(canvas, waves=14, roughness=0.19, warp=0.075, aspect=rng.uniform(0.6, 1.0))
    inside = smoothstep(lesion.depth, -0.05, rng.uniform(0.08, 0.35))
    canvas.lay(_brown(canvas, rng.uniform(0.05, 0.6)), inside * 0.93)
    # A slant through the lesion puts each colour on one side: asymmetry is the point.
    slant = rng.uniform(0, 2 * np.pi)
    dx, dy = canvas.x - lesion.centre[0], canvas.y - lesion.centre[1]
    across = (dx * np.cos(slant) + dy * np.sin(slant)) / lesion.radius
    blue_grey, red, white = (98, 104, 122), (168, 72, 66), (206, 178, 166)
    canvas.lay(_brown(canvas, 0.9), inside * smoothstep(canvas.fractal(4) + 1.1 * across, 0.0, 0.9) * 0.9)
    canvas.lay((32, 22, 22), inside * smoothstep(canvas.fractal(5) + across, 0.7, 1.4) * 0.9)
    for colour, share in ((blue_grey, 0.7), (red, 0.45), (white, 0.35)):
        if rng.random() < share:
            canvas.lay(colour, inside * smoothstep(canvas.fractal(4, 2) - across, 0.5, 1.4) * rng.uniform(0.5, 0.85))
    border = smoothstep(lesion.depth, 0.0, 0.12)
    canvas.shade(1 + border * 0.14 * canvas.fractal(14))
    lines = _network(canvas, rng.uniform(0.1, 0.17), 0.9)
    canvas.lay((36, 22, 18), lines * border * smoothstep(canvas.noise(4), -0.3, 0.6) * 0.75)
    _globules(canvas, lesion, count=int(rng.integers(25, 80)), reach=1.0, colour=(30, 18, 18), size=0.026)
    if rng.random() < 0.4:
        _streaks(canvas, lesion)
    return lesion


def keratosis(canvas: Canvas) -> Lesion:
    """Draw a seborrhoeic keratosis."""
    rng = canvas.rng
    lesion = _place(canvas, waves=6, roughness=0.12, warp=0.035, aspect=rng.uniform(0.65, 1.0))
    inside = smoothstep(lesion.depth, -0.02, 0.06)
    waxy = np.array([[164, 128, 88], [140, 116, 92], [120, 84, 58], [178, 142, 108], [92, 70, 56]])[rng.integers(5)]
    canvas.lay(waxy * rng.uniform(0.85, 1.1), inside * 0.95)
    height = canvas.fractal(9, 3)
    ridges = np.abs(canvas.fractal(7, 2))
    # Light from the upper left: the slope of the surface makes it look stuck on.
    relief = height * 0.09 + smoothstep(lesion.depth, 0.0, 0.18) * 0.5
    step = max(1, canvas.resolution // 64)
    slope = relief - np.roll(relief, (step, step), (0, 1))
    canvas.shade(1 + inside * np.clip(slope * 1.4, -0.35, 0.35))
    canvas.lay(waxy * 0.45, inside * smoothstep(ridges, 0.16, 0.04) * rng.uniform(0.3, 0.7))
    canvas.shade(1 + inside * 0.1 * canvas.fractal(20, 2))
    _globules(canvas, lesion, int(rng.integers(6, 26)), reach=0.85, colour=(56, 38, 28), size=0.032)
    _globules(canvas, lesion, int(rng.integers(14, 50)), reach=0.88, colour=(232, 214, 182), size=0.019)
    return lesion


def _place(canvas: Canvas, waves: int, roughness: float, warp: float, aspect: float) -> Lesion:
    rng = canvas.rng
    radius = float(rng.triangular(0.26, 0.5, 0.78))
    reach = max(0.06, 0.6 - 0.65 * radius)
    centre = (float(rng.uniform(-reach, reach)), float(rng.uniform(-reach, reach)))
    tilt = rng.uniform(0, np.pi)
    dx, dy = canvas.x - centre[0], canvas.y - centre[1]
    along = dx * np.float32(np.cos(tilt)) + dy * np.float32(np.sin(tilt)) + warp * radius * 2 * canvas.fractal(5)
    across = (dy * np.float32(np.cos(tilt)) - dx * np.float32(np.sin(tilt))) / np.float32(aspect)
    distance, angle = cv2.cartToPolar(along, (across + warp * radius * 2 * canvas.fractal(5)).astype(np.float32))
    theta = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    order = np.arange(2, 2 + waves)
    amplitude = roughness * rng.standard_normal(waves) / order**0.9
    outline = 1 + amplitude @ np.cos(order[:, None] * theta + rng.uniform(0, 2 * np.pi, waves)[:, None])
    index = (angle * (ANGLES / (2 * np.pi))).astype(np.intp) % ANGLES
    border = np.clip(outline, 0.35, 1.8).astype(np.float32)[index]
    depth = (1 - distance / (radius * border)).astype(np.float32)
    return Lesion(depth, centre, radius)


def _brown(canvas: Canvas, darkness: float) -> Field:
    hue = canvas.rng.random()
    light = hue * np.array([190.0, 112.0, 84.0]) + (1 - hue) * np.array([178.0, 130.0, 82.0])
    return light + darkness * (np.array([56.0, 32.0, 26.0]) - light)


def _network(canvas: Canvas, period: float, disorder: float) -> Field:
    """Draw a honeycomb of dark lines around light holes, as melanin lies in ridges of the skin: (R, R) 0..1."""
    turn = canvas.rng.uniform(0, np.pi)
    bent_x = canvas.x + disorder * period * canvas.noise(7)
    bent_y = canvas.y + disorder * period * canvas.noise(7)
    holes = np.zeros_like(canvas.x)
    for k in range(3):
        angle = turn + k * np.pi / 3
        along = bent_x * np.float32(np.cos(angle)) + bent_y * np.float32(np.sin(angle))
        holes += np.cos(along * (2 * np.pi / period))
    return smoothstep(holes, 0.7, -0.9)


def _globules(canvas: Canvas, lesion: Lesion, count: int, reach: float, colour: Colour, size: float) -> None:
    radii = canvas.rng.uniform(0.45, 1.15, count) * size
    cover = canvas.dots(lesion.scatter(canvas, count, reach), radii)
    canvas.lay(colour, cover * smoothstep(lesion.depth, 0.02, 0.1) * 0.85)


def _streaks(canvas: Canvas, lesion: Lesion) -> None:
    """Short rays over one stretch of the border."""
    count = int(canvas.rng.integers(14, 34))
    angles = canvas.rng.uniform(0, 2 * np.pi) + canvas.rng.uniform(-1.1, 1.1, count)
    inner, outer = canvas.rng.uniform(0.55, 0.8, count), canvas.rng.uniform(0.92, 1.18, count)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None] * np.stack([inner, outer], axis=1)[..., None]
    curves = list(rays * lesion.radius + np.array(lesion.centre))
    canvas.lay((42, 26, 22), canvas.lines(curves, 0.022) * smoothstep(lesion.depth, -0.4, 0.05) * 0.8)
