"""Agents × seeds: each agent trained alike, all judged on one frozen reference U-Net; nothing is done twice."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from agents import AGENTS
from agents.console import train_agent
from agents.runs import RunDirectory
from agents.settings import RunSettings
from ahm_env import RunError, SettingsError
from ahm_env.files import write_text
from downstream.crew import images_shown
from downstream.judging import judge_run

REFERENCE_SEED = 1_000_000  # no seed of a comparison, so that no agent's own U-Net is the reference


@dataclass(frozen=True)
class Variant:
    """An agent of a comparison, such as `a3c`, or `a3c+image_weight=2+horizon=2` with settings of its own.

    Attributes:
        label: As the user wrote it.
        algo: Name of the agent.
        settings: Settings of the agent, or of the run, that differ from the others'.
    """

    label: str
    algo: str
    settings: dict[str, Any]

    @classmethod
    def parse(cls, label: str) -> "Variant":
        """Read `NAME`, or `NAME+KEY=VALUE+…`.

        Raises:
            SettingsError: Unknown agent, or not of this form.
        """
        algo, *pairs = label.split("+")
        if algo not in AGENTS:
            raise SettingsError(f"agent {algo!r} is unknown; choose among {', '.join(AGENTS)}")
        settings = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise SettingsError(f"{label!r}: {pair!r} is not KEY=VALUE; for example a3c+image_weight=2")
            settings[key.replace("-", "_")] = parse_value(value)
        return cls(label, algo, settings)

    def given(self, common: dict[str, Any]) -> dict[str, Any]:
        """What to give to `RunSettings.make`: what all agents share, and what is this agent's own."""
        names = {field.name for field in fields(RunSettings)}
        own = {key: value for key, value in self.settings.items() if key in names}
        agent = {key: value for key, value in self.settings.items() if key not in names}
        return {**common, **own, "algo": self.algo, "agent": agent or None}


@dataclass(frozen=True)
class Cell:
    """One agent with one seed: its run, and its judgement when it is done."""

    variant: Variant
    seed: int
    path: Path

    @property
    def verdict(self) -> dict[str, Any] | None:
        """What the cell came to, None where it is not done."""
        path = self.path / "judgement.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
        except ValueError:
            return None  # damaged: judged again

    @property
    def images(self) -> int:
        """Images shown so far."""
        return images_shown(self.path)


@dataclass(frozen=True)
class Plan:
    """A comparison on disk: what is compared, and where.

    Args:
        out: Directory of the comparison.
        labels: The agents, as `Variant.parse` reads them.
        seeds: How many seeds: 0, 1, …
        common: Settings that all runs share.
    """

    out: Path
    labels: tuple[str, ...]
    seeds: int
    common: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.labels or self.seeds < 1:
            raise SettingsError("a comparison needs one agent and one seed at least")
        if doubles := sorted({label for label in self.labels if self.labels.count(label) > 1}):
            raise SettingsError(f"agent {doubles[0]!r} is there twice; name each once")
        for variant in self.variants:
            RunSettings.make(**variant.given(self.shared))

    @property
    def shared(self) -> dict[str, Any]:
        """Settings of every run: one process each."""
        return {**self.common, "workers": 1}

    @property
    def variants(self) -> list[Variant]:
        """The agents."""
        return [Variant.parse(label) for label in self.labels]

    @property
    def reference(self) -> Cell:
        """The run on random masks whose U-Net judges all."""
        return Cell(Variant.parse("random"), REFERENCE_SEED, self.out / "reference")

    @property
    def cells(self) -> list[Cell]:
        """All cells, seed by seed, so that what is done early is a comparison already."""
        return [
            Cell(variant, seed, self.out / "runs" / f"{variant.label}-{seed}".replace("/", "_").replace(":", "-"))
            for seed in range(self.seeds)
            for variant in self.variants
        ]

    @property
    def unet(self) -> Path:
        """The reference U-Net."""
        return self.reference.path / "unet.safetensors"

    def begin(self) -> None:
        """Make the directory, or go on with the comparison in it, which may grow by agents and seeds.

        Raises:
            RunError: It holds something else.
        """
        path = self.out / "comparison.json"
        if self.out.exists() and not self.out.is_dir():
            raise RunError(f"{self.out}: is a file; choose another --out")
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))["common"]
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path}: damaged ({error}); restore it, or choose another --out") from None
            if before != self.shared:
                odd = sorted(key for key in {*before, *self.shared} if before.get(key) != self.shared.get(key))
                raise RunError(
                    f"{self.out}: holds a comparison with another --{odd[0].replace('_', '-')}; give the same, or "
                    f"choose another --out"
                )
        elif self.out.exists() and any(self.out.iterdir()):
            raise RunError(f"{self.out}: is not empty and holds no comparison; choose another --out")
        about = {"algos": list(self.labels), "seeds": self.seeds, "common": self.shared}
        write_text(path, json.dumps(about, indent=2) + "\n")


def run_cell(plan: Plan, cell: Cell) -> int:
    """Train and judge one agent, or go on with it.

    Returns:
        The exit status.

    Raises:
        AHMError: Anything that the user can mend.
    """
    resume = (cell.path / "config.json").exists()
    is_reference = cell.path == plan.reference.path
    common = dict(plan.shared) if is_reference else {**plan.shared, "judge": str(plan.unet)}
    given = {**cell.variant.given(common), "seed": cell.seed}
    if status := train_agent({} if resume else given, None, cell.path, resume):
        return status
    if is_reference:
        return 0
    row = RunDirectory(cell.path).last_row()
    judged = judge_run(cell.path, plan.unet)
    verdict = {
        **{name: row[name] for name in ("images", "unet_updates", "seconds", "hardness", "unet_loss")},
        "chosen_share": row["chosen_share"],
        "lesion": judged.judgement.lesion,
        "background": judged.judgement.background,
        "losses": judged.judgement.losses.tolist(),
        "random_losses": judged.judgement.random_losses.tolist(),
    }
    write_text(cell.path / "judgement.json", json.dumps(verdict) + "\n")
    return 0


def parse_value(text: str) -> Any:
    """A number, true, false or null where the text is one, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
