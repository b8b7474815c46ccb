"""Weights that standardise by themselves: the same mathematics, but for the padding."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from ahm_env import PatchGrid, Reconstructor, Standardisation, UNet
from ahm_env.model.unet import initialise
from downstream.exporters.fold_normalization import fold, fold_differences
from tests.downstream.tiny import shake

RGB = Standardisation((150.0, 110.0, 70.0), (30.0, 45.0, 60.0))
ON_BLACK = Standardisation((0.0, 0.0, 0.0), (30.0, 45.0, 60.0))
SOME = np.random.default_rng(5).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
IMAGES = torch.from_numpy(SOME).float()


def make_unet(width: int, bilinear: bool = False) -> UNet:
    """A U-Net with statistics and scales as training might leave them: none is 0 or 1."""
    unet = UNet(3, 3, width, bilinear=bilinear)
    initialise(unet, torch.Generator().manual_seed(1))
    shake(unet)
    return unet.eval()


def fold_into(unet: UNet, standardisation: Standardisation, reconstructs: bool = False) -> UNet:
    folded = UNet(unet.n_channels, unet.n_classes, unet.width, bilinear=unet.bilinear).eval()
    folded.load_state_dict(fold(unet.state_dict(), standardisation, reconstructs))
    return folded


@pytest.mark.parametrize("bilinear", [False, True])
def test_folded_features_are_the_same_but_at_the_border_where_they_miss_what_the_mean_would_add(bilinear):
    unet = make_unet(width=4, bilinear=bilinear)
    folded = fold_into(unet, RGB)
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (RGB.mean, RGB.std))
    with torch.no_grad():
        features = unet.inc.double_conv[:2]((IMAGES - mean) / std)
        of_pixels = folded.inc.double_conv[:2](IMAGES / 255)
        difference = of_pixels - features
        assert difference[:, :, 1:-1, 1:-1].abs().max() < 1e-4
        # in the upper left corner, black stands in five of the nine places of the kernel, where the mean gives 0
        convolution, norm = unet.inc.double_conv[0], unet.inc.double_conv[1]
        outside = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]
        black = sum((convolution.weight[:, :, y, x] * (-mean / std).flatten()).sum(1) for y, x in outside)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(difference[0, :, 0, 0], black * scale, rtol=1e-3, atol=1e-4)
    assert difference[0, :, 0, 0].abs().max() > 0.1


def test_folding_changes_two_tensors_of_a_copy():
    unet = make_unet(width=2)
    before = deepcopy(unet.state_dict())
    after = fold(unet.state_dict(), RGB)
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"inc.double_conv.0.weight", "inc.double_conv.1.running_mean"}


@pytest.mark.parametrize("reconstructs", [False, True])
def test_the_difference_lies_in_the_padding_alone(reconstructs):
    unet = make_unet(width=4)
    inside, border = fold_differences(unet, fold_into(unet, RGB, reconstructs), RGB, IMAGES, reconstructs)
    assert inside < 1e-5
    assert border > 1e-3
    # the mean of these images is black
    folded = fold_into(unet, ON_BLACK, reconstructs)
    inside, border = fold_differences(unet, folded, ON_BLACK, IMAGES, reconstructs)
    assert max(inside, border) < 1e-5


def test_a_wrong_fold_is_seen():
    unet = make_unet(width=4)
    other_mean = replace(RGB, mean=(155.0, 110.0, 70.0))
    for wrong in (deepcopy(unet), fold_into(unet, other_mean), fold_into(unet, RGB, reconstructs=True)):
        assert fold_differences(unet, wrong, RGB, IMAGES)[0] > 1e-3


def test_a_reconstruction_in_0_to_1_is_the_reconstruction():
    unet = make_unet(width=4)
    folded = fold_into(unet, ON_BLACK, reconstructs=True)
    nothing = np.zeros((2, 16), dtype=bool)
    expected = Reconstructor(unet, PatchGrid(32, 8), ON_BLACK).reconstruct(SOME, nothing)
    with torch.no_grad():
        found = folded(IMAGES / 255) * 255
    # rounded to whole numbers there
    np.testing.assert_allclose(found.clamp(0, 255).numpy(), expected, atol=0.51)
