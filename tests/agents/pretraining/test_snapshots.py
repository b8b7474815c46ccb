"""Frames: what is pictured, that it survives a file, and that a resumed run's history is cut back."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents import A3C, A3CSettings, Problem, make_agent
from agents.baselines import RandomAgent
from agents.pretraining.hardness import Measurement, measure
from agents.pretraining.run_directory import RunDirectory
from agents.pretraining.snapshots import LARGEST, Frame, load_frame, save_frame, smaller, take_frame
from ahm_env import CheckpointError, ImageSet, MaskRatio, PatchMaskVectorEnv, Reconstructor
from ahm_env.files import save_tensors

SHOWN = np.array([3, 5, 11])


def frame(images: int = 40, values: bool = True, seed: int = 0) -> Frame:
    """Made up, three images of 4 x 4 patches; every number different."""
    rng = np.random.default_rng(seed)
    return Frame(
        images=images,
        shown=np.array([2, 7, 9]),
        policy=rng.random((3, 16), np.float32),
        values=rng.random((3, 16), np.float32) if values else None,
        masks=rng.random((3, 16)) < 0.5,
        reconstructions=rng.integers(0, 256, (3, 1, 32, 32), dtype=np.uint8),
        losses=rng.random((3, 16), np.float32),
        frequencies=rng.random(16),
        between_images=0.25,
        within_images=float(rng.random()),
    )


def assert_equal(one: Frame, other: Frame) -> None:
    for field in fields(Frame):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert type(a) is type(b), field.name
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape) == (b.dtype, b.shape), field.name
            assert np.array_equal(a, b), field.name
        else:
            assert a == b or a != a, field.name


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("values", [True, False])
def test_a_frame_comes_back_from_its_file_as_it_was(tmp_path: Path, values: bool) -> None:
    made = frame(values=values)
    save_frame(tmp_path / "deep" / "frame.safetensors", made)
    assert_equal(load_frame(tmp_path / "deep" / "frame.safetensors"), made)


def test_what_one_draw_cannot_say_survives_too(tmp_path: Path) -> None:
    made = replace(frame(), within_images=float("nan"))
    save_frame(tmp_path / "frame.safetensors", made)
    assert np.isnan(load_frame(tmp_path / "frame.safetensors").within_images)


def test_arrays_that_are_views_are_written_as_they_look(tmp_path: Path) -> None:
    made = frame()
    made = replace(made, policy=made.policy[:, ::-1], masks=made.masks.T.copy().T)
    save_frame(tmp_path / "frame.safetensors", made)
    found = load_frame(tmp_path / "frame.safetensors")
    assert np.array_equal(found.policy, made.policy)
    assert np.array_equal(found.masks, made.masks)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "something else"])
def test_a_file_that_is_no_frame_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "frame.safetensors"
    save_frame(path, frame())
    if damage == "missing":
        path.unlink()
    elif damage == "something else":
        save_tensors(path, {"weight": torch.zeros(1)}, {"images": 3})
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"frame\.safetensors: ") as caught:
        load_frame(path)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- size


@pytest.mark.parametrize(("size", "expected"), [(32, 32), (LARGEST, LARGEST), (LARGEST + 2, LARGEST), (320, LARGEST)])
@pytest.mark.parametrize("channels", [1, 3])
def test_reconstructions_larger_than_the_limit_become_smaller(size: int, expected: int, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, channels, size, size), dtype=np.uint8)
    found = smaller(images)
    assert found.shape == (2, channels, expected, expected)
    assert found.dtype == np.uint8
    if size <= LARGEST:
        assert np.array_equal(found, images)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_halving_takes_the_mean_of_four_pixels_of_the_same_image_and_channel(seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (2, 3, 2 * LARGEST, 2 * LARGEST), dtype=np.uint8)
    means = images.reshape(2, 3, LARGEST, 2, LARGEST, 2).mean((3, 5))
    assert np.abs(smaller(images) - means).max() <= 0.5


# ---------------------------------------------------------------- what is pictured


@pytest.fixture
def measured(phantoms: ImageSet, reconstructor: Reconstructor) -> Measurement:
    agent = RandomAgent(Problem(3, 32, 4, (8, 8)))
    return measure(agent, reconstructor, phantoms, np.arange(6), MaskRatio.parse(0.5)).sampled


def test_a_frame_shows_what_the_agent_and_the_unet_make_of_these_images(
    phantoms: ImageSet, reconstructor: Reconstructor, measured: Measurement
) -> None:
    agent = A3C(Problem(3, 32, 4, (8, 8)))
    found = take_frame(77, agent, reconstructor, phantoms, SHOWN, measured)
    pixels = phantoms.images(SHOWN)
    policy, values = agent.maps(pixels)
    assert found.images == 77
    assert found.shown.tolist() == SHOWN.tolist()
    assert np.array_equal(found.policy, policy)
    assert found.values is not None
    assert np.array_equal(found.values, values)
    assert found.masks.dtype == bool
    assert found.masks.sum(1).tolist() == [8] * 3
    assert np.array_equal(found.reconstructions, reconstructor.reconstruct(pixels, found.masks))
    assert np.array_equal(found.losses, reconstructor.patch_losses(pixels, found.masks))
    assert np.array_equal(found.frequencies, measured.frequencies)
    assert (found.between_images, found.within_images) == (measured.between_images, measured.within_images)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a3c", "ppo", "random", "oracle", "hard-patches"])
def test_a_frame_hides_as_much_as_the_environment_does(
    phantoms: ImageSet, reconstructor: Reconstructor, measured: Measurement, name: str
) -> None:
    """Also of an agent whose masks hold more or fewer ones, which the environment brings to the quota."""
    env = PatchMaskVectorEnv(2, data=phantoms, unet=reconstructor, mask_ratio=0.5)
    found = take_frame(5, make_agent(name, env), reconstructor, phantoms, SHOWN, measured)
    assert found.masks.sum(1).tolist() == [8] * 3


def test_masks_of_frames_differ_only_where_the_policy_does(
    phantoms: ImageSet, reconstructor: Reconstructor, measured: Measurement
) -> None:
    """The draws are the same in every frame, and not the agent's own."""
    agent = A3C(Problem(3, 32, 4, (8, 8)), A3CSettings(bound=None))
    before = agent.generator.get_state()
    one, two = (take_frame(seen, agent, reconstructor, phantoms, SHOWN, measured) for seen in (10, 20))
    assert torch.equal(agent.generator.get_state(), before)
    assert np.array_equal(one.masks, two.masks)
    # now clearly prefer some patches
    agent.network.policy.weight.data.div_(0.2 * float(agent.maps(phantoms.images(SHOWN))[0].std()))
    other = take_frame(30, agent, reconstructor, phantoms, SHOWN, measured)
    assert not np.array_equal(one.masks, other.masks)


def test_an_agent_without_a_value_map_has_none_in_its_frames(
    tmp_path: Path, phantoms: ImageSet, reconstructor: Reconstructor, measured: Measurement
) -> None:
    found = take_frame(5, RandomAgent(Problem(3, 32, 4, (8, 8))), reconstructor, phantoms, SHOWN, measured)
    assert found.values is None
    save_frame(tmp_path / "frame.safetensors", found)
    assert_equal(load_frame(tmp_path / "frame.safetensors"), found)


# ---------------------------------------------------------------- the history of a run


def seen(run: RunDirectory) -> list[int]:
    return [one.images for one in run.frames()]


def test_the_history_comes_back_in_order(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as run:
        assert run.frames() == []
        for images in (1_000, 0, 90, 123_456_789):
            run.save_frame(frame(images, seed=images))
        assert seen(run) == [0, 90, 1_000, 123_456_789]
        for one in run.frames():
            assert_equal(one, frame(one.images, seed=one.images))


@pytest.mark.parametrize(("images", "kept"), [(0, [0]), (89, [0]), (90, [0, 90]), (500, [0, 90]), (10**9, None)])
def test_a_resumed_run_cuts_its_history_back_and_goes_on(tmp_path: Path, images: int, kept: Any) -> None:
    every = [0, 90, 1_000, 2_000]
    with RunDirectory(tmp_path / "run") as run:
        run.write({})
        for one in every:
            run.save_frame(frame(one))
    with RunDirectory(tmp_path / "run") as run:
        run.restore([], images)
        assert seen(run) == (every if kept is None else kept)
        run.save_frame(frame(95, seed=3))
        assert 95 in seen(run)


def test_a_frame_taken_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as run:
        run.save_frame(frame(90, seed=1))
        run.save_frame(frame(90, seed=2))
        [found] = run.frames()
        assert_equal(found, frame(90, seed=2))


def test_what_a_kill_left_half_written_is_not_a_frame(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as run:
        run.save_frame(frame(90))
        for name in (".000000000100.safetensors.123.tmp", "000000000100.safetensors.tmp"):
            (tmp_path / "run" / "frames" / name).write_bytes(b"half")
        run.restore([], 1_000)
        assert seen(run) == [90]


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "run") as run:
        run.save_frame(frame(90))
        (tmp_path / "run" / "frames" / "000000000090.safetensors").write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"000000000090\.safetensors: damaged"):
            run.frames()
        run.restore([], 0)  # and cut back all the same
        assert seen(run) == []
