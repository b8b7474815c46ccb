"""The agent's networks: shapes, bounds, published weights, and what they see."""

from math import log
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from agents.policy.networks import MaskingNetwork, SmallConv, VGG16Blocks
from ahm_env import CheckpointError, ImageSet, SettingsError

ONE_SIZE, THREE_SIZES = None, torch.tensor([4, 8, 12])
# torchvision's vgg16().features, up to the end of the third block
PUBLISHED = {
    "features.0.weight": (64, 3, 3, 3),
    "features.0.bias": (64,),
    "features.2.weight": (64, 64, 3, 3),
    "features.2.bias": (64,),
    "features.5.weight": (128, 64, 3, 3),
    "features.5.bias": (128,),
    "features.7.weight": (128, 128, 3, 3),
    "features.7.bias": (128,),
    "features.10.weight": (256, 128, 3, 3),
    "features.10.bias": (256,),
    "features.12.weight": (256, 256, 3, 3),
    "features.12.bias": (256,),
    "features.14.weight": (256, 256, 3, 3),
    "features.14.bias": (256,),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator(seed)).float()


def published_weights(seed: int = 0) -> dict[str, Tensor]:
    """What is in a file such as vgg16-397923af.pth, the large layers cut short."""
    weights = {name: torch.randn(shape, generator=generator(seed)) for name, shape in PUBLISHED.items()}
    for later in (17, 19, 21, 24, 26, 28):
        weights |= {f"features.{later}.weight": torch.zeros(2, 2, 3, 3), f"features.{later}.bias": torch.zeros(2)}
    return weights | {"classifier.0.weight": torch.zeros(2, 2), "classifier.6.bias": torch.zeros(1000)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "patch"), [(32, 4), (32, 8), (64, 16), (48, 6), (40, 5), (36, 12), (18, 3)])
def test_maps_have_one_number_a_patch(channels: int, size: int, patch: int) -> None:
    side = size // patch
    maps = MaskingNetwork(channels, size, side, ONE_SIZE)(noise(2, channels, size, size))
    assert maps.logits.shape == maps.values.shape == (2, side**2)
    assert maps.sizes is None
    assert torch.isfinite(maps.logits).all()
    assert torch.isfinite(maps.values).all()


@pytest.mark.parametrize(("size", "patch"), [(32, 16), (48, 6), (32, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_vgg16_gives_the_same_maps_shapes(channels: int, size: int, patch: int) -> None:
    network = MaskingNetwork(channels, size, size // patch, THREE_SIZES, backbone="vgg16")
    maps = network(noise(2, channels, size, size))
    assert maps.logits.shape == maps.values.shape == (2, (size // patch) ** 2)
    assert maps.sizes is not None
    assert maps.sizes.shape == (2, 3)


def test_the_size_head_has_a_number_for_each_size() -> None:
    maps = MaskingNetwork(1, 32, 4, THREE_SIZES)(noise(2, 1, 32, 32))
    assert maps.sizes is not None
    assert maps.sizes.shape == (2, 3)


@pytest.mark.parametrize("bound", [0.5, 2.0])
def test_logits_stay_within_the_bound(bound: float) -> None:
    network = MaskingNetwork(1, 32, 4, THREE_SIZES)
    assert network.size is not None
    network.policy.weight.data.mul_(1e6)
    network.size.weight.data.mul_(1e6)
    maps = network(noise(2, 1, 32, 32), bound)
    assert maps.sizes is not None
    for logits in (maps.logits, maps.sizes):
        assert logits.abs().max() <= bound
        assert logits.abs().max() > 0.99 * bound


def test_logits_without_a_bound_have_none() -> None:
    network = MaskingNetwork(1, 32, 4, ONE_SIZE)
    network.policy.weight.data.mul_(1e6)
    assert network(noise(2, 1, 32, 32)).logits.abs().max() > 100


def test_small_logits_are_hardly_changed_by_the_bound() -> None:
    network, images = MaskingNetwork(1, 32, 4, ONE_SIZE), noise(2, 1, 32, 32)
    torch.testing.assert_close(network(images, 2.0).logits, network(images).logits, atol=1e-4, rtol=1e-2)


def test_the_policy_is_nearly_uniform_at_first(phantoms: ImageSet) -> None:
    shown = torch.from_numpy(phantoms.images(range(8))).float()
    network = MaskingNetwork(3, 32, 4, THREE_SIZES)
    maps = network(shown)
    assert maps.sizes is not None
    for logits in (maps.logits, maps.sizes):
        probabilities = logits.softmax(1)
        entropy = -(probabilities * probabilities.log()).sum(1) / log(logits.shape[1])
        assert entropy.min() > 0.999
    assert (maps.values - 1).abs().max() < 0.1  # every patch costs about the mean


def test_initial_weights_depend_on_the_generator_alone() -> None:
    weights = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(elsewhere)
        network = MaskingNetwork(1, 32, 4, THREE_SIZES, generator=generator(seed))
        weights.append(torch.cat([weight.flatten() for weight in network.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_images_of_a_batch_do_not_influence_each_other() -> None:
    network, images = MaskingNetwork(1, 32, 4, ONE_SIZE), noise(3, 1, 32, 32)
    torch.testing.assert_close(network(images).logits[1], network(images[1:2]).logits[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("row", "column"), [(0, 7), (7, 0), (3, 5)])
def test_a_cell_looks_at_its_own_patch_and_at_what_is_around_it(row: int, column: int) -> None:
    images = noise(1, 1, 64, 64).requires_grad_()
    network = MaskingNetwork(1, 64, 8, ONE_SIZE)
    (seen,) = torch.autograd.grad(network(images).logits[0, row * 8 + column], images)
    attention = nn.functional.avg_pool2d(seen.abs(), 8, divisor_override=1)[0, 0]
    rows, columns = attention.nonzero(as_tuple=True)
    assert attention[row, column] > 0  # patches are numbered row by row
    assert attention[row - 1 if row else 1, column] > 0
    assert (rows - row).abs().max() <= 4
    assert (columns - column).abs().max() <= 4


def test_all_of_the_network_gets_gradients() -> None:
    network = MaskingNetwork(1, 32, 4, THREE_SIZES)
    maps = network(noise(2, 1, 32, 32))
    assert maps.sizes is not None
    (maps.logits[:, 0] + maps.values[:, 1] + maps.sizes[:, 2]).sum().backward()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_an_unknown_backbone_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"'resnet'.*conv.*vgg16"):
        MaskingNetwork(1, 32, 4, ONE_SIZE, backbone="resnet")


def test_weights_for_the_small_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--set backbone=vgg16"):
        MaskingNetwork(1, 32, 4, ONE_SIZE, backbone_weights=tmp_path / "vgg16.pth")


def test_small_conv_has_a_cell_a_patch_where_patches_are_powers_of_two() -> None:
    for patch in (2, 4, 8, 16):
        phi = SmallConv(1, patch, width=4)
        assert phi(noise(1, 1, 32, 32)).shape == (1, phi.channels, 32 // patch, 32 // patch)


def test_vgg16_has_the_names_and_shapes_of_torchvision() -> None:
    assert {name: tuple(tensor.shape) for name, tensor in VGG16Blocks().state_dict().items()} == PUBLISHED


@pytest.mark.slow
def test_vgg16_makes_14_x_14_x_256_of_224_pixels() -> None:
    phi = VGG16Blocks()
    with torch.inference_mode():
        assert phi(noise(1, 3, 224, 224)).shape == (1, 256, 14, 14)
    assert phi.channels == 256


def test_vgg16_sees_grey_images_as_colour_ones() -> None:
    phi, grey = VGG16Blocks(), noise(1, 1, 32, 32)
    torch.testing.assert_close(phi(grey), phi(grey.expand(-1, 3, -1, -1)))


def test_vgg16_computes_on_images_standardised_by_imagenet() -> None:
    phi, seen = VGG16Blocks(), list[Tensor]()
    phi.features[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    phi(torch.tensor([123.675, 116.28, 103.53]).reshape(1, 3, 1, 1).expand(1, 3, 16, 16))  # ImageNet's mean colour
    phi(torch.full((1, 3, 16, 16), 255.0))
    assert seen[0].abs().max() < 1e-5
    assert seen[1][0, :, 0, 0].tolist() == pytest.approx([0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rel=1e-5)


def test_published_weights_load(tmp_path: Path) -> None:
    path, published = tmp_path / "vgg16-397923af.pth", published_weights()
    torch.save(published, path)
    network = MaskingNetwork(3, 32, 2, ONE_SIZE, backbone="vgg16", backbone_weights=str(path))
    loaded = network.phi.state_dict()
    assert set(loaded) == set(PUBLISHED)
    for name, tensor in loaded.items():
        assert torch.equal(tensor, published[name]), name


def test_a_missing_file_of_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such file"):
        MaskingNetwork(3, 32, 2, backbone="vgg16", backbone_weights=tmp_path / "nowhere.pth")
