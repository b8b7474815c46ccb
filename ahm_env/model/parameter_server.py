"""A parameter server: workers find gradients, it takes the steps and has the weights.

Source: Dean et al., "Large scale distributed deep networks", NIPS 2012 (Downpour SGD). With the images of a batch a
worker's gradients go to the server, which steps at once, and answers with weights. Since a worker took its weights,
others have stepped; so many steps are the staleness of its gradients. So that these fit the weights that they will
meet, a worker is not given the weights as they are but as they will be after so many steps as is usual, as far as that
can be foreseen.

The server may live in another process, as an actor of Ray.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ahm_env.errors import TrainingError
from ahm_env.files import first_line
from ahm_env.model.optimiser import SharedAdam

Floats = npt.NDArray[Any]
Learner = tuple[nn.Module, SharedAdam]  # a network that learns, and its optimiser


@dataclass(frozen=True)
class Weights:
    """What the server answers.

    Attributes:
        version: Steps that it has taken.
        seen: Images that they were taken on, and those shown before.
        weights: `(P,)` of each network; foreseen, or those of this version.
        buffers: Of each network, such as its running means: as they were where the last step was found.
        totals: Gradients that have come, the sum of their staleness, and how many of them were refused.
    """

    version: int
    seen: int
    weights: Sequence[Floats]
    buffers: Sequence[Sequence[Floats]]
    totals: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Gradients:
    """What a worker has found for one network: its gradients `(P,)`, its buffers by now, and the step size."""

    gradients: Floats
    buffers: Sequence[Floats]
    learning_rate: float


class ParameterServer:
    """Has the weights, and takes all steps.

    Args:
        learners: The networks that learn, with their optimisers.
        seen: Images that were shown before.
        stalest: Gradients of more staleness are refused: they say how to better weights that are long gone.
    """

    def __init__(self, learners: Sequence[Learner], seen: int, stalest: int) -> None:
        self.learners, self.seen, self.stalest = learners, seen, stalest
        self.version, self.totals, self._moving = 0, np.zeros(3, np.int64), frozenset[int]()
        for _, optimiser in learners:
            for weight in optimiser.weights:
                weight.grad = torch.zeros_like(weight)
        self._packed = [_empty(optimiser) for _, optimiser in learners]

    def pull(self) -> Weights:
        """Return the weights to find gradients on, foreseen by the mean staleness; the same arrays each time."""
        came, staleness, _ = self.totals.tolist()
        return self._answer(staleness / came if came else 0.0)

    def push(self, version: int, images: int, found: Mapping[int, Gradients]) -> Weights:
        """Take a step with what was found on these images, or refuse it; returns weights as `pull` does.

        Images of what is refused do not count: its worker goes on with other ones, and with the weights returned.

        Args:
            version: Of the weights on which it was found.
            images: How many.
            found: By the number of the network.
        """
        staleness = self.version - version
        refused = staleness > self.stalest
        self.totals += 1, staleness, refused
        if not refused:
            for number, one in found.items():
                network, optimiser = self.learners[number]
                _unpack(_gradients(optimiser), one.gradients)
                _set_buffers(network, one.buffers)
                optimiser.set_learning_rate(one.learning_rate)
                optimiser.step()
            self._moving = frozenset(found)
            self.version, self.seen = self.version + 1, self.seen + images
        return self.pull()

    def fetch(self) -> tuple[Weights, list[dict[str, Tensor]]]:
        """Return the weights as they are, and the optimisers' tensors."""
        return self._answer(0.0), [optimiser.tensors() for _, optimiser in self.learners]

    def _answer(self, ahead: float) -> Weights:
        weights = [
            _pack(optimiser.foresee(ahead if number in self._moving else 0.0), array)  # one may be frozen for a while
            for number, ((_, optimiser), array) in enumerate(zip(self.learners, self._packed, strict=True))
        ]
        buffers = [_buffers(network) for network, _ in self.learners]
        return Weights(self.version, self.seen, weights, buffers, self.totals.copy())


class Link:
    """A worker's way to the server: its networks take the server's weights, and no step themselves.

    Args:
        ray: The module `ray`, connected.
        server: The server, as an actor.
        learners: The worker's networks, with their optimisers.

    Attributes:
        seen: Images that all workers have learned from.
    """

    def __init__(self, ray: Any, server: Any, learners: Sequence[Learner]) -> None:
        self._ray, self._server, self._learners = ray, server, learners
        self._found: dict[int, Gradients] = {}
        self._packed = [_empty(optimiser) for _, optimiser in learners]
        self.seen, self._totals = 0, np.zeros(3, np.int64)
        self._take(self._ask("pull"))
        self._measured = self._totals
        for number, (_, optimiser) in enumerate(learners):
            optimiser.on_step = partial(self._keep, number)

    def add(self, images: int) -> int:
        """Hand over what was found on these images, and take new weights; returns how many images all have counted.

        Raises:
            TrainingError: The server has died.
        """
        found, self._found = self._found, {}
        self._take(self._ask("push", self._version, images, found))
        return self.seen

    def measure(self) -> dict[str, float]:
        """Mean staleness of all gradients that came since the last call, and which share of them was refused."""
        came, staleness, refused = (self._totals - self._measured).tolist()
        self._measured = self._totals
        return {"staleness": staleness / came, "refused": refused / came} if came else {}

    def fetch(self) -> None:
        """Take the weights, and the state of the optimisers.

        Raises:
            TrainingError: The server has died.
        """
        weights, states = self._ask("fetch")
        self._take(weights)
        for (_, optimiser), state in zip(self._learners, states, strict=True):
            optimiser.restore(state)

    def close(self) -> None:
        """Let the optimisers step again themselves."""
        for _, optimiser in self._learners:
            optimiser.on_step = None

    def _ask(self, method: str, *args: Any) -> Any:
        try:
            return self._ray.get(getattr(self._server, method).remote(*args))
        except self._ray.exceptions.RayError as error:
            raise TrainingError(
                f"the parameter server, which has the weights, has died ({first_line(error)}); the last checkpoint is "
                f"intact: go on with --resume"
            ) from None

    def _take(self, new: Weights) -> None:
        self._version, self._totals, self.seen = new.version, new.totals, new.seen
        for (network, optimiser), weights, buffers in zip(self._learners, new.weights, new.buffers, strict=True):
            _unpack(optimiser.weights, weights)
            _set_buffers(network, buffers)

    def _keep(self, number: int) -> None:
        if number in self._found:
            raise TrainingError("an agent that takes several steps a batch cannot be trained on a cluster")
        network, optimiser = self._learners[number]
        packed = _pack(_gradients(optimiser), self._packed[number])
        self._found[number] = Gradients(packed, _buffers(network), optimiser.learning_rate)


def _gradients(optimiser: SharedAdam) -> list[Tensor]:
    return [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in optimiser.weights]


def _empty(optimiser: SharedAdam) -> Floats:
    """Make an array for the weights of an optimiser, to be written again and again: a new one takes longer to fill."""
    return np.empty(sum(weight.numel() for weight in optimiser.weights), optimiser.weights[0].detach().numpy().dtype)


def _pack(tensors: Iterable[Tensor], array: Floats) -> Floats:
    """Copy tensors into an array, and return it."""
    for tensor, part in _parts(tensors, array):
        part[...] = tensor
    return array


def _unpack(tensors: Iterable[Tensor], array: Floats) -> None:
    """Copy an array into the tensors."""
    for tensor, part in _parts(tensors, array):
        tensor[...] = part


def _parts(tensors: Iterable[Tensor], array: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Pair tensors, their channels last, as they lie in memory, with their parts of an array."""
    start = 0
    for one in tensors:
        own = one.detach().numpy()
        own = own.transpose(0, 2, 3, 1) if own.ndim == 4 else own
        yield own, array[start : start + own.size].reshape(own.shape)
        start += own.size


def _buffers(network: nn.Module) -> list[Floats]:
    return [buffer.numpy().copy() for buffer in network.buffers()]


def _set_buffers(network: nn.Module, arrays: Iterable[Floats]) -> None:
    for buffer, array in zip(network.buffers(), arrays, strict=True):
        buffer.copy_(torch.tensor(array))
