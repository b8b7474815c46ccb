import numpy as np
import pytest

from ahm_env.images.phantom.canvas import Canvas, smoothstep


def canvas(resolution: int) -> Canvas:
    return Canvas(resolution, np.random.default_rng(1))


def halved(field: np.ndarray) -> np.ndarray:
    return (field[::2, ::2] + field[1::2, ::2] + field[::2, 1::2] + field[1::2, 1::2]) / 4


def test_coordinates_run_from_left_to_right_and_top_to_bottom() -> None:
    drawn = canvas(4)
    assert drawn.x[0].tolist() == drawn.y[:, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]


@pytest.mark.parametrize("draw", [lambda c: c.noise(6), lambda c: c.fractal(4)])
def test_noise_is_the_same_scene_at_any_resolution(draw) -> None:
    small, large = draw(canvas(64)), draw(canvas(128))
    assert np.abs(halved(large) - small).max() < 0.1
    assert 0.4 < small.std() < 1.6


def test_dots_and_lines_cover_the_same_at_any_resolution() -> None:
    points, radii = np.array([[0.0, 0.0], [0.5, -0.5]]), np.array([0.2, 0.1])
    curve = np.array([[-0.8, 0.6], [0.8, 0.7]])
    for small, large in (
        (canvas(128).dots(points, radii), canvas(256).dots(points, radii)),
        (canvas(128).lines([curve], 0.05), canvas(256).lines([curve], 0.05)),
    ):
        assert 0.8 < small.mean() / large.mean() < 1.25
        assert np.abs(halved(large) - small).mean() < 0.01


def test_a_line_thinner_than_a_pixel_grows_faint() -> None:
    curve = np.array([[-0.8, 0.6], [0.8, 0.7]])
    assert canvas(64).lines([curve], 0.01).max() < canvas(64).lines([curve], 0.05).max()


def test_a_colour_is_laid_by_its_alpha() -> None:
    drawn = canvas(2)
    drawn.lay((100, 200, 40), np.array([[0.0, 0.5], [1.0, 1.0]], np.float32))
    assert drawn.rgb[:, 0].T.tolist() == [[0, 0, 0], [50, 100, 20]]


def test_smoothstep_rises_or_falls() -> None:
    values = np.array([-1.0, 0.0, 0.5, 1.0, 2.0])
    assert smoothstep(values, 0, 1).tolist() == [0, 0, 0.5, 1, 1]
    assert smoothstep(values, 1, 0).tolist() == [1, 1, 0.5, 0, 0]
