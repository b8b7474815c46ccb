import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ahm_env.errors import CheckpointError, SettingsError, TrainingError
from ahm_env.files import load_tensors, save_tensors
from ahm_env.masks import PatchGrid, random_masks
from ahm_env.model.reconstruction import Reconstructor
from ahm_env.model.unet import UNet, initialise
from ahm_env.model.weights import Standardisation, save_unet

GREY = Standardisation((120.0,), (40.0,))
RGB = Standardisation((150.5, 110.0, 90.25), (30.0, 45.5, 60.0))
SIZES = [(32, 8), (32, 16), (32, 4), (48, 6), (16, 4), (30, 5), (37 * 2, 37)]


def make(image_size=32, patch_size=8, standardisation=GREY, **settings):
    return Reconstructor.create(PatchGrid(image_size, patch_size), standardisation, **{"width": 4, **settings})


def pictures(count=4, channels=1, size=32, seed=0):
    """Smooth waves with some noise, a different one each: something that can be learnt."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    waves = [
        [
            120 + 60 * np.sin(6.3 * (rng.uniform(0.5, 2) * x + rng.uniform(0.5, 2) * y + rng.random()))
            for _ in range(channels)
        ]
        for _ in range(count)
    ]
    return (np.array(waves) + rng.normal(0, 8, (count, channels, size, size))).clip(0, 255).astype(np.uint8)


def masks_for(reconstructor, count=4, quota=None, seed=0):
    patches = reconstructor.grid.patches
    return random_masks(count, patches, quota or patches // 2, np.random.default_rng(seed))


def frozen_copy(reconstructor):
    return {name: tensor.detach().clone() for name, tensor in reconstructor.state().items()}


def changed(before, reconstructor):
    return sorted(name for name, tensor in reconstructor.state().items() if not equal(tensor, before[name]))


def equal(one, other):
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def direct(reconstructor, images, masks, training=False):
    """Every patch's loss, hidden or not, one patch after the other, and the U-Net's output, by numpy."""
    mean = np.array(reconstructor.standardisation.mean)[:, None, None]
    std = np.array(reconstructor.standardisation.std)[:, None, None]
    standardised = (images - mean) / std
    side, patch = reconstructor.grid.side, reconstructor.grid.patch_size
    hidden = standardised.copy()
    for image, mask in zip(hidden, masks, strict=True):
        for place in np.flatnonzero(mask):
            row, column = divmod(int(place), side)
            image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 0
    unet = copy.deepcopy(reconstructor.unet)
    unet.train(training)
    with torch.no_grad():
        output = unet(torch.from_numpy(hidden).float()).numpy()
    losses = np.zeros(masks.shape)
    for image in range(len(images)):
        for place in range(masks.shape[1]):
            row, column = divmod(place, side)
            here = (
                image,
                slice(None),
                slice(row * patch, (row + 1) * patch),
                slice(column * patch, (column + 1) * patch),
            )
            losses[image, place] = np.mean((output[here] - standardised[here]) ** 2)
    return losses, output


# Patch losses


@pytest.mark.parametrize("standardisation", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize(("image_size", "patch_size"), SIZES)
def test_every_patch_loss_equals_a_direct_computation_on_that_patch(image_size, patch_size, standardisation):
    reconstructor = make(image_size, patch_size, standardisation)
    images = pictures(2, len(standardisation.mean), image_size)
    masks = masks_for(reconstructor, 2)
    losses = reconstructor.patch_losses(images, masks)
    assert losses.dtype == np.float32
    assert losses.shape == (2, (image_size // patch_size) ** 2)
    expected, _ = direct(reconstructor, images, masks)
    np.testing.assert_allclose(losses, expected, rtol=1e-3, atol=1e-5)
    assert (losses > 0).all()


@pytest.mark.parametrize("standardisation", [GREY, RGB], ids=["grey", "rgb"])
def test_a_unet_that_gives_nothing_has_the_loss_of_the_image_itself(standardisation):
    reconstructor = make(standardisation=standardisation)
    with torch.no_grad():
        reconstructor.unet.outc.conv.weight.zero_()
        reconstructor.unet.outc.conv.bias.zero_()
    channels = len(standardisation.mean)
    images = np.zeros((1, channels, 32, 32), np.uint8)
    for channel in range(channels):  # the first patch is two deviations above the mean, the others at the mean
        images[:, channel] = round(standardisation.mean[channel])
        images[:, channel, :8, :8] = round(standardisation.mean[channel] + 2 * standardisation.std[channel])
    losses = reconstructor.patch_losses(images, masks_for(reconstructor, 1))
    assert losses[0, 0] == pytest.approx(4, abs=0.1)
    assert losses[0, 1:].max() < 1e-3


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_losses_do_not_depend_on_the_batch(norm):
    reconstructor = make(norm=norm)
    images, masks = pictures(6), masks_for(reconstructor, 6)
    together = reconstructor.patch_losses(images, masks)
    alone = [reconstructor.patch_losses(images[[row]], masks[[row]])[0] for row in range(6)]
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_losses_differ_between_images_and_between_masks():
    reconstructor = make()
    images, masks = pictures(4), masks_for(reconstructor, 4)
    means = (reconstructor.patch_losses(images, masks) * masks).sum(1) / masks.sum(1)
    assert len(np.unique(means.round(5))) == 4
    same = np.repeat(images[:1], 4, 0)
    assert len(np.unique(reconstructor.patch_losses(same, masks).sum(1).round(5))) == 4


@pytest.mark.parametrize("training", [False, True])
def test_patch_losses_leave_everything_as_it_was(training):
    reconstructor = make()
    images, masks = pictures(), masks_for(reconstructor)
    reconstructor.learn(images, masks)
    before, rng = frozen_copy(reconstructor), torch.random.get_rng_state()
    first = reconstructor.patch_losses(images, masks, training)
    reconstructor.reconstruct(images, masks)
    assert np.array_equal(reconstructor.patch_losses(images, masks, training), first)
    assert changed(before, reconstructor) == []
    assert torch.equal(torch.random.get_rng_state(), rng)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_patch_losses_in_training_mode_are_those_that_learning_finds(norm):
    reconstructor = make(norm=norm)
    images, masks = pictures(), masks_for(reconstructor)
    found = reconstructor.patch_losses(images, masks, training=True)
    np.testing.assert_allclose(found, reconstructor.learn(images, masks), rtol=1e-4, atol=1e-5)


def test_inputs_are_left_alone():
    reconstructor = make()
    images, masks = pictures(), masks_for(reconstructor)
    before = images.copy(), masks.copy()
    reconstructor.learn(images, masks)
    reconstructor.patch_losses(images, masks)
    assert np.array_equal(images, before[0])
    assert np.array_equal(masks, before[1])


# Hiding


@pytest.mark.parametrize(("image_size", "patch_size"), SIZES)
def test_one_hides_and_zero_shows(image_size, patch_size):
    reconstructor = make(image_size, patch_size, RGB)
    images = reconstructor.standardise(pictures(2, 3, image_size)) + 100
    side = reconstructor.grid.side
    masks = torch.zeros(2, side * side)
    masks[0, 1] = masks[1, side] = 1  # right of the first patch, and below it
    hidden = reconstructor.hide(images, masks)
    expected = images.clone()
    expected[0, :, :patch_size, patch_size : 2 * patch_size] = 0
    expected[1, :, patch_size : 2 * patch_size, :patch_size] = 0
    assert torch.equal(hidden, expected)


def test_all_hidden_is_all_fill_and_none_hidden_is_the_image():
    reconstructor = make()
    images = reconstructor.standardise(pictures(1))
    assert not reconstructor.hide(images, torch.ones(1, 16)).any()
    assert torch.equal(reconstructor.hide(images, torch.zeros(1, 16)), images)


def test_standardised_is_minus_the_mean_over_the_deviation():
    images = pictures(2, 3)
    standardised = make(standardisation=RGB).standardise(images).numpy()
    mean, std = (np.reshape(numbers, (1, 3, 1, 1)) for numbers in (RGB.mean, RGB.std))
    np.testing.assert_allclose(standardised, (images - mean) / std, rtol=1e-5, atol=1e-6)
    assert standardised.dtype == np.float32


@pytest.mark.slow
@settings(derandomize=True, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_the_unet_cannot_see_what_is_hidden(seed):
    reconstructor = make(norm="group")
    images, masks = pictures(2, seed=seed), masks_for(reconstructor, 2, quota=1 + seed % 15, seed=seed)
    pixels = reconstructor.grid.to_pixels(torch.from_numpy(masks).float()).numpy().astype(bool)
    other = np.where(pixels, np.random.default_rng(seed).integers(0, 256, images.shape), images).astype(np.uint8)
    assert not np.array_equal(images, other)
    assert np.array_equal(reconstructor.reconstruct(images, masks), reconstructor.reconstruct(other, masks))
    one, two = reconstructor.patch_losses(images, masks), reconstructor.patch_losses(other, masks)
    assert np.array_equal(one[~masks], two[~masks])
    assert (one[masks] != two[masks]).all()  # but its loss is measured against what is there


def test_the_reconstruction_depends_on_what_is_visible():
    reconstructor = make()
    masks = masks_for(reconstructor, 1)
    one, two = (reconstructor.reconstruct(pictures(1, seed=seed), masks) for seed in (1, 2))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("standardisation", [GREY, RGB], ids=["grey", "rgb"])
def test_a_reconstruction_is_the_output_in_grey_values(standardisation):
    reconstructor = make(standardisation=standardisation)
    images, masks = pictures(2, len(standardisation.mean)), masks_for(reconstructor, 2)
    _, output = direct(reconstructor, images, masks)
    shape = (1, len(standardisation.mean), 1, 1)
    expected = output * np.reshape(standardisation.std, shape) + np.reshape(standardisation.mean, shape)
    made = reconstructor.reconstruct(images, masks)
    assert made.dtype == np.uint8
    assert made.shape == images.shape
    assert np.abs(made - expected.clip(0, 255)).max() <= 0.51


def test_fill_is_the_mean_colour():
    assert make(standardisation=RGB).fill.tolist() == [150, 110, 90]
    assert make(standardisation=RGB).fill.dtype == np.uint8
    assert make(standardisation=Standardisation((254.9,), (1.0,))).fill.tolist() == [255]


# Learning


def test_learning_gives_the_losses_of_the_same_forward_pass_before_the_step():
    reconstructor = make(learning_rate=0.05)
    images, masks = pictures(), masks_for(reconstructor)
    expected, _ = direct(reconstructor, images, masks, training=True)
    losses = reconstructor.learn(images, masks)
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses, expected, rtol=1e-3, atol=1e-5)
    after, _ = direct(reconstructor, images, masks, training=True)
    assert not np.allclose(losses, after, rtol=1e-2)


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("loss_on", ["hidden", "all"])
def test_one_step_changes_every_weight(norm, loss_on):
    reconstructor = make(norm=norm, loss_on=loss_on)
    before = frozen_copy(reconstructor)
    reconstructor.learn(pictures(), masks_for(reconstructor))
    assert changed(before, reconstructor) == sorted(before)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("loss_on", ["hidden", "all"])
def test_the_loss_falls_on_a_batch_that_is_seen_again_and_again(norm, loss_on):
    reconstructor = make(norm=norm, loss_on=loss_on, learning_rate=3e-3)
    images, masks = pictures(), masks_for(reconstructor)
    losses = [reconstructor.learn(images, masks)[masks].mean() for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("loss_on", ["hidden", "all"])
@pytest.mark.parametrize("standardisation", [GREY, RGB], ids=["grey", "rgb"])
def test_the_loss_pulls_at_every_pixel_that_it_counts_and_at_no_other(loss_on, standardisation):
    reconstructor = make(standardisation=standardisation, loss_on=loss_on)
    images, masks = pictures(3, len(standardisation.mean)), masks_for(reconstructor, 3, quota=5)
    masks[0, np.flatnonzero(~masks[0])[:4]] = True  # images may hide different numbers of patches
    kept = {}

    def keep(module, inputs, output):
        output.retain_grad()
        kept["output"] = output

    reconstructor.unet.register_forward_hook(keep)
    reconstructor.learn(images, masks)
    output, gradient = kept["output"].detach(), kept["output"].grad
    counted = reconstructor.grid.to_pixels(torch.from_numpy(masks | (loss_on == "all")).float())
    terms = counted.sum() * images.shape[1]  # every counted pixel and channel has the same share
    expected = 2 * (output - reconstructor.standardise(images)) * counted / terms
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-9)
    assert not gradient[counted.expand_as(gradient) == 0].any()


@pytest.mark.parametrize("loss_on", ["hidden", "all"])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("standardisation", [GREY, RGB], ids=["grey", "rgb"])
def test_gradients_equal_finite_differences_of_the_loss(standardisation, norm, loss_on):
    reconstructor = make(16, 4, standardisation, width=2, norm=norm, loss_on=loss_on)
    images = pictures(2, len(standardisation.mean), 16)
    masks = masks_for(reconstructor, 2, quota=7)
    exact = copy.deepcopy(reconstructor.unet).double()
    reconstructor.learn(images, masks)
    gradients = [weight.grad.double() for weight in reconstructor.unet.parameters()]

    shape = (1, -1, 1, 1)
    target = torch.from_numpy(images).double()
    target = (target - torch.tensor(standardisation.mean).reshape(shape)) / torch.tensor(
        standardisation.std, dtype=torch.float64
    ).reshape(shape)
    hidden = torch.from_numpy(np.kron(masks.reshape(2, 1, 4, 4), np.ones((4, 4))))
    counted = hidden if loss_on == "hidden" else torch.ones_like(hidden)

    def loss():
        error = (exact(torch.where(hidden == 1, 0.0, target)) - target) ** 2
        return ((error.mean(1, keepdim=True) * counted).sum() / counted.sum()).item()

    generator = torch.Generator().manual_seed(0)
    weights, size = list(exact.parameters()), 1e-6
    exact.train()
    with torch.no_grad():
        for _ in range(5):
            ways = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
            ends = []
            for sign in (1, -2):  # forward, then back beyond the start
                for weight, way in zip(weights, ways, strict=True):
                    weight.add_(way, alpha=sign * size)
                ends.append(loss())
            for weight, way in zip(weights, ways, strict=True):
                weight.add_(way, alpha=size)
            slope = (ends[0] - ends[1]) / (2 * size)
            expected = sum((gradient * way).sum().item() for gradient, way in zip(gradients, ways, strict=True))
            assert slope == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_the_weights_move_as_adam_moves_them():
    reconstructor = make(learning_rate=0.01)
    images, masks = pictures(), masks_for(reconstructor)
    theirs = copy.deepcopy(reconstructor.unet)
    adam = torch.optim.Adam(theirs.parameters(), 0.01)
    pixels = reconstructor.grid.to_pixels(torch.from_numpy(masks).float())
    for _ in range(3):
        theirs.train()
        targets = reconstructor.standardise(images)
        squares = functional.mse_loss(theirs(targets * (1 - pixels)), targets, reduction="none") * pixels
        loss = squares.sum() / pixels.sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses = reconstructor.learn(images, masks)
        assert losses[masks].mean() == pytest.approx(loss.item(), rel=1e-3)
    for weight, expected in zip(reconstructor.unet.parameters(), theirs.parameters(), strict=True):
        # Adam turns rounding errors of a gradient near zero into steps of their own: most weights agree, not each
        assert (weight - expected).abs().mean() < 2e-4


def poison(reconstructor, number):
    with torch.no_grad():
        reconstructor.unet.outc.conv.bias.fill_(number)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e30])
def test_a_loss_that_is_not_finite_stops_before_the_step(number):
    reconstructor = make()
    images, masks = pictures(), masks_for(reconstructor)
    reconstructor.learn(images, masks)
    poison(reconstructor, number)
    before = frozen_copy(reconstructor)
    with pytest.raises(TrainingError, match="no longer finite") as stop:
        reconstructor.learn(images, masks)
    assert "--learning-rate" in str(stop.value)
    assert "\n" not in str(stop.value)
    learnt = [name for name in changed(before, reconstructor) if "running" not in name and "tracked" not in name]
    assert learnt == []


def test_a_stop_leaves_the_statistics_usable():
    # The loss is checked after the forward pass, in which BatchNorm has already moved its statistics.
    reconstructor = make()
    images, masks = pictures(), masks_for(reconstructor)
    with torch.no_grad():
        reconstructor.unet.down1.maxpool_conv[1].double_conv[0].weight.fill_(1e38)
    before = frozen_copy(reconstructor)
    with pytest.raises(TrainingError):
        reconstructor.learn(images, masks)
    assert changed(before, reconstructor) == []


def test_a_huge_step_size_ends_in_a_training_error_with_finite_weights():
    reconstructor = make(norm="group", learning_rate=1e12)
    images, masks = pictures(), masks_for(reconstructor)

    def learn_on():
        for _ in range(20):
            reconstructor.learn(images, masks)

    with pytest.raises(TrainingError):
        learn_on()
    assert all(torch.isfinite(weight).all() for weight in reconstructor.unet.parameters())


# State


def test_bf16_computes_nearly_the_same_and_keeps_full_weights():
    exact, half = make(precision="fp32", seed=1), make(precision="bf16", seed=1)
    inputs, masks = pictures(), masks_for(exact)
    for one, other in ((exact.patch_losses, half.patch_losses), (exact.learn, half.learn)):
        losses, near = one(inputs, masks), other(inputs, masks)
        assert near.dtype == np.float32
        assert not np.array_equal(losses, near)
        np.testing.assert_allclose(near, losses, rtol=0.1, atol=0.02)
    assert all(weight.dtype == torch.float32 for weight in half.unet.parameters())
    with pytest.raises(SettingsError, match=r"precision 'fp8' is unknown"):
        make(precision="fp8")


@pytest.mark.slow
@pytest.mark.parametrize("cut", [slice(None, 1), slice(0, 0)])
def test_a_state_of_other_shapes_is_refused_even_where_it_would_broadcast(cut: slice):
    reconstructor = Reconstructor.create(PatchGrid(16, 4), Standardisation((0.0,), (1.0,)), width=2)
    before = {name: tensor.clone() for name, tensor in reconstructor.state().items()}
    name = "unet.inc.double_conv.0.weight"
    with pytest.raises(KeyError, match=rf"{name} of shape \(2, 1, 3, 3\)"):
        reconstructor.restore({**before, name: before[name][cut]})


def test_a_restored_state_continues_bit_exactly(tmp_path):
    one, other = make(learning_rate=0.01), make(learning_rate=0.01, seed=5)
    images, masks = pictures(8), masks_for(one, 8)
    for start in (0, 2, 4):
        one.learn(images[start : start + 2], masks[start : start + 2])
    save_tensors(tmp_path / "state.safetensors", one.state(), {})
    other.restore(load_tensors(tmp_path / "state.safetensors")[0])
    for start in (6, 0, 3):
        batch = slice(start, start + 2)
        assert np.array_equal(one.learn(images[batch], masks[batch]), other.learn(images[batch], masks[batch]))
    assert changed(frozen_copy(one), other) == []
    assert np.array_equal(one.patch_losses(images, masks), other.patch_losses(images, masks))


def test_restoring_goes_back():
    reconstructor = make(learning_rate=0.01)
    images, masks = pictures(), masks_for(reconstructor)
    reconstructor.learn(images, masks)
    before = frozen_copy(reconstructor)
    first = [reconstructor.learn(images, masks) for _ in range(3)]
    reconstructor.restore(before)
    assert changed(before, reconstructor) == []
    again = [reconstructor.learn(images, masks) for _ in range(3)]
    assert np.array_equal(first, again)


def test_the_state_holds_weights_statistics_and_moments():
    reconstructor = make()
    names = set(reconstructor.state())
    assert {f"unet.{name}" for name in reconstructor.unet.state_dict()} < names
    weights = len(list(reconstructor.unet.parameters()))
    assert len([name for name in names if name.startswith("optimiser.")]) == 3 * weights


@pytest.mark.parametrize("standardisation", [GREY, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_saved_reconstructor_comes_back_with_its_standardisation(tmp_path, standardisation, norm):
    reconstructor = make(standardisation=standardisation, norm=norm)
    images, masks = pictures(4, len(standardisation.mean)), masks_for(reconstructor)
    reconstructor.learn(images, masks)
    reconstructor.save(tmp_path / "unet.safetensors")
    loaded = Reconstructor.load(tmp_path / "unet.safetensors", reconstructor.grid)
    assert loaded.standardisation == standardisation
    assert np.array_equal(loaded.patch_losses(images, masks), reconstructor.patch_losses(images, masks))
    assert load_tensors(tmp_path / "unet.safetensors")[0].keys() == reconstructor.unet.state_dict().keys()


def test_weights_serve_grids_and_images_of_other_sizes(tmp_path):
    make().save(tmp_path / "unet.safetensors")
    loaded = Reconstructor.load(tmp_path / "unet.safetensors", PatchGrid(48, 6))
    images, masks = pictures(2, size=48), masks_for(loaded, 2)
    np.testing.assert_allclose(
        loaded.patch_losses(images, masks), direct(loaded, images, masks)[0], rtol=1e-3, atol=1e-5
    )


def test_weights_without_a_standardisation_are_refused(tmp_path):
    unet = UNet(1, 1, 2)
    save_unet(tmp_path / "bare.pth", unet, GREY)
    save_tensors(tmp_path / "bare.safetensors", unet.state_dict(), {})
    for name in ("bare.pth", "bare.safetensors"):
        with pytest.raises(CheckpointError, match="not the mean and std") as refusal:
            Reconstructor.load(tmp_path / name, PatchGrid(32, 8))
        assert name in str(refusal.value)


@pytest.mark.parametrize(
    ("channels", "classes", "standardisation"), [(3, 3, GREY), (1, 1, RGB), (3, 1, RGB), (1, 2, GREY)]
)
def test_channels_that_do_not_fit_are_refused(tmp_path, channels, classes, standardisation):
    unet = UNet(channels, classes, 2)
    with pytest.raises(SettingsError, match=f"maps {channels} channels to {classes}") as refusal:
        Reconstructor(unet, PatchGrid(32, 8), standardisation)
    assert "\n" not in str(refusal.value)
    save_unet(tmp_path / "unet.safetensors", unet, standardisation)
    with pytest.raises(SettingsError, match=f"maps {channels} channels to {classes}"):
        Reconstructor.load(tmp_path / "unet.safetensors", PatchGrid(32, 8))


def test_other_settings_that_do_not_fit_are_refused():
    with pytest.raises(SettingsError, match="loss_on 'visible' is unknown; choose hidden or all"):
        make(loss_on="visible")
    with pytest.raises(SettingsError, match="image size 8 is too small"):
        make(8, 4)
    assert make(16, 8).grid.patches == 4


def test_new_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    one = make(seed=3)
    torch.manual_seed(2)
    assert changed(frozen_copy(one), make(seed=3)) == []
    assert changed(frozen_copy(one), make(seed=4)) != []


def test_a_pickled_reconstructor_learns_on_alike():
    one = make(learning_rate=0.01)
    images, masks = pictures(), masks_for(one)
    one.learn(images, masks)
    other = pickle.loads(pickle.dumps(one))
    for _ in range(2):
        assert np.array_equal(one.learn(images, masks), other.learn(images, masks))
    assert changed(frozen_copy(one), other) == []


def test_what_is_shared_is_all_that_learning_changes():
    """Statistics, too: those of one process do not belong to weights that others have moved."""
    reconstructor = make()
    reconstructor.share_memory()
    images, masks = pictures(), masks_for(reconstructor)
    before = frozen_copy(reconstructor)
    reconstructor.learn(images, masks)  # in place: still shared afterwards
    assert changed(before, reconstructor) == sorted(before)
    assert all(tensor.is_shared() for tensor in reconstructor.state().values())


def test_a_frozen_copy_stays_as_it_was():
    reconstructor = make()
    reconstructor.share_memory()
    images, masks = pictures(), masks_for(reconstructor)
    losses = reconstructor.patch_losses(images, masks)
    frozen = reconstructor.frozen()
    reconstructor.learn(images, masks)
    assert np.array_equal(frozen.patch_losses(images, masks), losses)
    assert not np.array_equal(reconstructor.patch_losses(images, masks), losses)


def test_an_initialised_unet_can_be_handed_over():
    unet = UNet(1, 1, 4)
    initialise(unet, torch.Generator().manual_seed(0))
    handed = Reconstructor(unet, PatchGrid(32, 8), GREY)
    assert handed.unet is unet
    images, masks = pictures(), masks_for(handed)
    assert np.array_equal(handed.patch_losses(images, masks), make().patch_losses(images, masks))
