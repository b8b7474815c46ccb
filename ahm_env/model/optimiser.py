"""Adam whose state is plain tensors from the start: saved without pickle, shared between processes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ahm_env.model.weights import copy_state

_STATE = ("step", "exp_avg", "exp_avg_sq")


class SharedAdam(torch.optim.Adam):
    """Adam (Kingma, Ba, ICLR 2015), its moments allocated at once and in a fixed order.

    Weight decay is apart from the moments, as in AdamW (Loshchilov, Hutter, ICLR 2019).

    Attributes:
        on_step: Called instead of a step, to take it elsewhere with the gradients that the weights have; None: it is
            taken here.
    """

    on_step: Callable[[], object] | None = None
    _foreseen: Sequence[Tensor] = ()

    def __init__(self, parameters: Iterable[Parameter], learning_rate: float, weight_decay: float = 0.0) -> None:
        weights = list(parameters)
        super().__init__(
            weights,
            lr=learning_rate,
            weight_decay=weight_decay,
            decoupled_weight_decay=True,
            fused=weights[0].device.type != "mps",
        )
        for weight in weights:
            step = torch.zeros((), device=weight.device)
            moments = (torch.zeros_like(weight, memory_format=torch.preserve_format) for _ in range(2))
            self.state[weight] = dict(zip(_STATE, (step, *moments), strict=True))

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step."""
        if self.on_step is None:
            super().step(closure)
        else:
            self.on_step()

    @property
    def weights(self) -> list[Parameter]:
        """The weights that it moves."""
        return list(self.param_groups[0]["params"])

    @torch.no_grad()
    def foresee(self, steps: float) -> Sequence[Tensor]:
        """Where the weights will be after so many more steps, should each be as its running means have the last one.

        The tensors are the same each time: new ones take longer to fill than all that is computed here.

        Source: Guan et al., "XPipe", arXiv 1911.04610, 2019 (weights predicted from Adam's moments).
        """
        if steps == 0:
            return self.weights
        self._foreseen = self._foreseen or [torch.empty_like(weight) for weight in self.weights]
        group = self.param_groups[0]
        for weight, foreseen in zip(self.weights, self._foreseen, strict=True):
            step, mean, square = (self.state[weight][name] for name in _STATE)
            of_mean, of_square = (1 - beta ** max(1.0, step.item()) for beta in group["betas"])  # without their bias
            root = torch.sqrt(square, out=foreseen).add_(group["eps"] * of_square**0.5)
            size = steps * self.learning_rate * of_square**0.5 / of_mean
            torch.addcdiv(weight, mean, root, value=-size, out=foreseen)
        return self._foreseen

    @property
    def learning_rate(self) -> float:
        """The step size."""
        return float(self.param_groups[0]["lr"])

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the step size from here on."""
        for group in self.param_groups:
            group["lr"] = learning_rate

    def is_finite(self, loss: Tensor) -> bool:
        """Whether a loss and its gradient are finite, so that a step may be taken."""
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        return bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients) + loss))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by the number of its weight; not copies."""
        return {f"{i}.{name}": self.state[weight][name] for i, weight in enumerate(self.weights) for name in _STATE}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Copy in what `tensors` returned."""
        copy_state(self.tensors(), tensors)

    def share_memory(self) -> None:
        """Move the state to shared memory, so that several processes step with the same moments."""
        for tensor in self.tensors().values():
            tensor.share_memory_()  # type: ignore[no-untyped-call]
