import numpy as np
import pytest

from ahm_env.images.inspection.copies import Copies, Twins
from ahm_env.images.inspection.inspected import Inspected, inspect_image
from ahm_env.images.pixels.opencv import cv2
from ahm_env.images.source import Pixels, Sample

TRAIN, VAL, TEST = range(3)
NONE = Twins(0, ())


def scene(seed: int, size: int = 96) -> Pixels:
    """Smooth noise with some fine structure."""
    noise = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
    parts = [cv2.normalize(cv2.GaussianBlur(noise, (0, 0), blur), None, 0, 120, cv2.NORM_MINMAX) for blur in (3, 12)]
    return sum(parts).astype(np.uint8)


def inspected(image: Pixels, name: str, split: int = TRAIN) -> Inspected:
    return inspect_image(Sample(name, name, image, split=split))


def compare(*images: tuple[Pixels, str, int]) -> tuple[Twins, Twins, Twins]:
    """Those in another split, those in their own, and those nearly the same."""
    with Copies() as copies:
        for image in images:
            copies.add(inspected(*image))
        return *copies.same(), copies.near()


def test_the_same_pixels_are_told_by_split() -> None:
    images = [scene(seed) for seed in range(4)]
    across, within, near = compare(
        *((image, f"{number}.png", TRAIN) for number, image in enumerate(images)),
        (images[2], "again.bmp", TEST),
        (images[3], "twice.png", TRAIN),
        (images[2], "third.png", TEST),
    )
    assert across.count == 2
    assert across.pairs == (("again.bmp (test)", "2.png (train)"), ("third.png (test)", "2.png (train)"))
    assert within.count == 2
    assert within.pairs == (("twice.png", "3.png"), ("third.png", "again.bmp"))
    assert near == NONE


CHANGES = {
    "jpeg": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], 0),
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "larger": lambda image: cv2.resize(image, (171, 140), interpolation=cv2.INTER_CUBIC),
    "brighter": lambda image: (image * 0.8 + 40).astype(np.uint8),
    "colour": lambda image: np.stack([image, image, image // 2], axis=2),
    "deeper": lambda image: image.astype(np.uint16) * 200,
    "noise": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8),
    "one pixel": lambda image: np.where(np.arange(image.size).reshape(image.shape) == 99, 255, image).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nearly_the_same_image_in_another_split_is_found(change: str) -> None:
    others = [(scene(seed), f"{seed}.png", seed % 3) for seed in range(30)]
    across, within, near = compare(*others, (CHANGES[change](scene(6)), "changed.png", VAL))
    assert (across, within) == (NONE, NONE)
    assert near == Twins(1, (("changed.png (val)", "6.png (train)"),))


def test_images_that_are_alike_within_a_split_or_only_roughly_are_not_told() -> None:
    shade = np.indices((96, 96)).sum(axis=0)
    alike = [(np.uint8(0.6 * shade + scene(seed) // 4), f"{seed}.png", seed % 2) for seed in range(20)]
    assert np.corrcoef(alike[0][0].ravel(), alike[1][0].ravel())[0, 1] > 0.9
    assert compare(*alike, (CHANGES["jpeg"](alike[4][0]), "copy.jpg", TRAIN)) == (NONE, NONE, NONE)


def test_images_of_nearly_one_colour_are_copies_of_none() -> None:
    black = np.zeros((20, 30), np.uint8)
    one, faint = black.copy(), black + np.indices(black.shape).sum(axis=0).astype(np.uint8) // 30
    one[3, 3] = 9
    assert inspected(faint, "faint").plain
    assert compare(*((image, str(i), split) for split in (0, 1) for i, image in enumerate((black, one, faint)))) == (
        NONE,
        NONE,
        NONE,
    )


def test_all_of_many_copies_are_found_whatever_else_is_there() -> None:
    images = [(scene(seed, 64), f"{seed}", TRAIN) for seed in range(1000)]
    images += [(CHANGES["jpeg"](scene(seed, 64)), f"copy {seed}", TEST) for seed in range(0, 1000, 10)]
    images += [(scene(seed, 64), f"{seed}", VAL) for seed in range(2000, 2300)]
    assert compare(*images)[2].count == 100


def test_frames_that_are_all_alike_are_all_told() -> None:
    noise = np.random.default_rng(0)
    frames = [(np.clip(scene(0) + noise.normal(0, 2, (96, 96)), 0, 255), f"{i}", i % 2) for i in range(100)]
    assert compare(*((frame.astype(np.uint8), name, split) for frame, name, split in frames))[2].count == 50


def test_names_that_differ_in_case_or_unicode_form_only_are_told() -> None:
    names = ["Scan1.png", "scan1.tif", "scan2.png", "a\u0308.png", "\u00e4.png", "b\udcfc.png", "B\udcfc.png"]
    with Copies() as copies:
        for name in names:
            copies.add(inspected(scene(0, 32), name))
        found = copies.named_alike()
    assert found.count == 3
    assert set(map(frozenset, found.pairs)) == set(map(frozenset, (names[:2], names[3:5], names[5:])))


@pytest.mark.parametrize("count", [0, 1])
def test_of_one_image_or_none_nothing_is_told(count: int) -> None:
    with Copies() as copies:
        for number in range(count):
            copies.add(inspected(scene(number), "a.png"))
        assert [copies.named_alike(), *copies.same(), copies.near()] == [NONE] * 4


@pytest.mark.parametrize(("share", "count"), [(0.99, 1), (0.85, 0)])
def test_what_has_much_of_the_fine_structure_of_an_image_is_no_copy_yet(share: float, count: int) -> None:
    one, other = scene(0).astype(float), scene(1)
    blend = (share * one + np.sqrt(1 - share**2) * other) / 2  # correlates with the image by its share, roughly
    assert compare((scene(0), "one.png", TRAIN), (blend.astype(np.uint8), "blend.png", VAL))[2].count == count
