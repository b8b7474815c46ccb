"""Standardisation, folded into the weights of a U-Net that is to take pixels in 0..1."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ahm_env import Standardisation, UNet


def fold(
    weights: Mapping[str, Tensor], standardisation: Standardisation, reconstructs: bool = False
) -> dict[str, Tensor]:
    """Convert the weights of a U-Net so that it takes pixels in 0..1 in place of standardised ones.

    With weights W, mean m and std d in 0..255, W·(255x − m)/d = (255 W/d)·x − Σ W·m/d: the first convolution
    becomes 255 W/d, and the mean of the BatchNorm that follows grows by the sum over the kernel and the input channels.

    That is exact but for a border of one pixel, from which it spreads through the layers: zeros around an image stand
    for its mean here, and for black there. No weights of this architecture can make up for it, since the first
    convolution would need another offset at the border; whoever needs the same numbers takes ONNX.

    Args:
        weights: Of a U-Net with norm batch, on the CPU; left as they are.
        standardisation: Of its images.
        reconstructs: Whether its output is standardised as well, and shall be in 0..1.
    """
    folded = {name: tensor.contiguous() for name, tensor in weights.items()}
    mean, std = (tensor.double() for tensor in standardisation.tensors(torch.device("cpu")))
    first = weights["inc.double_conv.0.weight"] / std
    folded["inc.double_conv.0.weight"] = (255 * first).float()
    folded["inc.double_conv.1.running_mean"] = (
        weights["inc.double_conv.1.running_mean"] + (first * mean).sum((1, 2, 3))
    ).float()
    if reconstructs:
        folded["outc.conv.weight"] = (weights["outc.conv.weight"] * std.reshape(-1, 1, 1, 1) / 255).float()
        folded["outc.conv.bias"] = ((weights["outc.conv.bias"] * std.flatten() + mean.flatten()) / 255).float()
    return folded


@torch.inference_mode()
def fold_differences(
    unet: UNet, folded: UNet, standardisation: Standardisation, images: Tensor, reconstructs: bool = False
) -> tuple[float, float]:
    """How far a U-Net with folded weights is from the first, on images padded with their mean, and with black.

    Args:
        unet: On the CPU, as all.
        folded: Of the weights that `fold` made.
        standardisation: As given to `fold`.
        images: `(B, C, S, S)` float32 in 0..255.
        reconstructs: As given to `fold`.

    Returns:
        Two largest differences of probabilities, or of pixels in 0..1 where the U-Net reconstructs.
    """
    mean, std = standardisation.tensors(torch.device("cpu"))
    output = unet.eval()((images - mean) / std)
    expected = (output * std + mean) / 255 if reconstructs else output.softmax(1)

    def difference(images: Tensor, padding: int) -> float:
        first = folded.inc.double_conv[0]
        assert isinstance(first, nn.Conv2d)
        first.padding = (padding, padding)
        output = folded(images)
        return float(((output if reconstructs else output.softmax(1)) - expected).abs().max())

    framed = functional.pad(images - mean, (1, 1, 1, 1)) + mean
    return difference(framed / 255, padding=0), difference(images / 255, padding=1)
