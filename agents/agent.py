"""The Agent protocol: who chooses the mask. Agents are interchangeable in the run, the comparison, the pictures."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents.settings import LinearSchedule
from ahm_env import SettingsError
from ahm_env.errors import check_kind
from ahm_env.files import save_tensors, write_text
from ahm_env.masks import PatchGrid, highest, mean_over

Env = VectorEnv[Any, Any, Any]
Infos = dict[str, Any]


@dataclass(frozen=True)
class Update:
    """What one batch of episodes came to, for the logs; NaN where an agent has no such number.

    Attributes:
        images: How many episodes.
        reward: Their mean reward.
        unet_loss: Mean loss of their hidden patches.
        entropy: Of the policy, as a share of the largest possible.
        policy_loss: Of the agent.
        value_loss: Of the agent.
        resumable: Whether the agent's state is whole now; not so in the middle of a rollout.
        extras: Further numbers for TensorBoard.
    """

    images: int
    reward: float
    unet_loss: float
    entropy: float = float("nan")
    policy_loss: float = float("nan")
    value_loss: float = float("nan")
    resumable: bool = True
    extras: Mapping[str, float] = field(default_factory=dict)


Callback = Callable[[Update], bool]  # called after each batch of episodes; False ends `learn`


@dataclass(frozen=True)
class Problem:
    """The masking problem as an agent sees it: shapes and quotas.

    Attributes:
        channels: Of the images.
        image_size: Side of the images, pixels (S).
        side: Patches a side.
        quotas: Smallest and largest number of patches that an episode hides; equal without a ratio range.
    """

    channels: int
    image_size: int
    side: int
    quotas: tuple[int, int]

    @property
    def patches(self) -> int:
        """Number of patches (N)."""
        return self.side**2

    @property
    def grid(self) -> PatchGrid:
        """How images are cut into patches."""
        return PatchGrid.of(self.patches, self.image_size)

    def check(self) -> None:
        """Refuse what no masking problem is, as in a file that was damaged or edited by hand.

        Raises:
            SettingsError: A field is of another type or out of range, or does not fit the others.
        """
        numbers = {"channels": self.channels, "image_size": self.image_size, "side": self.side}
        for name, number in (*numbers.items(), *(("one of quotas,", quota) for quota in self.quotas)):
            check_kind(name, number, int)
        if self.channels < 1 or self.side < 2 or self.grid.side != self.side:
            raise SettingsError(f"{self.channels} channels, and {self.side} patches a side of {self.image_size} pixels")
        if len(self.quotas) != 2 or not 1 <= self.quotas[0] <= self.quotas[1] < self.patches:
            raise SettingsError(f"quotas {self.quotas} are not two numbers, from 1 to below {self.patches}")

    @classmethod
    def of(cls, env: "Env | Problem") -> "Problem":
        """Read the problem off a vector environment."""
        if isinstance(env, Problem):
            return env
        inner: Any = env.unwrapped
        low, high = inner.quotas if hasattr(inner, "quotas") else inner.get_attr("quotas")[0]
        spaces: Any = env.single_observation_space, env.single_action_space
        channels, image_size, _ = spaces[0].shape
        return cls(channels, image_size, round(spaces[1].n ** 0.5), (int(low), int(high)))


class Agent(ABC):
    """What every agent can do; one of your own is a subclass with `learn`, `predict` and `maps`.

    Args:
        env: A vector environment of the masking problem, or its shapes and quotas, of which an agent is made.
        settings: Hyper-parameters, of the agent's `settings_class`.
        seed: Random seed for its weights and draws.
        device: Where it computes.

    Raises:
        SettingsError: Settings that do not go together or do not suit the problem.
    """

    name: str  # by which `make_agent` and files know it; of a class that has none, package.module:Class
    parallel: bool = False  # whether several processes can train it at once
    temperature: float | None = None  # logits of sampled masks are divided by it; None: the agent draws from none
    progress: float = 0.0  # how much of its learning is done, 0 to 1; set by the run that trains it
    settings_class: type[Any] | None = None  # a dataclass of numbers and strings; None: there is nothing to set
    problem: Problem
    settings: Any
    device: torch.device
    generator: torch.Generator

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "name" not in vars(cls):  # one that is inherited would have another class loaded in its place
            cls.name = f"{cls.__module__}:{cls.__qualname__}"

    def __init__(
        self, env: Env | Problem, settings: Any = None, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        self.problem, self.device = Problem.of(env), torch.device(device)
        self.settings = self.settings_class() if settings is None and self.settings_class else settings
        self.generator = torch.Generator().manual_seed(seed)
        self.build()
        if not isinstance(env, Problem):
            self.attach(env)

    def build(self) -> None:
        """Make the untrained networks and their optimiser, where there are any."""

    def attach(self, env: Env) -> None:
        """Receive the environment to act in; agents that look at the U-Net itself look at this one's."""

    def check_batches(self, images: int, horizon: int) -> None:
        """Refuse batches of so many images, in episodes of so many steps: a run asks before it begins.

        Raises:
            SettingsError: It cannot learn from them.
        """

    @abstractmethod
    def learn(self, env: Env, images: int, callback: Callback | None = None) -> None:
        """Play `images` episodes (rounded up to whole batches) in a SAME_STEP vector environment, and learn.

        After each batch of episodes `callback` is called with its `Update`; where it returns False, that was the last.
        """

    @abstractmethod
    def predict(
        self,
        observations: npt.NDArray[np.uint8],
        deterministic: bool = False,
        infos: Infos | None = None,
        generator: torch.Generator | None = None,
    ) -> npt.NDArray[np.int8]:
        """Masks `(B, N)` for images `(B, C, S, S)`.

        Args:
            observations: Images, uint8.
            deterministic: The likeliest mask instead of a sampled one.
            infos: What the environment said with these observations (`mask`, `choosable`); None for fresh images,
                of which the whole quota is chosen.
            generator: Source of randomness, the agent's own where None.
        """

    @abstractmethod
    def maps(
        self, observations: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Policy map and value map, `(B, N)` each; the second is None where the agent has none."""

    def state(self) -> dict[str, Tensor]:
        """Every tensor that learning changes: weights, optimiser, generator."""
        return {"generator": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what `state` returned."""
        self.generator.set_state(state["generator"])

    def share_memory(self) -> None:
        """Let several processes learn at once, on the same weights."""


def batches(agent: Agent, env: Env, images: int) -> Iterator[tuple[npt.NDArray[np.uint8], Infos, bool]]:
    """Let the agent act for `images` episodes, rounded up to whole batches.

    Yields:
        After each batch its images `(B, C, S, S)`, the infos of its last step, and whether the episodes came to their
        end; else they were cut off before anything was reconstructed.
    """
    observations, infos = begin(env)
    for _ in range(0, images, env.num_envs):
        shown, ended = observations, False
        while not ended:
            observations, _, terminated, truncated, infos = env.step(agent.predict(observations, infos=infos))
            ended = bool((terminated | truncated).all())
        yield shown, infos["final_info"], bool(terminated.all())


def play(agent: Agent, env: Env, images: int, callback: Callback | None = None) -> None:
    """Play `images` episodes without learning: the agent acts, the environment does what it does."""
    for _, final, _ in batches(agent, env, images):
        if callback is not None and not callback(summary(final)):
            return


def hide_highest(
    scores: npt.NDArray[Any], problem: Problem, infos: Infos | None, counts: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int8]:
    """Masks of the visible patches that score highest, as many as may be chosen.

    Args:
        scores: `(B, N)`.
        problem: The masking problem.
        infos: What the environment said; None for fresh images.
        counts: `(B,)` how many of a fresh image's patches to hide; by default the largest quota.

    Returns:
        `(B, N)`, 1 hides.
    """
    wanted = np.full(len(scores), problem.quotas[1]) if counts is None else counts
    hidden = np.zeros(scores.shape, bool)
    if infos is not None:
        hidden = np.asarray(infos["mask"], bool).reshape(scores.shape)
        wanted = np.where(hidden.any(1), infos["choosable"], np.minimum(wanted, infos["choosable"]))
    return highest(scores, wanted, hidden).astype(np.int8)


def save_agent(agent: Agent, directory: Path) -> None:
    """Write `agent.json` and `agent.safetensors`; the optimiser stays behind."""
    tensors = {name: tensor for name, tensor in agent.state().items() if not name.startswith("optimiser.")}
    own = vars(agent.settings) if agent.settings else {}
    settings = {name: str(one) if isinstance(one, LinearSchedule) else one for name, one in own.items()}
    about = {"agent": agent.name, "problem": asdict(agent.problem), "settings": settings, "progress": agent.progress}
    save_tensors(directory / "agent.safetensors", tensors, about)
    write_text(directory / "agent.json", json.dumps(about, indent=2) + "\n")


def begin(
    env: Env, seeds: Sequence[int | None] | None = None, options: dict[str, Any] | None = None
) -> tuple[npt.NDArray[np.uint8], Infos]:
    """Reset a vector environment.

    Args:
        env: The environment.
        seeds: One for each of its environments.
        options: As its `reset` takes them.

    Raises:
        SettingsError: Its autoreset mode is not SAME_STEP.
    """
    if env.metadata.get("autoreset_mode") is not AutoresetMode.SAME_STEP:
        raise SettingsError("agents learn in environments with autoreset_mode SAME_STEP; make the environment so")
    given: Any = seeds
    return env.reset(seed=given, options=options)


def summary(final: Infos, **numbers: Any) -> Update:
    """Reward and loss of finished episodes, from their infos."""
    losses, mask = (final[key].reshape(len(final["mask"]), -1) for key in ("patch_loss", "mask"))
    unet_loss = float((losses * mask).sum() / mask.sum())
    return Update(len(mask), float(mean_over(losses, mask).mean()), unet_loss, **numbers)
