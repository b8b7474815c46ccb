"""VGG16's convolutions, of any image size; names are torchvision's, so that its published file loads.

Source: Simonyan, Zisserman, "Very deep convolutional networks", ICLR 2015.
"""

from pathlib import Path

from torch import nn

from ahm_env.errors import CheckpointError
from ahm_env.model.weights import read_pth

# ImageNet's channel mean and std, which the published weights expect, in 0..255 units
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16Features(nn.Sequential):
    """The first blocks of VGG16: 3x3 convolutions with ReLU, each block ended by a 2x2 max pool.

    Args:
        blocks: How many of the five.
    """

    def __init__(self, blocks: int = len(BLOCKS)) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for block in BLOCKS[:blocks]:
            for wide in block:
                layers += [nn.Conv2d(channels, wide, 3, padding=1), nn.ReLU(inplace=True)]
                channels = wide
            layers += [nn.MaxPool2d(2)]
        super().__init__(*layers)
        self.channels = channels

    def load_published(self, path: Path) -> None:
        """Copy in the convolutions of a file such as `vgg16-397923af.pth`.

        Raises:
            CheckpointError: Missing, damaged, would execute code, or other weights.
        """
        published, own = read_pth(path), self.state_dict()
        found = {name: published.get(f"features.{name}") for name in own}
        if any(getattr(found[name], "shape", None) != own[name].shape for name in own):
            raise CheckpointError(
                f"{path}: not torchvision's VGG16 weights; expected a file such as vgg16-397923af.pth"
            )
        self.load_state_dict(found)
