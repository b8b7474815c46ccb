"""Running mean and std, by which what the agent is paid stays comparable while the U-Net improves."""

import torch
from torch import Tensor, nn

SLOWEST = 0.01  # share of a batch in the running means; the first hundred batches count alike


class RunningMoments(nn.Module):
    """Mean and variance of the batches so far, the latest of them most; buffers, so that they are saved and shared."""

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "variance", "count"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def standardise(self, numbers: Tensor, counted: Tensor | None = None) -> Tensor:
        """Count a batch in, and return it minus the mean, over the std: more than 0 for a single number, too.

        Args:
            numbers: Of any shape.
            counted: bool, which of them count; by default all.
        """
        batch = numbers if counted is None else numbers[counted]
        if batch.numel() and torch.isfinite(batch).all():  # else the loss is refused, and what is saved stays as it was
            self.count += 1
            weight = max(SLOWEST, 1 / self.count.item())
            self.mean.lerp_(batch.mean(), weight)
            self.variance.lerp_((batch - self.mean).square().mean(), weight)
        return (numbers - self.mean) / (self.variance.sqrt() + 1e-6)
