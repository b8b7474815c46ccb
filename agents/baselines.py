"""Agents that do not learn, against which a claim must stand."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.a3c import A3C
from agents.agent import Callback, Env, Infos, Problem, play


class RandomAgent:
    """Hides uniformly random patches; of a ratio range, a uniformly random number of them."""

    name = "random"

    def __init__(
        self, env: Env | Problem, settings: None = None, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        self.problem, self.settings = Problem.of(env), settings
        self.generator = torch.Generator().manual_seed(seed)

    def learn(self, env: Env, images: int, callback: Callback | None = None) -> None:
        """Play; there is nothing to learn."""
        play(self, env, images, callback)

    def act(
        self,
        observations: npt.NDArray[np.uint8],
        deterministic: bool = False,
        infos: Infos | None = None,
        generator: torch.Generator | None = None,
    ) -> npt.NDArray[np.int8]:
        """Random masks `(B, N)`: see the Agent protocol."""
        generator = generator or self.generator
        low, high = self.problem.quotas
        shape = (len(observations), self.problem.patches)
        noise = torch.rand(shape, generator=generator)
        count = torch.randint(low, high + 1, (len(noise), 1), generator=generator)
        if infos is not None:
            hidden = torch.as_tensor(infos["mask"]).flatten(1)
            noise[hidden] = 2.0
            choosable = torch.as_tensor(infos["choosable"])[:, None]
            fresh = ~hidden.any(1, keepdim=True)
            count = torch.where(fresh & (choosable == high), count, choosable)
        rank = noise.argsort(1).argsort(1)
        return (rank < count).numpy().astype(np.int8)

    def maps(self, observations: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], None]:
        """A flat policy map, and no value map."""
        return np.zeros((len(observations), self.problem.patches), np.float32), None

    def state(self) -> dict[str, Tensor]:
        """The generator."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what `state` returned."""
        self.generator.set_state(state["generator"])

    def share_memory(self) -> None:
        """Nothing is shared."""


class FrozenAgent(A3C):
    """A3C's networks as they were drawn, sampled from but never trained: what learning must beat."""

    name = "frozen"

    def learn(self, env: Env, images: int, callback: Callback | None = None) -> None:
        """Play; nothing is learned."""
        play(self, env, images, callback)
