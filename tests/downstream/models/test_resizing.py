"""Between an image at its own size and the square that a model sees."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahm_env import ImageError, load_images
from ahm_env.images.dataset.loader import originals
from ahm_env.images.pixels.fit import PixelSettings, fit_mask
from downstream.models.model import ModelSpec
from downstream.models.resizing import to_original, to_square

CARD = ModelSpec(
    "segmentation", "unet", ("background", "1"), (0, 1), 16, 3, "stretch", (0.0,) * 3, (1.0,) * 3, 2, "batch", False
)
SIDES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize(("channels", "grey"), [(1, False), (3, False), (3, True), (1, True)])
def test_a_model_sees_new_images_as_it_saw_those_of_its_training(write_source, fit: str, channels: int, grey: bool):
    images = load_images(write_source(grey=grey), 16, channels, fit)
    spec = replace(CARD, fit=fit, channels=channels)
    squares = [to_square(sample.image, spec) for sample in originals(images, range(len(images)))]
    np.testing.assert_array_equal(np.stack(squares), images.images(range(len(images))))


def test_an_image_without_a_finite_value_is_refused():
    with pytest.raises(ImageError, match="no finite value"):
        to_square(np.full((4, 4), np.nan), CARD)


@given(shape=SIDES, fit=st.sampled_from(["stretch", "pad"]), number=st.floats(-3, 3, width=32, allow_subnormal=False))
def test_maps_get_the_size_of_the_image_and_keep_their_values(shape, fit, number):
    maps = np.stack([np.full((16, 16), number, np.float32), np.zeros((16, 16), np.float32)])
    found = to_original(maps, *shape, replace(CARD, fit=fit))
    assert (found.shape, found.dtype) == ((2, *shape), np.float32)
    np.testing.assert_allclose(found[0], number, rtol=1e-5, atol=1e-30)
    assert not found[1].any()


@given(shape=SIDES)
def test_what_was_found_in_the_padding_is_nowhere_in_the_image(shape):
    spec = replace(CARD, fit="pad")
    inside = fit_mask(np.ones(shape, np.uint8), PixelSettings(16, 3, "pad"))
    assert not to_original((1 - inside[None]).astype(np.float32), *shape, spec).any()


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((64, 64), (8, 40, 12, 24)),
        ((32, 64), (8, 16, 20, 60)),  # sixteen times as many pixels as in the square
        ((64, 32), (4, 44, 8, 32)),
        ((48, 64), (12, 48, 4, 40)),
        ((8, 4), (2, 6, 0, 3)),  # larger in the square than it is
    ],
)
def test_a_rectangle_returns_to_its_place(fit: str, shape: tuple[int, int], box: tuple[int, int, int, int]):
    spec = replace(CARD, fit=fit)
    mask = np.zeros(shape, np.uint8)
    mask[box[0] : box[1], box[2] : box[3]] = 1
    seen = to_square(mask * 255, spec)[0].astype(np.float32) / 255
    back = to_original(seen[None], *shape, spec)[0] > 0.5
    rows, columns = (np.flatnonzero(back.any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == box
    # corners are rounded off, as of any map that is enlarged
    assert np.count_nonzero(back != mask) <= 4 * (max(shape) / 16) ** 2 / 4
