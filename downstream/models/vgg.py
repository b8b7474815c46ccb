"""VGG16's thirteen convolutions with a linear layer to one's own classes.

The published fully connected layers hold 120 of the 138 million weights, and suit 224 px only: an average over the
image takes their place.
"""

import torch
from torch import Tensor, nn

from ahm_env.model.vgg import VGG16Features


class VGG16(nn.Module):
    """VGG16 for images of any size from 32 px.

    Args:
        classes: K.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = VGG16Features()
        self.head = nn.Linear(self.features.channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map `(B, 3, H, W)`, standardised by ImageNet's mean and std, to logits `(B, K)`."""
        return self.head(self.features(images).mean((2, 3)))  # type: ignore[no-any-return]

    def initialise(self, generator: torch.Generator) -> None:
        """Draw the weights as VGG's authors advise for a start from nothing (He et al., ICCV 2015)."""
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
