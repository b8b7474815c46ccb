"""What a person asks an experiment for, as it is written: agents, tasks, numbers of labels, and arms."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from agents.pretraining.settings import RunSettings
from ahm_env import SettingsError
from ahm_env.errors import check_kind
from ahm_env.runs.flags import Flag, pairs
from ahm_env.runs.settings import ImageSettings, Settings
from downstream.comparison.results.rows import SCRATCH
from downstream.finetuning.mean_teacher import OWN
from downstream.finetuning.settings import OF_TASK, FinetuneSettings, TrainConfig
from downstream.models.model import TASKS
from downstream.models.pretrained import PretrainedWeights

ALL, FEW = "all", "Few labels"
# Settings of a run that are not an experiment's: it sets the first ones itself, each agent may have the others
EXPERIMENT_SETS = frozenset(("algo", "seed", "reference_unet", "agent"))
NOT_SHARED = EXPERIMENT_SETS | {"workers", "agent_learning_rate"}
NOT_OF_AN_AGENT = EXPERIMENT_SETS | {"data", "device", "skip_bad", "learning_rate"}


@dataclass(frozen=True)
class AgentConfig:
    """An agent of an experiment, such as `a3c`, or `a3c+image_weight=2+horizon=2` with settings of its own.

    Attributes:
        label: As the user wrote it.
        algo: Name of the agent.
        settings: Settings of the agent, or of the run, that differ from the others'.
    """

    label: str
    algo: str
    settings: dict[str, Any]

    @classmethod
    def parse(cls, label: str) -> "AgentConfig":
        """Read `NAME`, or `NAME+KEY=VALUE+…`; whether there is such an agent is not asked.

        Raises:
            SettingsError: Not of this form.
        """
        algo, *texts = label.split("+")
        settings = pairs(texts, f"agent {algo}:")
        if odd := sorted(NOT_OF_AN_AGENT & settings.keys()):
            hint = ", or write agent_learning_rate" if odd == ["learning_rate"] else ""
            raise SettingsError(f"{label!r}: {odd[0]} is the same for all agents of an experiment; leave it out{hint}")
        return cls(label, algo, settings)

    @property
    def sees_others(self) -> bool:
        """Whether its settings make other pixels of the images than the other agents see."""
        where = {field.name for field in fields(Settings)}  # of every run: they change no pixel
        return bool(self.settings.keys() & ({field.name for field in fields(ImageSettings)} - where))

    def given(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """Combine the settings for `RunSettings.make`: what all agents share, and what is this agent's own."""
        names = {field.name for field in fields(RunSettings)}
        own = {key: value for key, value in self.settings.items() if key in names}
        agent = {key: value for key, value in self.settings.items() if key not in names}
        return {**common, **own, "algo": self.algo, "agent": agent or None}


def arm_settings(label: str) -> dict[str, Any]:
    """Read an arm, how unlabelled images take part: `none` or `auto`, each with `+KEY=VALUE+…` for settings of its own.

    Returns:
        Settings of fine-tuning that differ from the other arms'.

    Raises:
        SettingsError: Not of this form, or unknown settings.
    """
    unlabelled, *texts = label.split("+")
    if unlabelled not in OWN:
        raise SettingsError(f"--unlabelled {label}: an arm is none or auto, such as auto+mix=none")
    settings = _finetune_settings(texts, "--unlabelled")
    if odd := sorted({"ignore", "classes"} & settings.keys()):
        raise SettingsError(f"--unlabelled {label}: {odd[0]} decides what is scored; give it to all, by --finetune")
    return {"unlabelled": unlabelled, **settings}


@dataclass(frozen=True)
class Downstream:
    """What the U-Nets of an experiment are fine-tuned for, as it was written.

    Attributes:
        tasks: Such as `segmentation,classification`.
        labels: Such as `25,100,all`.
        unlabelled: The arms, such as `none,auto,auto+mix=none`.
        draws: How often labelled images are drawn, every run being fine-tuned on each draw; 0: run 0 on draw 0, run 1
            on draw 1, and so on.
        mix: How unlabelled images are mixed in arms that do not say so; None: as by default.
        settings: Settings of fine-tuning that all arms share, such as `steps=400,augment=flips`.
        sam: Directory of a Segment Anything model, which segments the test images without training; None for none.
        prompt: How that is prompted.
    """

    tasks: Annotated[
        str, Flag("Fine-tune their U-Nets, too: for segmentation, classification, or both.", FEW, name="downstream")
    ] = ""
    labels: Annotated[str, Flag("Numbers of labelled images, or all.", FEW)] = "25,100,all"
    unlabelled: Annotated[str, Flag("Arms: none, auto; auto+mix=none has a setting of its own.", FEW)] = "none"
    draws: Annotated[
        int, Flag("Number of draws of the labelled images, each for every run.", FEW, "one for each seed, its own")
    ] = 0
    mix: Annotated[str | None, Flag("How unlabelled images are mixed: box, patches, none.", FEW, "box")] = None
    settings: Annotated[
        str, Flag("Settings of fine-tuning, such as steps=400,augment=flips.", FEW, name="finetune")
    ] = ""
    sam: Annotated[Path | None, Flag("Segment Anything, for a row without training: its directory.", FEW)] = None
    prompt: Annotated[str, Flag("How it is prompted: center, box, grid or a CSV file.", FEW)] = "box"

    @classmethod
    def asked(cls, tasks: str | None = None, **given: Any) -> "Downstream | None":
        """Make the options from those that were given; None if none was (an option that is None was not given).

        Raises:
            SettingsError: Options were given, but no tasks.
        """
        named = {name: value for name, value in given.items() if value is not None}
        if named.get("draws") == 0:
            raise SettingsError("--draws 0 must be 1 or more")
        if tasks is not None:
            return cls(tasks, **named)
        if named:
            flag = next(iter(named)).replace("settings", "finetune")
            raise SettingsError(f"--{flag} needs --downstream segmentation, or classification, or both")
        return None

    def __post_init__(self) -> None:
        counts = list(map(count_name, self.counts))
        names = {"downstream": self.task_names, "labels": counts, "unlabelled": self.arms}
        for flag, written in names.items():
            once(f"--{flag}", written)
        if odd := [task for task in self.task_names if task not in TASKS]:
            raise SettingsError(f"--downstream {odd[0]} is unknown; choose among {', '.join(TASKS)}")
        if not all(names.values()) or 0 in self.counts:
            raise SettingsError("--downstream needs a task, --labels a number from 1 or all, and --unlabelled an arm")
        if "classes" in self.shared and len(self.task_names) > 1:
            raise SettingsError("--finetune classes: the tasks have other classes; compare one task at a time with it")
        if self.draws < 0:
            raise SettingsError(f"--draws {self.draws} must be 1 or more")
        if self.sam is not None and "segmentation" not in self.task_names:
            raise SettingsError("--sam segments; add segmentation to --downstream, or leave it out")
        for arm, task in product(self.arms, self.task_names):
            self.made(arm, task)

    @cached_property
    def task_names(self) -> list[str]:
        """The tasks."""
        return _parts(self.tasks)

    @cached_property
    def counts(self) -> list[int | None]:
        """The numbers of labelled images; None is all."""
        return [_count(text) for text in _parts(self.labels)]

    @cached_property
    def arms(self) -> list[str]:
        """The arms."""
        return _parts(self.unlabelled)

    @cached_property
    def shared(self) -> dict[str, Any]:
        """Settings of fine-tuning that all arms share."""
        mix = [] if self.mix is None else [f"mix={self.mix}"]
        given = re.split(r",(?=\s*\w+=)", self.settings)  # values may hold commas, such as classes=0,1,2
        found = _finetune_settings([*filter(None, map(str.strip, given)), *mix], "--finetune")
        return {name: value for name, value in found.items() if (name, value) != ("mix", FinetuneSettings.mix)}

    def given(self, arm: str, task: str) -> dict[str, Any]:
        """Return the settings of fine-tuning in an arm, without those of another task of these."""
        others = {name for name, one in OF_TASK.items() if one != task and one in self.task_names}
        found = {name: value for name, value in {**self.shared, **arm_settings(arm)}.items() if name not in others}
        return {**found, "task": task}

    def made(self, arm: str, task: str) -> FinetuneSettings:
        """Make the settings of fine-tuning in an arm, with all defaults, from scratch.

        Raises:
            SettingsError: One is out of range.
        """
        return FinetuneSettings.make(PretrainedWeights(SCRATCH, None, None, {}), **self.given(arm, task))


def count_name(count: int | None) -> str:
    """Write a number of labels as the user does."""
    return ALL if count is None else str(count)


def once(what: str, names: Sequence[str]) -> None:
    """Refuse what is there twice.

    Raises:
        SettingsError: Something is.
    """
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"{what} {doubles[0]} is there twice; name each once")


def _finetune_settings(texts: Sequence[str], flag: str) -> dict[str, Any]:
    """Read settings that fine-tuning may have in an experiment, each written `KEY=VALUE`."""
    found, own = pairs(texts, flag), {"transfer", "val_fraction", "tta", "ignore", "classes"}
    names = ({field.name for field in fields(TrainConfig)} | own) - {"unlabelled"}
    if odd := sorted(found.keys() - names):
        raise SettingsError(f"{flag} {odd[0]}: there is no such setting here; choose among {', '.join(sorted(names))}")
    kinds = get_type_hints(FinetuneSettings)
    for name, value in found.items():
        check_kind(f"{flag} {name}", value, kinds[name])
    return found


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _count(text: str) -> int | None:
    if text != ALL and not text.isdecimal():
        raise SettingsError(f"--labels {text} is neither a number nor {ALL}; for example --labels 25,100,{ALL}")
    return None if text == ALL else int(text)
