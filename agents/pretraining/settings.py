"""Everything that decides what a run computes, with defaults and presets."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from gymnasium.vector import VectorWrapper

from agents.registry import AGENTS, agent_class, import_class, read_settings
from agents.settings import LinearSchedule
from ahm_env import MaskRatio, PatchGrid, SettingsError
from ahm_env.model import ranks
from ahm_env.model.devices import count_cores, find_device
from ahm_env.runs.flags import Flag, plain
from ahm_env.runs.settings import IMAGES, ImageSettings, Settings, check_norm, check_seed

SCHEDULES = ("joint", "staged")
JOINT_ONLY = {
    "learning-progress": "follows a U-Net that learns",
    "autoencoder": "hides nothing, but a staged run does",
}
UNET = "U-Net"
HALF = MaskRatio(0.5, 0.5)

PRESETS: dict[str, dict[str, Any]] = {
    "demo": {"total_images": 8_000},
    "paper": {
        "image_size": 320,
        "patch_size": 16,
        "mask_ratio": "0.75",
        "width": 64,
        "batch_size": 12,
        "learning_rate": 2e-4,
        "agent_learning_rate": 2e-4,
        "agent_share": "0.5:1",
        "skip_connections": True,
    },
}


@dataclass(frozen=True)
class RunSettings(ImageSettings):
    """Settings of a run; the same settings, images and one worker give the same weights, bit for bit."""

    algo: Annotated[
        str, Flag(f"Agent that chooses the masks: {', '.join(AGENTS)}, or package.module:Class of your own.")
    ] = "a3c"
    total_images: Annotated[int, Flag("Number of presentations of images in all.")] = 12_000
    batch_size: Annotated[int, Flag("Number of images side by side.")] = 12
    workers: Annotated[int, Flag("Number of processes that train at once; 0: one a core, or one on a GPU.")] = 0
    seed: Annotated[int, Flag("Random seed for weights, sampling and shuffling.")] = 0
    schedule: Annotated[
        str, Flag("joint, or staged: the U-Net on random masks, then the agent, then the U-Net on the agent's masks.")
    ] = "joint"
    reference_unet: Annotated[
        str | None, Flag("File of a U-Net on which the masks are evaluated, too: reference_hardness_… in metrics.csv.")
    ] = None
    patch_size: Annotated[int, Flag("Side of a patch in pixels.", IMAGES)] = 8
    mask_ratio: Annotated[
        MaskRatio, Flag("Share of the patches that is hidden; LOW:HIGH lets the agent decide.", IMAGES)
    ] = HALF
    horizon: Annotated[int, Flag("Steps an image; after each the agent sees what is hidden.", IMAGES)] = 1
    agent_share: Annotated[
        LinearSchedule, Flag("Share of the quota that the agent chooses, START:END of the run.", IMAGES)
    ] = LinearSchedule(0, 0.5)
    width: Annotated[int, Flag("Number of channels of the U-Net's first level.", UNET)] = 16
    norm: Annotated[str, Flag("Normalisation in the U-Net: batch or group.", UNET)] = "batch"
    skip_connections: Annotated[
        bool, Flag("Skip connections while the U-Net reconstructs; without them its deepest layers learn more.", UNET)
    ] = False
    learning_rate: Annotated[float, Flag("Learning rate of the U-Net; falls evenly to a fiftieth of it.", UNET)] = 1e-3
    loss_on: Annotated[str, Flag("Patches that the U-Net learns from: hidden or all.", UNET)] = "hidden"
    agent_learning_rate: Annotated[float | None, Flag("Learning rate of the agent.", "Agent", "the agent's own")] = None
    wrapper: Annotated[
        str | None, Flag("Wrapper of the environment in which the agent learns: package.module:Class.", "Agent")
    ] = None
    agent: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the agent, such as ent_coef."""
    presets = PRESETS
    free = frozenset(("device", "workers"))
    parsers: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "mask_ratio": MaskRatio.parse,
        "agent_share": partial(LinearSchedule.parse, flag="--agent-share", high=1),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "agent", _as_json(self.agent))
        self.grid, self.mask_ratio.quotas(self.grid.patches), self.pixels
        for name in ("horizon", "total_images", "batch_size", "width"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 1 or more")
        if self.workers < 0:
            raise SettingsError(f"--workers {self.workers} must not be negative")
        check_seed(self.seed)
        check_norm(self.norm, self.batch_size, self.image_size)
        if self.schedule == "staged" and self.algo in JOINT_ONLY:
            raise SettingsError(f"{self.algo} {JOINT_ONLY[self.algo]}; use --schedule joint")
        for name in ("learning_rate", "agent_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < float("inf"):
                raise SettingsError(f"--{name.replace('_', '-')} {rate} must be a positive number")
        if self.agent_learning_rate is not None and "learning_rate" in self.agent:
            raise SettingsError("--agent-learning-rate and --set learning_rate are the same setting; give one of them")
        if self.schedule not in SCHEDULES:
            raise SettingsError(f"--schedule {self.schedule} is unknown; choose {' or '.join(SCHEDULES)}")
        if self.workers > 1 and self.torch_device.type != "cpu":
            raise SettingsError(f"--workers {self.workers} share memory on the CPU; use --workers 1 on {self.device}")

    @classmethod
    def make(cls, preset: str | None = None, **given: Any) -> "RunSettings":
        """Defaults, overridden by a preset, overridden by what is given (None is not given).

        Classes that are named as `package.module:Class` are imported.

        Raises:
            SettingsError: Unknown preset, or a value out of range.
        """
        asked = cls.asked(preset, given)
        if "learning_rate" in asked.get("agent", {}) and given.get("agent_learning_rate") is None:
            asked.pop("agent_learning_rate", None)  # the preset's
        settings = cls(**asked)
        read_settings(settings.algo, settings.agent)
        settings.check_workers()
        if settings.wrapper is not None:
            import_class(settings.wrapper, VectorWrapper, "--wrapper")
        return settings

    @property
    def grid(self) -> PatchGrid:
        """How images are cut into patches."""
        return PatchGrid(self.image_size, self.patch_size)

    def unet_learning_rate(self, progress: float) -> float:
        """Step size of the U-Net after this part of the run, 0 to 1."""
        return self.learning_rate * max(0.02, 1 - progress)

    @property
    def torch_device(self) -> torch.device:
        """The device to compute on.

        Raises:
            SettingsError: Not a device of this machine.
        """
        return find_device(self.device)

    @property
    def processes(self) -> int:
        """Number of processes that train at once."""
        if self.workers or not agent_class(self.algo).parallel or ranks.count() > 1:
            return self.workers or 1
        return count_cores() if self.torch_device.type == "cpu" else 1

    def check_workers(self) -> None:
        """Refuse several workers where the agent cannot have them.

        Raises:
            SettingsError: It trains in one process.
        """
        if self.workers > 1 and not agent_class(self.algo).parallel:
            raise SettingsError(f"{self.algo} trains in one process; use --workers 1")

    def check_ranks(self) -> None:
        """Refuse what several ranks cannot do together.

        Raises:
            SettingsError: Several workers, an agent that trains in one process, or a batch or device that cannot be
                shared.
        """
        ranks.check_divisible("--batch-size", self.batch_size)
        ranks.check_device(self.device)
        if ranks.count() > 1 and (self.workers > 1 or not agent_class(self.algo).parallel):
            who = f"--workers {self.workers}" if self.workers > 1 else self.algo
            raise SettingsError(f"{who} cannot be trained by the {ranks.count()} ranks of torchrun; leave torchrun out")

    def changes(self, other: Settings) -> list[str]:
        """List the names of the settings that another run has otherwise; `agent` settings by their own names."""
        found = [name for name in super().changes(other) if name != "agent"]
        own, others = self.agent, other.agent if isinstance(other, RunSettings) else {}
        return sorted({*found, *(_of_agent(key) for key in {*own, *others} if own.get(key) != others.get(key))})

    def differences(self, given: Mapping[str, Any]) -> list[str]:
        """Names of those given settings that are not this run's; `agent` settings by their own names."""
        own = self.agent
        asked = {key: value for key, value in _as_json(given.get("agent") or {}).items() if value is not None}
        others = {key: value for key, value in given.items() if key != "agent"}
        odd = {_of_agent(key) for key, value in asked.items() if own.get(key) != value}
        return sorted({*super().differences(others), *odd})


def _as_json(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Write settings of an agent as JSON can hold them, and as the agent reads them again."""
    return {key: str(value) if isinstance(value, LinearSchedule) else plain(value) for key, value in agent.items()}


def _of_agent(key: str) -> str:
    """Name a setting of the agent; one is called otherwise on the command line, where the U-Net has its name."""
    return "agent_learning_rate" if key == "learning_rate" else key
