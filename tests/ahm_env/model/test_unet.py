"""The U-Net against the published architecture of milesial/Pytorch-UNet: names, shapes, and what they compute."""

import pickle
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ahm_env.errors import CheckpointError, SettingsError
from ahm_env.files import save_tensors
from ahm_env.model.unet import UNet, initialise
from ahm_env.model.weights import Standardisation, load_unet, save_unet

GREY = Standardisation((120.0,), (40.0,))
RGB = Standardisation((120.0, 110.0, 100.0), (40.0, 41.0, 42.0))


def double_conv(prefix, channels_in, middle, channels_out):
    """Names and shapes of (convolution, batch norm, ReLU) twice: layers 0, 1, 3, 4 have weights."""
    shapes = {}
    for layer, (fan_in, fan_out) in enumerate([(channels_in, middle), (middle, channels_out)]):
        shapes[f"{prefix}.double_conv.{3 * layer}.weight"] = (fan_out, fan_in, 3, 3)
        norm = f"{prefix}.double_conv.{3 * layer + 1}"
        shapes |= {f"{norm}.{name}": (fan_out,) for name in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{norm}.num_batches_tracked"] = ()
    return shapes


def published(channels, classes, width=64, bilinear=False):
    """Names and shapes of the published state dict, written out from the architecture."""
    factor = 2 if bilinear else 1
    one, two, four, eight = width, 2 * width, 4 * width, 8 * width
    deepest = 16 * width // factor
    shapes = double_conv("inc", channels, one, one)
    downs = [(one, two), (two, four), (four, eight), (eight, deepest)]
    for number, (channels_in, channels_out) in enumerate(downs, start=1):
        shapes |= double_conv(f"down{number}.maxpool_conv.1", channels_in, channels_out, channels_out)
    ups = [(16 * width, eight // factor), (eight, four // factor), (four, two // factor), (two, one)]
    for number, (joined, channels_out) in enumerate(ups, start=1):
        if not bilinear:
            shapes[f"up{number}.up.weight"] = (joined, joined // 2, 2, 2)
            shapes[f"up{number}.up.bias"] = (joined // 2,)
        shapes |= double_conv(f"up{number}.conv", joined, joined // 2 if bilinear else channels_out, channels_out)
    return shapes | {"outc.conv.weight": (classes, one, 1, 1), "outc.conv.bias": (classes,)}


def published_weights(channels, classes, width, bilinear=False, seed=0):
    """A state dict of the published shapes with random numbers, statistics positive."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in published(channels, classes, width, bilinear).items():
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            weights[name] = torch.randn(shape, generator=generator) / max(1, np.prod(shape[1:])) ** 0.5
    return weights


def published_output(weights, images, bilinear=False):
    """The published forward pass in evaluation mode, in the plain functions of PyTorch."""

    def twice(prefix, features):
        for layer in (0, 3):
            name, norm = f"{prefix}.double_conv.{layer}", f"{prefix}.double_conv.{layer + 1}"
            features = functional.conv2d(features, weights[f"{name}.weight"], padding=1)
            features = functional.batch_norm(
                features,
                weights[f"{norm}.running_mean"],
                weights[f"{norm}.running_var"],
                weights[f"{norm}.weight"],
                weights[f"{norm}.bias"],
            )
            features = functional.relu(features)
        return features

    levels = [twice("inc", images)]
    for number in range(1, 5):
        levels.append(twice(f"down{number}.maxpool_conv.1", functional.max_pool2d(levels[-1], 2)))
    features = levels.pop()
    for number in range(1, 5):
        if bilinear:
            features = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
        else:
            name = f"up{number}.up"
            features = functional.conv_transpose2d(
                features, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2
            )
        skip = levels.pop()
        dy, dx = skip.shape[2] - features.shape[2], skip.shape[3] - features.shape[3]
        features = functional.pad(features, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        features = twice(f"up{number}.conv", torch.cat([skip, features], dim=1))
    return functional.conv2d(features, weights["outc.conv.weight"], weights["outc.conv.bias"])


def on_no_device(**settings):
    with torch.device("meta"):
        return UNet(**settings)


def small(generator_seed=0, **settings):
    unet = UNet(**{"n_channels": 1, "n_classes": 1, "width": 4, **settings})
    initialise(unet, torch.Generator().manual_seed(generator_seed))
    return unet


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# The published architecture


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize(("channels", "classes", "width"), [(3, 2, 64), (1, 1, 64), (3, 3, 16), (1, 1, 2)])
def test_names_and_shapes_are_the_published_ones(channels, classes, width, bilinear):
    unet = on_no_device(n_channels=channels, n_classes=classes, width=width, bilinear=bilinear)
    state = {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}
    assert state == published(channels, classes, width, bilinear)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "classes", "bilinear", "count"),
    [(3, 2, False, 31_037_698), (1, 1, False, 31_036_481), (3, 2, True, 17_263_042), (3, 1, True, 17_262_977)],
)
def test_the_number_of_parameters_is_the_published_one(channels, classes, bilinear, count):
    unet = on_no_device(n_channels=channels, n_classes=classes, bilinear=bilinear)
    assert sum(weight.numel() for weight in unet.parameters()) == count


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (37, 21), (16, 17)])
def test_the_published_weights_compute_what_they_compute_there(bilinear, size):
    weights = published_weights(3, 2, 4, bilinear)
    unet = UNet(3, 2, 4, bilinear=bilinear)
    unet.load_state_dict(weights)
    unet.eval()
    batch = images(2, 3, *size)
    with torch.no_grad():
        output = unet(batch)
    torch.testing.assert_close(output, published_output(weights, batch, bilinear), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bilinear", [False, True])
def test_without_skips_all_goes_through_the_deepest_features(bilinear):
    cut, whole = (
        small(width=4, bilinear=bilinear, skip_connections=skip_connections).eval()
        for skip_connections in (False, True)
    )
    assert {name: one.shape for name, one in cut.state_dict().items()} == {
        name: one.shape for name, one in whole.state_dict().items()
    }
    inputs = images(2, 1, 32, 32)
    levels = list(cut.encode(inputs))
    cut.encode = lambda _: (*(torch.randn_like(one) for one in levels[:4]), levels[4])
    expected = cut(inputs)
    assert torch.equal(expected, cut(inputs))  # whatever the shallow levels say
    cut.encode = lambda _: (*levels[:4], levels[4] + 1)
    assert not torch.equal(expected, cut(inputs))


def test_a_saved_unet_knows_that_its_skips_are_cut(tmp_path):
    for skip_connections in (False, True):
        save_unet(
            tmp_path / "unet.safetensors", small(skip_connections=skip_connections), Standardisation((1.0,), (2.0,))
        )
        assert load_unet(tmp_path / "unet.safetensors")[0].skip_connections is skip_connections


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (33, 16), (50, 70)])
def test_the_output_has_the_size_of_the_input_odd_or_even(norm, bilinear, size):
    unet = small(n_channels=3, n_classes=5, norm=norm, bilinear=bilinear)
    output = unet(images(2, 3, *size))
    assert output.shape == (2, 5, *size)
    assert torch.isfinite(output).all()


@pytest.mark.parametrize("bilinear", [False, True])
def test_the_encoder_halves_the_resolution_four_times_and_its_deepest_features_decide(bilinear):
    unet = small(n_channels=3, bilinear=bilinear).eval()
    batch = images(2, 3, 32, 48)
    with torch.no_grad():
        levels = unet.encode(batch)
        deepest = 4 * 16 // (2 if bilinear else 1)
        shapes = [(2, 4, 32, 48), (2, 8, 16, 24), (2, 16, 8, 12), (2, 32, 4, 6), (2, deepest, 2, 3)]
        assert [tuple(level.shape) for level in levels] == shapes
        features = levels[-1]
        for up, level in zip((unet.up1, unet.up2, unet.up3, unet.up4), levels[-2::-1], strict=True):
            features = up(features, level)
        assert torch.equal(unet.outc(features), unet(batch))
        torch.testing.assert_close(levels[1], unet.down1(unet.inc(batch)))


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_weight_gets_a_gradient(norm):
    unet = small(norm=norm)
    unet(images(2, 1, 32, 32)).square().mean().backward()
    without = [name for name, weight in unet.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"norm": "layer"}, "norm 'layer' is unknown; choose one of batch, group"),
        ({"width": 0}, "width 0 must be an even number"),
        ({"width": -4}, "width -4 must be an even number"),
        ({"width": 5}, "width 5 must be an even number"),
    ],
)
def test_settings_of_no_unet_are_refused(settings, says):
    with pytest.raises(SettingsError, match=says):
        UNet(1, 1, **settings)


@pytest.mark.parametrize("width", [2, 4, 6, 8, 12, 16, 20])
def test_group_norm_fits_every_even_width(width):
    assert small(width=width, norm="group")(images(1, 1, 16, 16)).shape == (1, 1, 16, 16)


# Normalisation


def test_with_group_norm_an_image_does_not_see_its_batch_mates():
    unet = small(norm="group")
    unet.train()
    with torch.no_grad():
        one, other = images(1, 1, 32, 32, seed=1), images(3, 1, 32, 32, seed=2) * 9 + 5
        alone, together = unet(one), unet(torch.cat([one, other]))[:1]
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_with_batch_norm_an_image_sees_its_batch_mates_while_training_only():
    unet = small(norm="batch")
    one, other = images(1, 1, 32, 32, seed=1), images(3, 1, 32, 32, seed=2) * 9 + 5
    with torch.no_grad():
        unet.train()
        assert not torch.allclose(unet(one), unet(torch.cat([one, other]))[:1], atol=1e-3)
        unet.eval()
        torch.testing.assert_close(unet(torch.cat([one, other]))[:1], unet(one), rtol=1e-4, atol=1e-5)


# Initial weights


def test_initial_weights_depend_on_the_generator_alone():
    one, same, other = small(3), small(3), small(4)
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    drawn = [name for name, weight in one.named_parameters() if weight.ndim > 1 or "conv.bias" in name]
    assert all(not torch.equal(one.get_parameter(name), other.get_parameter(name)) for name in drawn)


def test_initialise_leaves_the_global_generator_alone():
    unet = UNet(1, 1, 4)
    before = torch.random.get_rng_state()
    initialise(unet, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("bilinear", [False, True])
def test_initial_weights_are_those_that_pytorch_draws_by_default(bilinear):
    with torch.random.fork_rng():
        torch.manual_seed(11)
        by_default = UNet(3, 2, 4, bilinear=bilinear)
    ours = UNet(3, 2, 4, bilinear=bilinear)
    initialise(ours, torch.Generator().manual_seed(11))
    for name, weight in by_default.state_dict().items():
        assert torch.equal(ours.state_dict()[name], weight), name


def test_initialise_draws_linear_layers_too():
    head = nn.Sequential(nn.Linear(50, 200))
    nn.init.zeros_(head[0].weight)
    nn.init.zeros_(head[0].bias)
    initialise(head, torch.Generator().manual_seed(0))
    bound = 50**-0.5
    for tensor in (head[0].weight, head[0].bias):
        assert bound * 0.9 < tensor.abs().max() <= bound
        assert tensor.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


# Files of weights


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize(
    ("settings", "standardisation"),
    [
        ({}, GREY),
        ({"norm": "group"}, GREY),
        ({"bilinear": True}, GREY),
        ({"norm": "group", "bilinear": True, "width": 6}, GREY),
        ({"n_channels": 3, "n_classes": 3, "width": 2}, RGB),
        ({"n_channels": 3, "n_classes": 5, "width": 8}, RGB),
    ],
)
def test_a_saved_unet_loads_with_its_shape_and_weights(tmp_path, suffix, settings, standardisation):
    unet = small(**settings)
    unet(images(2, unet.n_channels, 16, 16))  # moves the statistics
    save_unet(tmp_path / f"unet.{suffix}", unet, standardisation)
    loaded, loaded_standardisation = load_unet(tmp_path / f"unet.{suffix}")
    for name in ("n_channels", "n_classes", "width", "norm", "bilinear"):
        assert getattr(loaded, name) == getattr(unet, name), name
    assert loaded.state_dict().keys() == unet.state_dict().keys()
    for name, tensor in unet.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    # a .pth holds what Pytorch-UNet reads, and nothing else
    assert loaded_standardisation == (standardisation if suffix == "safetensors" else None)


def test_a_pth_that_we_write_is_a_plain_state_dict_of_the_published_names(tmp_path):
    save_unet(tmp_path / "unet.pth", small(n_channels=3, n_classes=3), RGB)
    state = torch.load(tmp_path / "unet.pth", weights_only=True)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == published(3, 3, 4)
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in state.values())


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("mask_values", [None, [0, 1], [[0, 0, 0], [255, 255, 255]]])
@pytest.mark.parametrize("bilinear", [False, True])
def test_a_pth_of_pytorch_unet_loads(tmp_path, bilinear, mask_values, legacy):
    weights = published_weights(3, 2, 4, bilinear)
    content = dict(weights) if mask_values is None else {**weights, "mask_values": mask_values}
    torch.save(content, tmp_path / "theirs.pth", _use_new_zipfile_serialization=not legacy)
    unet, standardisation = load_unet(tmp_path / "theirs.pth")
    assert standardisation is None
    assert (unet.n_channels, unet.n_classes, unet.width, unet.bilinear) == (3, 2, 4, bilinear)
    unet.eval()
    batch = images(1, 3, 32, 32)
    with torch.no_grad():
        output = unet(batch)
    torch.testing.assert_close(output, published_output(weights, batch, bilinear), rtol=1e-4, atol=1e-5)


class Intruder:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_with_code_in_it_is_refused_and_does_not_run(tmp_path, form, suffix):
    path, touched = tmp_path / f"evil.{suffix}", tmp_path / "touched"
    content = {**published_weights(1, 1, 2), "mask_values": Intruder(touched)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError) as refusal:
        load_unet(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not touched.exists()
    # the trap is armed: unpickled without care, the file does its work
    if form == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(BytesIO(path.read_bytes()), weights_only=False)
    assert touched.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:1],
        lambda content: content[:8],
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"hello, this is text and no checkpoint\n" * 20,
        lambda content: b"\x00" * 1000,
        lambda content: bytes(range(256)) * 10,
        lambda content: content[1000:],
    ],
    ids=["empty", "byte", "start", "half", "end", "text", "zeros", "garbage", "tail"],
)
def test_a_damaged_file_is_refused_by_its_name_in_one_line(tmp_path, suffix, damage):
    path = tmp_path / f"unet.{suffix}"
    save_unet(path, small(), GREY)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError) as refusal:
        load_unet(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_damaged_legacy_pth_is_refused_wherever_it_is_cut(tmp_path):
    path = tmp_path / "unet.pth"
    torch.save(small(width=2).state_dict(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for length in [*range(0, 200, 7), *range(200, len(content) - 1, len(content) // 60)]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"unet\.pth"):
            load_unet(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, about the versions that such a file claims
def test_a_pth_with_one_byte_changed_is_refused_or_read_but_never_raises_another_error(tmp_path):
    path = tmp_path / "unet.pth"
    rng = np.random.default_rng(0)
    for legacy in (False, True):
        torch.save(small(width=2).state_dict(), path, _use_new_zipfile_serialization=not legacy)
        content = path.read_bytes()
        for place in rng.integers(0, 3000, 80):
            changed = bytearray(content)
            changed[place] ^= int(rng.integers(1, 256))
            path.write_bytes(changed)
            with suppress(CheckpointError):
                load_unet(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(CheckpointError, match="no such file") as refusal:
        load_unet(tmp_path / f"absent.{suffix}")
    assert f"absent.{suffix}" in str(refusal.value)
    (tmp_path / f"folder.{suffix}").mkdir()
    with pytest.raises(CheckpointError, match=rf"folder\.{suffix}"):
        load_unet(tmp_path / f"folder.{suffix}")


def without(name):
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {"fc.weight": torch.ones(2, 2)},
        lambda weights: {},
        without("inc.double_conv.0.weight"),
        without("outc.conv.bias"),
        without("down3.maxpool_conv.1.double_conv.4.running_var"),
        lambda weights: weights | {"extra.weight": torch.ones(1)},
        lambda weights: weights | {"down1.maxpool_conv.1.double_conv.0.weight": torch.ones(3, 3)},
        lambda weights: weights | {"inc.double_conv.0.weight": torch.ones(5, 1, 3, 3)},
        lambda weights: weights | {"inc.double_conv.0.weight": torch.tensor(1.0)},
        lambda weights: weights | {"outc.conv.weight": torch.ones(0)},
    ],
    ids=["other", "empty", "no first", "no bias", "no statistics", "more", "shape", "odd width", "scalar", "nothing"],
)
def test_other_weights_are_not_the_weights_of_a_unet(tmp_path, suffix, change):
    path = tmp_path / f"other.{suffix}"
    weights = change(published_weights(1, 1, 4))
    if suffix == "pth":
        torch.save(weights, path)
    else:
        save_tensors(path, weights, {})
    with pytest.raises(CheckpointError, match="not the weights of a U-Net") as refusal:
        load_unet(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), "text", 5, None])
def test_a_pth_without_a_state_dict_says_so(tmp_path, content):
    torch.save(content, tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match=r"list\.pth: holds no state dict"):
        load_unet(tmp_path / "list.pth")


@pytest.mark.parametrize("content", [{1: 2}, {"inc.double_conv.0.weight": 3, "outc.conv.weight": 4}, {None: None}])
def test_a_pth_with_a_dictionary_of_other_things_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "dictionary.pth")
    with pytest.raises(CheckpointError, match=r"dictionary\.pth"):
        load_unet(tmp_path / "dictionary.pth")
