"""U-Net, weights interchangeable with milesial/Pytorch-UNet (same names and shapes; width 64 equals theirs).

Source of the architecture: Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015, with padded convolutions and
normalisation, as in https://github.com/milesial/Pytorch-UNet.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ahm_env.errors import SettingsError
from ahm_env.model.ranks import BatchNorm2d

NORMS = ("batch", "group")


def can_normalise(norm: str, images: int, image_size: int) -> bool:
    """Whether so many images at once leave the deepest level more than one value a channel to normalise by."""
    return norm != "batch" or images > 1 or image_size >= 32


class DoubleConv(nn.Sequential):
    """Twice 3x3 convolution, normalisation, ReLU: maps `(B, channels_in, H, W)` to `(B, channels_out, H, W)`."""

    def __init__(self, channels_in: int, channels_out: int, norm: str, channels_mid: int | None = None) -> None:
        super().__init__()
        middle = channels_mid or channels_out
        self.double_conv = nn.Sequential(
            nn.Conv2d(channels_in, middle, 3, padding=1, bias=False),
            _norm(norm, middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, channels_out, 3, padding=1, bias=False),
            _norm(norm, channels_out),
            nn.ReLU(inplace=True),
        )


class Down(nn.Sequential):
    """Halve the resolution, then DoubleConv: maps `(B, channels_in, H, W)` to `(B, channels_out, H // 2, W // 2)`."""

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(channels_in, channels_out, norm))


class Up(nn.Module):
    """Double the resolution, join the encoder's features of that resolution, then DoubleConv."""

    up: nn.Module

    def __init__(self, channels_in: int, channels_out: int, norm: str, bilinear: bool) -> None:
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(channels_in, channels_out, norm, channels_in // 2)
        else:
            self.up = nn.ConvTranspose2d(channels_in, channels_in // 2, 2, stride=2)
            self.conv = DoubleConv(channels_in, channels_out, norm)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        """Join `deep` (B, C, h, w) with `skip` (B, C', H, W), H about 2h; odd sizes are padded."""
        deep = self.up(deep)
        dy, dx = skip.shape[2] - deep.shape[2], skip.shape[3] - deep.shape[3]
        if dy or dx:
            deep = functional.pad(deep, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat([skip, deep], dim=1))  # type: ignore[no-any-return]


class OutConv(nn.Sequential):
    """1x1 convolution to the outputs: maps `(B, channels_in, H, W)` to `(B, channels_out, H, W)`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1)


class UNet(nn.Module):
    """The U-Net that reconstructs what is hidden, and is fine-tuned later.

    Args:
        n_channels: Channels of the input.
        n_classes: Channels of the output: the image's own in pretraining.
        width: Channels of the first level; doubled at each of the four levels below.
        norm: `batch` (as in Pytorch-UNet) or `group` (the same for every image, whatever its batch-mates).
        bilinear: Upsample by interpolation instead of transposed convolutions, as Pytorch-UNet offers.
        skip_connections: Whether the encoder's features reach the decoder at every level. Cut (replaced by zeros), all
            that is reconstructed has to go through the deepest level: weights have the same names and shapes.

    Raises:
        SettingsError: Unknown norm, or a width that is not positive.
    """

    def __init__(
        self,
        n_channels: int = 3,
        n_classes: int = 3,
        width: int = 64,
        norm: str = "batch",
        bilinear: bool = False,
        skip_connections: bool = True,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise SettingsError(f"norm {norm!r} is unknown; choose one of {', '.join(NORMS)}")
        if width < 2 or width % 2:
            raise SettingsError(f"U-Net width {width} must be an even number of channels, 2 or more")
        self.n_channels, self.n_classes, self.width, self.norm = n_channels, n_classes, width, norm
        self.bilinear, self.skip_connections = bilinear, skip_connections
        factor = 2 if bilinear else 1
        self.inc = DoubleConv(n_channels, width, norm)
        self.down1 = Down(width, width * 2, norm)
        self.down2 = Down(width * 2, width * 4, norm)
        self.down3 = Down(width * 4, width * 8, norm)
        self.down4 = Down(width * 8, width * 16 // factor, norm)
        self.up1 = Up(width * 16, width * 8 // factor, norm, bilinear)
        self.up2 = Up(width * 8, width * 4 // factor, norm, bilinear)
        self.up3 = Up(width * 4, width * 2 // factor, norm, bilinear)
        self.up4 = Up(width * 2, width, norm, bilinear)
        self.outc = OutConv(width, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, n_channels, H, W)` to `(B, n_classes, H, W)`; H and W at least 16."""
        *levels, deepest = self.encode(images)
        level1, level2, level3, level4 = levels if self.skip_connections else map(torch.zeros_like, levels)
        features = self.up1(deepest, level4)
        features = self.up2(features, level3)
        features = self.up3(features, level2)
        return self.outc(self.up4(features, level1))  # type: ignore[no-any-return]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Encode `(B, n_channels, H, W)` as features, from full resolution down to a sixteenth of it."""
        level1 = self.inc(images)
        level2 = self.down1(level1)
        level3 = self.down2(level2)
        level4 = self.down3(level3)
        return level1, level2, level3, level4, self.down4(level4)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all convolutions and linear layers from `generator`, as PyTorch does by default."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
            if layer.bias is not None:
                bound = layer.weight[0].numel() ** -0.5
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def _norm(norm: str, channels: int) -> nn.Module:
    if norm == "group":
        return nn.GroupNorm(8 if channels % 8 == 0 else 2, channels)
    return BatchNorm2d(channels)
