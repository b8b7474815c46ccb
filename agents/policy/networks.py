"""What the agent sees and says: feature extraction network, policy network, value network (AHM paper, Fig. 3)."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter, functional

from agents.agent import Agent
from agents.moments import RunningMoments
from agents.policy.mask_size import SizeHead
from ahm_env.errors import SettingsError, TrainingError
from ahm_env.model.optimiser import SharedAdam
from ahm_env.model.ranks import gather, share, sum_gradients
from ahm_env.model.unet import initialise
from ahm_env.model.vgg import IMAGENET_MEAN, IMAGENET_STD, VGG16Features
from ahm_env.model.weights import copy_state

BACKBONES = ("conv", "vgg16")


@dataclass(frozen=True)
class Maps:
    """What the networks say of B images.

    Attributes:
        logits: `(B, N)` policy map.
        values: `(B, N)` value map: expected patch loss of a patch if it is hidden, in units of the mean loss.
        sizes: `(B, K)` logits over mask sizes, None where the size is fixed.
    """

    logits: Tensor
    values: Tensor
    sizes: Tensor | None


class SmallConv(nn.Module):
    """Stride-2 convolutions down to one cell a patch, then dilated ones, so that each cell sees its surroundings."""

    def __init__(self, channels: int, patch_size: int, width: int = 32) -> None:
        super().__init__()
        depth = max(1, round(log2(patch_size)))
        layers: list[nn.Module] = []
        for level in range(depth):
            layers += [nn.Conv2d(channels, width * min(2, level + 1), 3, stride=2, padding=1), nn.ReLU(inplace=True)]
            channels = width * min(2, level + 1)
        for dilation in (1, 2):
            layers += [nn.Conv2d(channels, 2 * width, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)]
            channels = 2 * width
        self.features = nn.Sequential(*layers)
        self.channels = channels

    def forward(self, observations: Tensor) -> Tensor:
        """Map `(B, C, S, S)` in 0..255 to features `(B, channels, about S / P, about S / P)`."""
        return self.features(observations / 64 - 2)  # type: ignore[no-any-return]


class VGG16Blocks(nn.Module):
    """The first three blocks of VGG16 and one more 2x2 max pool: 224 px become 14 x 14 x 256."""

    def __init__(self) -> None:
        super().__init__()
        self.features = VGG16Features(3)
        self.channels = self.features.channels
        self.mean: Tensor
        self.std: Tensor
        for name, numbers in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            of_one = torch.tensor([number / 255 for number in numbers])
            self.register_buffer(name, of_one.reshape(1, 3, 1, 1), persistent=False)

    def forward(self, observations: Tensor) -> Tensor:
        """Map `(B, 1 or 3, S, S)` in 0..255 to features `(B, 256, S / 16, S / 16)`."""
        colour = observations.expand(-1, 3, -1, -1) / 255
        return functional.max_pool2d(self.features((colour - self.mean) / self.std), 2)


class MaskingNetwork(nn.Module):
    """Observation to policy map, value map and, for ratio ranges, a distribution over mask sizes.

    Args:
        channels: Of the observation.
        image_size: S, pixels.
        side: Patches a side.
        quotas: `(K,)` numbers of hidden patches to choose from; None where their number is fixed.
        backbone: `conv` or `vgg16`.
        backbone_weights: A file of VGG16 weights.
        generator: Source of the initial weights.

    Raises:
        SettingsError: Unknown backbone, or weights for one that takes none.
    """

    def __init__(
        self,
        channels: int,
        image_size: int,
        side: int,
        quotas: Tensor | None = None,
        backbone: str = "conv",
        backbone_weights: str | Path | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise SettingsError(f"backbone {backbone!r} is unknown; choose one of {', '.join(BACKBONES)}")
        if backbone_weights is not None and backbone != "vgg16":
            raise SettingsError("backbone weights can only be loaded into --set backbone=vgg16")
        self.side = side
        generator = generator or torch.Generator().manual_seed(0)
        self.phi: SmallConv | VGG16Blocks
        self.phi = SmallConv(channels, image_size // side) if backbone == "conv" else VGG16Blocks()
        self.policy = nn.Conv2d(self.phi.channels, 1, 1)
        self.value = nn.Conv2d(self.phi.channels, 1, 1)
        self.size = None if quotas is None else SizeHead(self.phi.channels, quotas)
        initialise(self, generator)
        # small heads: at first every patch and every size is as likely as any other
        heads: list[nn.Conv2d | nn.Linear | None] = [self.policy, self.value, self.size]
        for head in heads:
            if head is not None and head.bias is not None:
                head.weight.data.mul_(0.01)
                nn.init.zeros_(head.bias)
        if isinstance(self.phi, VGG16Blocks) and backbone_weights is not None:
            self.phi.features.load_published(Path(backbone_weights))
        self.mean_loss: Tensor  # running mean of the patch losses, by which they stay comparable as the U-Net improves
        self.register_buffer("mean_loss", torch.zeros(()))
        self.surprise, self.to_go = RunningMoments(), RunningMoments()  # of what is earned above expectation
        for weight in self.parameters():
            if weight.ndim == 4:  # as fast as the U-Net: convolutions like their channels last
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def forward(self, observations: Tensor, bound: float | None = None) -> Maps:
        """Compute the maps of observations `(B, C, S, S)`, float32 in 0..255.

        Logits of policy and size lie within ±bound, if there is one; unbounded ones collapse onto few patches.
        """
        features = self.phi(share(observations).contiguous(memory_format=torch.channels_last))
        if features.shape[-1] != self.side:
            size = (self.side, self.side)
            features = functional.interpolate(features, size, mode="bilinear", align_corners=False)
        logits = _bounded(self.policy(features).flatten(1), bound)
        values = 1 + self.value(features).flatten(1)  # the mean loss is 1, by its unit
        sizes = None if self.size is None else _bounded(self.size(features.mean((2, 3))), bound)
        count = len(observations)
        return Maps(gather(logits, count), gather(values, count), None if sizes is None else gather(sizes, count))

    def look(self, observations: Tensor, settings: Any, progress: float) -> Maps:
        """Compute the maps with the bound and temperature that settings have after this part of a run, 0 to 1."""
        bound, temperature = settings.bound, settings.temperature.at(progress)
        maps: Maps = self(observations, None if bound is None else bound.at(progress))
        return replace(maps, logits=maps.logits / temperature)


def _bounded(logits: Tensor, bound: float | None) -> Tensor:
    return logits if bound is None else bound * torch.tanh(logits / bound)


class NetworkAgent(Agent):
    """An agent whose state is a network, its optimiser and a generator; several processes may train it at once."""

    parallel = True
    network: MaskingNetwork
    optimiser: SharedAdam

    def make_network(self, quotas: Tensor | None = None) -> MaskingNetwork:
        """Build an untrained network for the agent's problem and the backbone of its settings; see `MaskingNetwork`."""
        shape = self.problem.channels, self.problem.image_size, self.problem.side
        backbone = self.settings.backbone, self.settings.backbone_weights
        return MaskingNetwork(*shape, quotas, *backbone, self.generator).to(self.device)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that learning changes."""
        weights = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        moments = {f"optimiser.{name}": tensor for name, tensor in self.optimiser.tensors().items()}
        return weights | moments | super().state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what `state` returned."""
        copy_state(self.state(), state)
        super().restore(state)

    def share_memory(self) -> None:
        """Let several processes learn at once on the same weights and moments."""
        self.network.share_memory()
        self.optimiser.share_memory()

    def backward(self, loss: Tensor, weights: Iterable[Parameter], longest: float) -> None:
        """Give these weights the gradients of a loss, shortened where they are longer than `longest` together.

        Raises:
            TrainingError: The loss or a gradient is not finite.
        """
        weights = list(weights)
        for weight in weights:
            weight.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        sum_gradients(weights)
        norm = torch.nn.utils.clip_grad_norm_(weights, longest)
        if not torch.isfinite(norm + loss):
            raise TrainingError(
                f"the loss of {self.name} is no longer finite ({loss.item():.3g}); its step size is probably too "
                f"large: lower --agent-learning-rate"
            )
