"""One dermoscopic phantom: skin, a lesion, and what gets between it and the camera."""

import numpy as np

from ahm_env.images.phantom.canvas import Canvas, Field, smoothstep
from ahm_env.images.phantom.lesions import keratosis, melanoma, nevus
from ahm_env.images.pixels.fit import Image8
from ahm_env.images.pixels.opencv import cv2

LESIONS = {"keratosis": keratosis, "melanoma": melanoma, "nevus": nevus}
CLASSES = tuple(sorted(LESIONS))
# To be raised with every change of the drawing, so that cached phantoms are drawn anew.
DRAWING = 2
LEAST_RESOLUTION = 128

SKIN_TONES = np.array([[240, 212, 196], [230, 190, 166], [216, 168, 138], [184, 132, 100], [136, 92, 66], [98, 66, 50]])


def draw(seed: int, index: int, size: int) -> tuple[Image8, Image8, int]:
    """Draw phantom `index` of a seed.

    Args:
        seed: At least 0.
        index: At least 0.
        size: S, in pixels.

    Returns:
        Image (S, S, 3) uint8 RGB, mask (S, S) uint8 of 0 and 255, and class number, an index into `CLASSES`.
    """
    canvas = Canvas(max(size, LEAST_RESOLUTION), np.random.default_rng([seed, index]))
    label = int(canvas.rng.integers(len(CLASSES)))
    _skin(canvas)
    lesion = LESIONS[CLASSES[label]](canvas)
    for chance, artefact in ((0.4, _hair), (0.15, _bubbles), (0.25, _ruler), (0.06, _disc), (0.06, _ink)):
        if canvas.rng.random() < chance:
            artefact(canvas)
    _light(canvas)
    if canvas.rng.random() < 0.15:
        _vignette(canvas)
    _sensor(canvas)
    image = canvas.rgb.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    image = np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    mask = cv2.resize((lesion.depth > 0).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return image, np.where(mask >= 0.5, 255, 0).astype(np.uint8), label


def label_of(seed: int, index: int) -> int:
    """Class number of phantom `index` of a seed, without drawing it."""
    return int(np.random.default_rng([seed, index]).integers(len(CLASSES)))


def _skin(canvas: Canvas) -> None:
    rng = canvas.rng
    tone = min(rng.exponential(1.2), len(SKIN_TONES) - 1.001)
    below = int(tone)
    colour = SKIN_TONES[below] + (tone - below) * (SKIN_TONES[below + 1] - SKIN_TONES[below])
    redness = rng.uniform(-0.5, 1.0)
    colour = colour * (1 + redness * np.array([0.03, -0.05, -0.03]))
    canvas.rgb[:] = colour[:, None, None]
    canvas.lay(colour * [0.98, 0.8, 0.78], smoothstep(canvas.fractal(4), -0.2, 2.0) * rng.uniform(0.1, 0.6))
    canvas.lay(colour * [0.86, 0.76, 0.66], smoothstep(canvas.fractal(9), 0.3, 3.0) * rng.uniform(0.0, 0.6))
    # Furrows of the skin: fine, crossing, fainter than anything in a lesion.
    turn = rng.uniform(0, np.pi)
    for angle in (turn, turn + rng.uniform(0.9, 1.6)):
        along = canvas.x * np.float32(np.cos(angle)) + canvas.y * np.float32(np.sin(angle))
        waves = np.cos((along + 0.05 * canvas.noise(6)) * rng.uniform(45, 70))
        canvas.shade(1 - np.float32(rng.uniform(0.0, 0.02)) * smoothstep(waves, 0.6, 1.0))
    if rng.random() < 0.3:
        _vessels(canvas)


def _vessels(canvas: Canvas) -> None:
    curves = [_curve(canvas, length=canvas.rng.uniform(0.2, 0.6), bend=4) for _ in range(canvas.rng.integers(4, 12))]
    faint = canvas.lines(curves, 0.012) * np.float32(canvas.rng.uniform(0.15, 0.35))
    canvas.lay((178, 70, 78), faint)


def _curve(canvas: Canvas, length: float, bend: float) -> Field:
    rng = canvas.rng
    steps = 16
    turns = rng.normal(bend * rng.normal(0, 0.05), bend * 0.07, steps)
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(turns)
    path: Field = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0) * (length / steps)
    middle = path.mean(axis=0) + rng.uniform(-1, 1, 2)
    return np.asarray(path - middle)


def _hair(canvas: Canvas) -> None:
    rng = canvas.rng
    count = int(1 + rng.exponential(6))
    colour = np.array([[38, 28, 26], [70, 48, 36], [150, 118, 84]])[rng.choice(3, p=[0.6, 0.3, 0.1])]
    curves = [_curve(canvas, length=rng.uniform(0.5, 2.2), bend=1.2) for _ in range(min(count, 24))]
    canvas.lay(colour, canvas.lines(curves, float(rng.uniform(0.006, 0.017))) * np.float32(rng.uniform(0.7, 0.95)))


def _bubbles(canvas: Canvas) -> None:
    rng = canvas.rng
    for _ in range(rng.integers(2, 9)):
        radius = rng.uniform(0.02, 0.075)
        x, y = rng.uniform(-0.95, 0.95, 2)
        distance = np.hypot(canvas.x - np.float32(x), canvas.y - np.float32(y)) / np.float32(radius)
        rim = smoothstep(np.abs(distance - 1), 0.28, 0.0)
        from_glint = np.hypot(canvas.x - x + radius * 0.4, canvas.y - y + radius * 0.4).astype(np.float32)
        glint = smoothstep(from_glint, radius * 0.35, 0)
        canvas.lay((120, 100, 92), rim * 0.4)
        canvas.lay((252, 250, 248), np.maximum(smoothstep(distance, 1.0, 0.2) * 0.22, glint * 0.9))


def _ruler(canvas: Canvas) -> None:
    rng = canvas.rng
    heading = rng.normal(0, 0.25) + rng.integers(2) * np.pi / 2
    direction = np.array([np.cos(heading), np.sin(heading)])
    normal = np.array([-np.sin(heading), np.cos(heading)])
    side = rng.choice([-1, 1])
    middle = normal * side * rng.uniform(0.72, 0.9) + direction * rng.uniform(-0.3, 0.3)
    ticks = np.linspace(-1, 1, 21) * rng.uniform(0.35, 0.7)
    lengths = np.where(np.arange(21) % 5, 0.04, 0.08)
    feet = middle + ticks[:, None] * direction
    curves = [np.stack([feet[0], feet[-1]])] + [
        np.stack([a, a - n * side * normal]) for a, n in zip(feet, lengths, strict=True)
    ]
    canvas.lay((36, 32, 36), canvas.lines(curves, 0.01) * 0.85)


def _disc(canvas: Canvas) -> None:
    rng = canvas.rng
    colour = np.array([[24, 132, 186], [222, 146, 44], [92, 176, 120], [204, 186, 62]])[rng.integers(4)]
    angle = rng.uniform(0, 2 * np.pi)
    distance = np.hypot(canvas.x - 1.25 * np.cos(angle), canvas.y - 1.25 * np.sin(angle)).astype(np.float32)
    canvas.lay(colour, smoothstep(distance, 0.52, 0.49))


def _ink(canvas: Canvas) -> None:
    curves = [_curve(canvas, length=canvas.rng.uniform(0.15, 0.5), bend=0.3) for _ in range(canvas.rng.integers(2, 7))]
    canvas.lay((92, 66, 150), canvas.lines(curves, 0.03) * 0.55)


def _light(canvas: Canvas) -> None:
    rng = canvas.rng
    slope_x, slope_y = (np.float32(value) for value in rng.normal(0, 0.06, 2))
    falloff = np.float32(rng.uniform(0, 0.16))
    canvas.shade(1 + slope_x * canvas.x + slope_y * canvas.y - falloff * (canvas.x**2 + canvas.y**2) / 2)
    canvas.rgb *= rng.uniform(0.97, 1.03, (3, 1, 1)) * rng.uniform(0.9, 1.06)


def _vignette(canvas: Canvas) -> None:
    x, y = canvas.rng.normal(0, 0.05, 2)
    radius = canvas.rng.uniform(0.98, 1.25)
    distance = np.hypot(canvas.x - np.float32(x), canvas.y - np.float32(y))
    canvas.lay((14, 10, 12), smoothstep(distance, radius - 0.09, radius + 0.03))


def _sensor(canvas: Canvas) -> None:
    blurred = cv2.GaussianBlur(canvas.rgb.transpose(1, 2, 0), (0, 0), canvas.resolution / 256)
    strength = np.float32(canvas.rng.uniform(0.6, 2.2))
    grain = canvas.rng.standard_normal((canvas.resolution, canvas.resolution), np.float32) * strength
    canvas.rgb = np.asarray(blurred).transpose(2, 0, 1) + grain
