import cv2
import numpy as np
import pytest

from ahm_env.rendering import (
    GAP,
    HEADER,
    HIDDEN,
    PAPER,
    TILE,
    as_rgb,
    colour_map,
    enlarge,
    limits,
    masked,
    overlay,
    panel,
    reconstruction_columns,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def tile(sheet, row, column):
    top, left = HEADER + row * (TILE + GAP), GAP + column * (TILE + GAP)
    return sheet[top : top + TILE, left : left + TILE]


def blown_up(masks, image_size):
    side = int(masks.shape[1] ** 0.5)
    patch = image_size // side
    grid = masks.reshape(-1, side, side)
    return np.stack([np.kron(one, np.ones((patch, patch), one.dtype)) for one in grid])


# Panels


@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (4, 1), (3, 5)])
def test_a_panel_has_a_tile_for_every_image_in_its_row_and_column(columns, rows):
    images = noise(columns, rows, 1, 1, 3).repeat(16, 2).repeat(16, 3)  # one colour each
    sheet = panel({f"column {number}": images[number] for number in range(columns)})
    assert sheet.shape == (HEADER + rows * (TILE + GAP), GAP + columns * (TILE + GAP), 3)
    assert sheet.dtype == np.uint8
    for column in range(columns):
        for row in range(rows):
            assert (tile(sheet, row, column) == images[column, row, 0, 0]).all()


def test_between_the_tiles_there_is_paper_and_above_them_their_headings():
    sheet = panel({"image": noise(2, 16, 16, 3), "masked": noise(2, 16, 16, 3)})
    covered = np.zeros(sheet.shape[:2], bool)
    for row in range(2):
        for column in range(2):
            top, left = HEADER + row * (TILE + GAP), GAP + column * (TILE + GAP)
            covered[top : top + TILE, left : left + TILE] = True
    assert (sheet[HEADER:][~covered[HEADER:]] == PAPER).all()
    for column in range(2):
        left = GAP + column * (TILE + GAP)
        assert (sheet[:HEADER, left : left + TILE] < 128).any()


def test_magnified_patches_stay_sharp():
    image = noise(16, 16, 3)
    assert np.array_equal(enlarge(image), image.repeat(9, 0).repeat(9, 1))


def test_larger_images_are_averaged_down():
    image = noise(2 * TILE, 2 * TILE, 3)
    small = enlarge(image)
    assert small.shape == (TILE, TILE, 3)
    means = image.reshape(TILE, 2, TILE, 2, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 1


# Colours


def test_grey_images_get_three_equal_channels():
    images = noise(2, 1, 5, 5)
    shown = as_rgb(images)
    assert shown.shape == (2, 5, 5, 3)
    for channel in range(3):
        assert np.array_equal(shown[..., channel], images[:, 0])


def test_colour_images_keep_their_channels_in_order():
    images = noise(2, 3, 5, 5)
    shown = as_rgb(images)
    for channel in range(3):
        assert np.array_equal(shown[..., channel], images[:, channel])


def ends_of_the_colours():
    """RGB of the smallest and of the largest number."""
    ends = cv2.applyColorMap(np.array([[0, 255]], np.uint8), cv2.COLORMAP_INFERNO)[0, :, ::-1]
    return ends[0].tolist(), ends[1].tolist()


@pytest.mark.parametrize(("image_size", "side"), [(32, 4), (48, 8), (10, 2), (8, 8)])
def test_a_map_goes_from_its_smallest_number_dark_to_its_largest_bright(image_size, side):
    maps = np.random.default_rng(0).normal(size=(3, side * side)).astype(np.float32)
    colours = colour_map(maps, image_size)
    assert colours.shape == (3, image_size, image_size, 3)
    assert colours.dtype == np.uint8
    dark, bright = ends_of_the_colours()
    assert sum(bright) > sum(dark)
    patch = image_size // side
    for number, one in enumerate(maps):
        for place, colour in ((one.argmin(), dark), (one.argmax(), bright)):
            row, column = divmod(int(place), side)
            shown = colours[number, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            assert (shown == colour).all()


@pytest.mark.parametrize("patch", [8, 41, 49])
def test_a_patch_has_one_colour_and_it_grows_with_the_number(patch):
    maps = np.arange(9, dtype=np.float32)[None]
    colours = colour_map(maps, 3 * patch)[0]
    patches = colours.reshape(3, patch, 3, patch, 3).swapaxes(1, 2).reshape(9, -1, 3)
    assert all((one == one[0]).all() for one in patches)
    brightness = patches[:, 0].astype(int).sum(1)
    assert (np.diff(brightness) > 0).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_shown_as_0(value: float) -> None:
    maps = np.linspace(-1, 1, 16, dtype=np.float32)[None]
    maps[0, 3], finite = value, maps.copy()
    finite[0, 3] = 0
    assert np.array_equal(colour_map(maps, 16), colour_map(finite, 16))
    assert np.array_equal(colour_map(maps, 16, (0, 1)), colour_map(finite, 16, (0, 1)))
    assert limits(maps) == limits(finite) == (-1, 1)


def test_a_map_of_equal_numbers_is_dark():
    assert (colour_map(np.full((1, 16), 3.5, np.float32), 16) == ends_of_the_colours()[0]).all()


def test_every_map_is_scaled_by_itself():
    maps = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)
    maps[1] *= 1000
    assert np.array_equal(colour_map(maps, 16)[:1], colour_map(maps[:1], 16))
    assert np.array_equal(colour_map(maps[:1] * 8 + 3, 16), colour_map(maps[:1], 16))


def test_an_overlay_mixes_the_colours_with_the_grey_image():
    images = noise(2, 16, 16, 3)
    maps = np.random.default_rng(2).normal(size=(2, 16)).astype(np.float32)
    mixed = overlay(images, maps, 0.25)
    expected = 0.25 * colour_map(maps, 16) + 0.75 * images.mean(3, keepdims=True)
    assert mixed.dtype == np.uint8
    assert np.abs(mixed - expected).max() <= 1
    assert np.array_equal(overlay(images, maps, 1.0), colour_map(maps, 16))


# Masks


@pytest.mark.parametrize(("image_size", "side"), [(32, 4), (48, 8), (10, 2)])
def test_exactly_the_hidden_patches_are_painted_over(image_size, side):
    images = noise(3, image_size, image_size, 3)
    masks = np.random.default_rng(0).random((3, side * side)) < 0.5
    shown = masked(images, masks)
    pixels = blown_up(masks, image_size)
    assert shown.dtype == np.uint8
    assert (shown[pixels] == HIDDEN).all()
    assert np.array_equal(shown[~pixels], images[~pixels])


def test_the_first_patch_is_at_the_top_left_and_the_second_right_of_it():
    shown = masked(np.zeros((1, 4, 4, 3), np.uint8), np.array([[0, 1, 0, 0]], bool))[0]
    assert (shown[:2, 2:] == HIDDEN).all()
    assert (shown[2:] == 0).all()
    assert (shown[:2, :2] == 0).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_columns_show_the_reconstruction_and_the_loss_of_hidden_patches_only(channels):
    images, made = noise(2, channels, 16, 16, seed=1), noise(2, channels, 16, 16, seed=2)
    masks = np.zeros((2, 16), bool)
    masks[0, [0, 5, 15]] = masks[1, [1, 2, 3, 4]] = True
    losses = np.random.default_rng(3).random((2, 16), np.float32) + 1
    columns = reconstruction_columns(images, masks, made, losses)
    assert list(columns) == ["masked", "reconstruction", "patch loss"]
    pixels, shown = blown_up(masks, 16), as_rgb(images)
    assert np.array_equal(columns["masked"], masked(shown, masks))
    assert np.array_equal(columns["reconstruction"][pixels], as_rgb(made)[pixels])
    assert np.array_equal(columns["reconstruction"][~pixels], shown[~pixels])
    colours = colour_map(np.where(masks, losses, 0), 16)
    assert np.array_equal(columns["patch loss"][pixels], colours[pixels])
    assert np.array_equal(columns["patch loss"][~pixels], shown[~pixels] // 3)
    assert all(column.dtype == np.uint8 for column in columns.values())
    hardest = np.where(masks[0], losses[0], 0).argmax()
    row, column = divmod(int(hardest), 4)
    assert columns["patch loss"][0, 4 * row, 4 * column].tolist() == ends_of_the_colours()[1]


def test_inputs_are_not_painted_on():
    images, masks = noise(1, 3, 16, 16), np.ones((1, 16), bool)
    losses = np.ones((1, 16), np.float32)
    before = images.copy(), losses.copy()
    reconstruction_columns(images, masks, images, losses)
    shown = as_rgb(images)
    shown[:] = 0
    assert np.array_equal(images, before[0])
    assert np.array_equal(losses, before[1])
