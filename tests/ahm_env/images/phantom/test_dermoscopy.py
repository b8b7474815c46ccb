import numpy as np
import pytest

from ahm_env.images.phantom.dermoscopy import CLASSES, draw
from ahm_env.images.pixels.opencv import cv2


@pytest.mark.parametrize("size", [1, 7, 64, 128, 200])
def test_image_and_mask_have_the_size_asked_for(size: int) -> None:
    image, mask, label = draw(0, 3, size)
    assert (image.shape, image.dtype) == ((size, size, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((size, size), np.uint8)
    assert 0 <= label < len(CLASSES)


def test_a_phantom_depends_on_seed_and_index_only() -> None:
    first = draw(5, 9, 64)
    draw(5, 10, 64)
    again = draw(5, 9, 64)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], draw(6, 9, 64)[0])
    assert not np.array_equal(first[0], draw(5, 10, 64)[0])


def test_the_scene_is_the_same_at_any_size() -> None:
    for index in range(6):
        small, large = draw(2, index, 64), draw(2, index, 256)
        reduced = cv2.resize(large[0], (64, 64), interpolation=cv2.INTER_AREA)
        assert np.abs(reduced.astype(int) - small[0]).mean() < 12
        assert small[2] == large[2]
        assert abs((small[1] > 0).mean() - (large[1] > 0).mean()) < 0.02


@pytest.mark.slow
def test_every_lesion_is_visible_and_all_classes_occur() -> None:
    drawn = [draw(0, index, 64) for index in range(90)]
    assert {label for _, _, label in drawn} == {0, 1, 2}
    for _, mask, _ in drawn:
        assert set(np.unique(mask)) == {0, 255}
        assert 0.02 < (mask > 0).mean() < 0.7


@pytest.mark.slow
def test_the_lesion_is_the_most_structured_thing() -> None:
    ratios = []
    for index in range(90):
        image, mask, _ = draw(0, index, 64)
        pixels = image.astype(np.float32)
        detail = np.abs(pixels - cv2.GaussianBlur(pixels, (0, 0), 4)).mean(axis=2)
        ratios.append(detail[mask > 0].mean() / detail[mask == 0].mean())
    assert np.median(ratios) > 2.5
    assert np.mean(np.array(ratios) > 1) > 0.9


@pytest.mark.slow
def test_a_melanoma_has_a_rougher_border_and_more_colours_than_a_nevus() -> None:
    roughness: dict[str, list[float]] = {name: [] for name in CLASSES}
    colours: dict[str, list[float]] = {name: [] for name in CLASSES}
    for index in range(120):
        image, mask, label = draw(1, index, 128)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        border = max(contours, key=cv2.contourArea)
        roughness[CLASSES[label]].append(cv2.arcLength(border, True) ** 2 / cv2.contourArea(border))
        # Blurred, so that the texture of a lesion does not count as several colours.
        hues = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), (0, 0), 4)[..., 1:]
        colours[CLASSES[label]].append(float(hues[mask > 0].std(axis=0).mean()))
    assert np.median(roughness["melanoma"]) > 1.3 * np.median(roughness["nevus"])
    assert np.median(colours["melanoma"]) > 1.3 * np.median(colours["nevus"])
