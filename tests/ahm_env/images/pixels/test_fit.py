import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ahm_env.errors import ImageError, SettingsError
from ahm_env.images.pixels.fit import PixelSettings, fit_image, fit_mask, inner_box, to_uint8, with_channels

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda s: st.sampled_from([s, (*s, 3)]))
TYPES = st.sampled_from(
    [np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.float16, np.float32, np.float64]
)
FITS = st.sampled_from(["stretch", "pad"])


@pytest.mark.slow
@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.uint8, shape)), st.integers(1, 50), FITS)
def test_any_image_becomes_square_uint8(image: np.ndarray, size: int, fit: str) -> None:
    fitted = fit_image(image, PixelSettings(size, None, fit))
    assert fitted.shape in ((1, size, size), (3, size, size))
    assert fitted.dtype == np.uint8
    assert fitted.flags.c_contiguous
    assert image.min() <= fitted.min()
    assert fitted.max() <= image.max()


@pytest.mark.slow
@given(TYPES.flatmap(lambda kind: SHAPES.flatmap(lambda shape: hnp.arrays(kind, shape))))
def test_any_depth_becomes_uint8_or_is_refused_for_want_of_a_finite_value(image: np.ndarray) -> None:
    if np.isfinite(image).any():
        scaled = to_uint8(image)
        assert scaled.dtype == np.uint8
        assert scaled.shape == image.shape
    else:
        with pytest.raises(ImageError, match="no finite value"):
            to_uint8(image)


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32, np.float64])
def test_depth_is_scaled_between_the_percentiles(kind: type) -> None:
    image = np.arange(1001).astype(kind).reshape(7, 143)
    scaled = to_uint8(image).ravel()
    assert (scaled[:6] == 0).all()
    assert (scaled[995:] == 255).all()
    assert scaled[500] in (127, 128)
    assert (np.diff(scaled.astype(int)) >= 0).all()


def test_uint8_is_not_scaled() -> None:
    image = np.array([[10, 20], [30, 40]], np.uint8)
    assert np.array_equal(to_uint8(image), image)


def test_values_that_are_not_finite_go_to_the_ends() -> None:
    image = np.linspace(-1, 1, 400, dtype=np.float32).reshape(20, 20)
    image[0, :3] = np.nan, np.inf, -np.inf
    assert to_uint8(image)[0, :3].tolist() == [0, 255, 0]


def test_a_constant_image_becomes_black_and_an_outlier_remains_visible() -> None:
    image = np.full((100, 100), 700, np.uint16)
    assert (to_uint8(image) == 0).all()
    image[50, 50] = 900
    assert to_uint8(image)[50, 50] == 255


def test_the_largest_numbers_do_not_overflow() -> None:
    largest = np.finfo(np.float64).max
    assert to_uint8(np.array([[-largest, 0.0, largest]])).tolist() == [[0, 128, 255]]


@pytest.mark.slow
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 12), hnp.arrays(np.uint8, (36, 36)))
def test_area_interpolation_keeps_the_mean(rows: int, columns: int, size: int, image: np.ndarray) -> None:
    whole = image[: rows * size, : columns * size]
    size = min(size, *whole.shape)
    whole = whole[: whole.shape[0] // size * size, : whole.shape[1] // size * size]
    fitted = fit_image(whole, PixelSettings(size))
    assert abs(fitted.mean() - whole.mean()) <= 0.75


def test_a_thin_image_is_averaged_along_its_length() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (4, 320))
    assert np.abs(fit_image(stripes, PixelSettings(64)).astype(int) - 127).max() <= 1


def test_a_mask_lies_where_its_image_does() -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[30:, 45:] = 255
    for fit in ("stretch", "pad"):
        settings = PixelSettings(30, None, fit)
        image = fit_image(mask, settings)[0]
        inside = slice(*np.cumsum(inner_box(60, 90, settings)[0::2]))
        assert np.array_equal(fit_mask(mask, settings)[inside] > 0, image[inside] > 127)


@pytest.mark.slow
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 30))), st.integers(1, 40), FITS)
def test_a_mask_gets_no_new_class_numbers(mask: np.ndarray, size: int, fit: str) -> None:
    fitted = fit_mask(mask, PixelSettings(size, None, fit))
    assert fitted.shape == (size, size)
    assert set(np.unique(fitted)) <= {*np.unique(mask), 0}


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 300))
def test_the_inner_box_lies_in_the_square_and_keeps_the_aspect_ratio(height: int, width: int, size: int) -> None:
    top, left, inner_height, inner_width = inner_box(height, width, PixelSettings(size, None, "pad"))
    assert 0 <= top <= size - inner_height
    assert 0 <= left <= size - inner_width
    assert max(inner_height, inner_width) == size
    assert abs(inner_height * max(height, width) - height * size) <= max(height, width)


def test_padding_is_the_median_of_the_border_and_zero_in_a_mask() -> None:
    image = np.full((10, 20), 90, np.uint8)
    image[4:6, 8:12] = 255
    settings = PixelSettings(20, None, "pad")
    assert (fit_image(image, settings)[0, [0, -1]] == 90).all()
    assert (fit_mask(image, settings)[[0, -1]] == 0).all()


def test_equal_channels_are_grey() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)
    assert fit_image(np.stack([grey] * 3, axis=2), PixelSettings(5)).shape == (1, 5, 5)
    coloured = np.stack([grey] * 3, axis=2)
    coloured[:, :, 2] //= 2
    assert fit_image(coloured, PixelSettings(5)).shape == (3, 5, 5)


def test_channels_convert_by_luminance_and_by_repetition() -> None:
    red = np.zeros((3, 2, 2), np.uint8)
    red[0] = 255
    assert (with_channels(red, 1) == 76).all()
    assert with_channels(red[:1], 3).tolist() == red[[0, 0, 0]].tolist()
    assert with_channels(red, 3) is red


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": -5}, "image_size is -5"),
        ({"channels": 2}, "channels is 2"),
        ({"fit": "crop"}, "fit is 'crop'; choose one of: stretch, pad"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        PixelSettings(**settings)
