"""Augmentation: what is done to an image is done to its mask, and the same seed does the same."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from ahm_env import SettingsError, load_images
from downstream.finetuning.augmentation import AUGMENTATIONS, Augmentation, shows_colour, strong_kind
from downstream.finetuning.losses import IGNORED

SIDE = 48


def blobs(count: int = 6, classes: int = 2) -> torch.Tensor:
    """Masks `(B, S, S)` of two ellipses of other classes, off the middle, the same in each."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    large = (((y - 20) / 9) ** 2 + ((x - 18) / 13) ** 2 < 1).long()
    small = (((y - 38) / 6) ** 2 + ((x - 36) / 5) ** 2 < 1).long()
    return (large + (classes - 1) * small).repeat(count, 1, 1)


def noise(count: int = 4, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, SIDE, SIDE), generator=torch.Generator().manual_seed(0)).float()


def grown(mask: torch.Tensor, by: int) -> torch.Tensor:
    """A mask `(B, S, S)` of numbers 0 and 1 with a rim of so many pixels more."""
    return functional.max_pool2d(mask[:, None].float(), 2 * by + 1, 1, by)[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_seed_does_the_same_whatever_was_drawn_before(kind, channels):
    images, masks, augmentation = noise(channels=channels), blobs(4), Augmentation(kind)
    first = augmentation(images, masks, 7)
    torch.rand(5)
    second = Augmentation(kind)(images, masks, 7)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    assert first[0].shape == images.shape
    assert first[1].shape == masks.shape
    assert first[0].dtype == torch.float32
    assert first[1].dtype == torch.int64
    assert first[0].min() >= 0
    assert first[0].max() <= 255
    if kind != "none":
        assert any(not torch.equal(first[0], augmentation(images, masks, seed)[0]) for seed in range(8, 12))


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_generators_that_belong_to_others_are_left_alone(kind):
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    Augmentation(kind)(noise(), blobs(4), 3)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_none_gives_back_what_it_was_given():
    images, masks = noise(), blobs(4)
    changed, moved = Augmentation("none")(images, masks, 3)
    assert changed is images
    assert moved is masks


def test_flips_are_exact_and_each_of_the_four_occurs():
    images, masks, seen = noise(8), blobs(8), set()
    for seed in range(4):
        changed, moved = Augmentation("flips")(images, masks, seed)
        for number in range(8):
            (axes,) = [
                axes
                for axes in ((), (1,), (2,), (1, 2))
                if torch.allclose(changed[number], images[number].flip(axes), atol=1e-3)
            ]
            assert torch.equal(moved[number], masks[number].flip([axis - 1 for axis in axes]))
            seen.add(axes)
    assert len(seen) == 4


@pytest.mark.parametrize("kind", ["flips", "affine", "full"])
def test_a_mask_moves_with_its_image_up_to_its_edge(kind):
    masks = blobs()
    images = masks[:, None].float().expand(-1, 3, -1, -1) * 255
    moves = 0
    for seed in range(6):
        changed, moved = Augmentation(kind)(images, masks, seed)
        low, high = changed.amin((1, 2, 3)), changed.amax((1, 2, 3))
        seen = (changed.mean(1) > ((low + high) / 2)[:, None, None]).long()
        inner, outer = 1 - grown(1 - moved, 1), grown(moved, 1)
        assert ((inner <= seen) & (seen <= outer)).all()
        moves += int((moved != masks).any((1, 2)).sum())
    assert moves > 15


@pytest.mark.parametrize("kind", ["flips", "affine", "full", "strong"])
def test_nothing_is_ignored_but_what_was(kind):
    masks = blobs()
    assert all(Augmentation(kind)(noise(4), masks[:4], seed)[1].min() >= 0 for seed in range(4))
    masks[:, 10:20, 10:20] = IGNORED
    moved = torch.cat([Augmentation(kind)(noise(len(masks)), masks, seed)[1] for seed in range(4)])
    assert set(moved.unique().tolist()) == {IGNORED, 0, 1}
    kept = (moved == IGNORED).sum((1, 2)).float()
    assert 0.6 * 100 < kept.mean() < 1.7 * 100  # as large as before, but for the scale


@pytest.mark.parametrize("kind", ["affine", "full"])
def test_masks_stay_class_numbers(kind):
    masks = blobs(classes=6)
    images = noise(6)
    for seed in range(4):
        moved = Augmentation(kind)(images, masks, seed)[1]
        assert set(moved.unique().tolist()) <= {0, 1, 5}
        assert (moved == 1).float().mean() > 0.02  # the lesions are still there


def test_beyond_its_border_an_image_and_its_mask_go_on():
    masks = torch.ones(4, SIDE, SIDE, dtype=torch.long)
    for seed in range(4):
        changed, moved = Augmentation("full")(masks[:, None].float() * 100, masks, seed)
        assert moved.all()
        assert (changed - changed[:, :, :1, :1]).abs().max() < 1  # no black corners


def test_each_image_of_a_batch_is_changed_in_its_own_way():
    changed = Augmentation("affine")(noise(1).repeat(4, 1, 1, 1), blobs(4), 0)[0]
    assert all(not torch.equal(changed[0], other) for other in changed[1:])


def test_grey_stays_grey():
    grey = noise(channels=1)
    changed = Augmentation("affine")(grey, blobs(4), 3)[0]
    colour = Augmentation("affine")(grey.expand(-1, 3, -1, -1), blobs(4), 3)[0]
    torch.testing.assert_close(changed.expand(-1, 3, -1, -1), colour, atol=0.01, rtol=0)


@pytest.mark.filterwarnings("error")
def test_nothing_is_printed_about_the_library_s_own_settings():
    for seed in range(3):
        Augmentation("full")(noise(), blobs(4), seed)


def test_an_unknown_kind_is_refused_with_those_there_are():
    with pytest.raises(SettingsError, match=r"--augment mixup is unknown; choose one of none, flips, affine, full"):
        Augmentation("mixup")


# Strong changes


def tissue(count: int = 6) -> np.ndarray:
    """Images of one hue, more or less bright."""
    rng = np.random.default_rng(0)
    bright = rng.uniform(0.3, 1, (count, 1, 16, 16))
    return (bright * np.array([220, 140, 120])[:, None, None] + rng.normal(0, 5, (count, 3, 16, 16))).clip(0, 255)


def test_photographs_have_one_hue_and_sequences_in_three_channels_have_all():
    rng = np.random.default_rng(0)
    assert shows_colour(tissue().astype(np.uint8))
    assert not shows_colour(rng.integers(0, 256, (6, 3, 16, 16), np.uint8))
    assert not shows_colour(np.repeat(rng.integers(0, 256, (6, 1, 16, 16), np.uint8), 3, 1))
    assert not shows_colour(np.zeros((2, 3, 16, 16), np.uint8))


@pytest.mark.parametrize(
    ("name", "kind"), [("isic2018", "colour"), ("kvasir", "colour"), ("lgg", "grey"), ("cxr", "grey")]
)
def test_real_sets_are_told_apart(name: str, kind: str, tmp_path: Path):
    source = Path(__file__).resolve().parents[4] / "shared" / "data" / name / "images"
    if not source.is_dir():
        pytest.skip(f"no real images in {source}")
    (tmp_path / "some").mkdir()
    for path in sorted(source.iterdir())[::40][:24]:
        shutil.copy(path, tmp_path / "some")
    images = load_images(tmp_path / "some", 64, cache_dir=tmp_path / "cache")
    assert strong_kind("auto", images, np.arange(len(images))) == kind
    assert strong_kind("grey", images, np.arange(len(images))) == "grey"


@pytest.mark.slow
def test_strong_changes_of_grey_images_leave_hues_and_shapes_alone():
    images = torch.from_numpy(tissue()).float().repeat(4, 1, 1, 1)
    masks = torch.zeros(24, 16, 16, dtype=torch.long)
    grey, _ = Augmentation("recolour", "grey")(images, masks, 0)
    colour, _ = Augmentation("recolour", "colour")(images, masks, 0)

    def hues(some: torch.Tensor) -> torch.Tensor:
        red, green, blue = some.mean((2, 3)).T
        return torch.atan2((green - blue) * 3**0.5 / 2, red - (green + blue) / 2)

    assert hues(grey).std() < 0.3 < hues(colour).std()
    assert (grey - images).abs().mean() > 10
    assert torch.equal(Augmentation("recolour", "grey")(images, masks, 0)[0], grey)


def test_turning_alone_keeps_the_colours_of_an_image_of_one():
    images = torch.full((4, 3, 16, 16), 77.0)
    shown, _ = Augmentation("shape")(images, torch.zeros(4, 16, 16, dtype=torch.long), 3)
    torch.testing.assert_close(shown, images, rtol=1e-4, atol=1e-2)
