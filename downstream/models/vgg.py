"""VGG16's thirteen convolutions with a linear layer to one's own classes.

The published fully connected layers hold 120 of the 138 million weights, and suit 224 px only: an average over the
image takes their place. Names are torchvision's, so that its published file loads. Source: Simonyan, Zisserman, ICLR
2015.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ahm_env import CheckpointError
from ahm_env.model.reconstruction import read_pth

# ImageNet's channel mean and deviation, which the published weights expect, in 0..255 units
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_DEVIATION = (58.395, 57.12, 57.375)
_BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(nn.Module):
    """VGG16 for images of any size from 32 px.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for block in _BLOCKS:
            for wide in block:
                layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(inplace=True)]
                channels = wide
            layers += [nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, 3, H, W)`, standardised by ImageNet's mean and deviation, to logits `(B, K)`."""
        return self.head(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights as VGG's authors advise for a start from nothing (He et al., ICCV 2015)."""
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def load_published(self, path: Path) -> None:
        """Copy in the convolutions of a file such as `vgg16-397923af.pth`.

        Raises:
            CheckpointError: Missing, damaged, would execute code, or other weights.
        """
        published, own = read_pth(path), self.features.state_dict(prefix="features.")
        if any(getattr(published.get(name), "shape", None) != own[name].shape for name in own):
            raise CheckpointError(
                f"{path}: not torchvision's VGG16 weights; expected a file such as vgg16-397923af.pth"
            )
        self.load_state_dict({**self.state_dict(), **{name: published[name] for name in own}})
