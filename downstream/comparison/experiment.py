"""An experiment on disk: agents × pretraining runs, and what their U-Nets are good for.

Every agent pretrains with the same seeds, and its masks are evaluated on the same frozen reference U-Nets. Then their
U-Nets, and one from scratch, are fine-tuned: tasks × numbers of labels × arms × draws of the labelled images, all
alike.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any

from agents.pretraining.settings import RunSettings
from ahm_env import RunError, SettingsError
from ahm_env.model.devices import find_device, find_precision
from ahm_env.runs.flags import flag_name
from ahm_env.runs.owned_directory import OwnedDirectory
from downstream.comparison.options import AgentConfig, Downstream, count_name, once
from downstream.comparison.results.rows import MASKING, RESULTS, SCRATCH, Row, write_results
from downstream.comparison.trials import FinetuneTrial, PretrainTrial, Trial

ABOUT = "experiment.json"
REFERENCE_SEED = 1_000_000  # of the first; no seed of an experiment, so that no agent's own U-Net is a reference


@dataclass(frozen=True)
class Experiment:
    """What is compared, and where.

    Args:
        out: Its directory.
        algos: The agents, as `AgentConfig.parse` reads them; `scratch` may be among them.
        runs: How many pretraining runs of each, with the seeds 0, 1, …
        common: Settings that all of these share.
        downstream: What the U-Nets are fine-tuned for; None for nothing.
        reference_unets: How many U-Nets all agents are evaluated on.

    Raises:
        SettingsError: Something is misspelt, there twice, or out of range.
    """

    out: Path
    algos: tuple[str, ...]
    runs: int
    common: dict[str, Any]
    downstream: Downstream | None = None
    reference_unets: int = 2

    def __post_init__(self) -> None:
        if not self.algos or self.runs < 1 or self.reference_unets < 1:
            raise SettingsError("an experiment needs one agent, one run and one reference U-Net at least")
        once("agent", self.algos)
        if self.downstream is None and not self.agents:
            raise SettingsError(f"{SCRATCH} is not pretrained: add an agent, or --downstream segmentation")
        paths = [trial.path for trial in self.trials]
        if len(set(paths)) < len(paths):
            raise SettingsError("two agents or arms have names that are the same as names of files; change one")

    def check_agents(self) -> None:
        """Refuse settings that no run can have, whatever its images; classes that the user named are imported for it.

        Raises:
            SettingsError: An agent is unknown, or a setting of it unknown, out of range, or of the wrong type.
        """
        for agent in self.agents:
            RunSettings.make(**agent.given(self.shared))

    @cached_property
    def shared(self) -> dict[str, Any]:
        """Settings of every pretraining run where an agent does not say so: one process, the precision it began in."""
        common = {**self.common, "workers": 1}
        if common.get("precision", "auto") == "auto" and is_experiment(self.out):
            common["precision"] = _about(self.out / ABOUT)["common"].get("precision", "auto")
        return _on_this_machine(common)

    @cached_property
    def agents(self) -> list[AgentConfig]:
        """The agents that pretrain."""
        return [AgentConfig.parse(label) for label in self.algos if label != SCRATCH]

    @cached_property
    def settings(self) -> RunSettings:
        """Those by which the images are loaded: of the reference runs."""
        return RunSettings.make(**self.references[0].given)

    @cached_property
    def references(self) -> list[PretrainTrial]:
        """The runs on random masks on whose U-Nets all agents are evaluated."""
        agent = AgentConfig.parse("random")
        given = {**agent.given(self.shared), "wrapper": None}
        return [
            PretrainTrial(agent, seed, self.out / f"reference-{number}", {**given, "seed": seed}, ())
            for number, seed in enumerate(range(REFERENCE_SEED, REFERENCE_SEED + self.reference_unets))
        ]

    @cached_property
    def pretraining(self) -> list[PretrainTrial]:
        """All pretraining runs, seed by seed, so that what is done early is a comparison already."""
        unets = tuple(one.unet for one in self.references)
        return [
            PretrainTrial(
                agent,
                run,
                self.out / "runs" / f"{_file_name(agent.label)}-{run}",
                {**agent.given({**self.shared, "reference_unet": str(unets[0])}), "seed": run},
                unets,
                self._ignore,
            )
            for run in range(self.runs)
            for agent in self.agents
        ]

    @cached_property
    def _ignore(self) -> int | None:
        """Number in masks that is no class, as this command has it, or the one that began to fine-tune."""
        asked = self.downstream.shared if self.downstream else None
        if asked is None and is_experiment(self.out):
            asked = _about(self.out / ABOUT)["finetune"]
        return asked.get("ignore") if asked else None

    @cached_property
    def finetuning(self) -> list[FinetuneTrial]:
        """All fine-tuning, in the order of `stages`."""
        return [trial for _, trials in self.stages for trial in trials]

    @property
    def trials(self) -> list[Trial]:
        """All pretraining and all fine-tuning."""
        return [*self.pretraining, *self.finetuning]

    @cached_property
    def stages(self) -> list[tuple[list[PretrainTrial], list[FinetuneTrial]]]:
        """What is done in which order: pretraining of one seed, then what it makes possible.

        Draw d is fine-tuned from run d mod `runs` first, so that an early end has seen all draws and runs; then each
        draw from each other run.
        """
        asked = self.downstream
        draws = (asked.draws or self.runs) if asked else 0
        stages = [
            (
                [trial for trial in self.pretraining if trial.run == run],
                [one for draw in range(run, draws, self.runs) for one in self._of_draw(draw, run, scratch=True)],
            )
            for run in range(self.runs)
        ]
        for offset in range(1, self.runs if asked and asked.draws else 1):
            rest = [one for draw in range(draws) for one in self._of_draw(draw, (draw + offset) % self.runs, False)]
            stages.append(([], rest))
        return stages

    def _of_draw(self, draw: int, run: int, scratch: bool) -> Iterator[FinetuneTrial]:
        """Fine-tuning on one draw: of the U-Nets of one run, and of one from scratch."""
        asked = self.downstream
        assert asked is not None
        labels = [label for label in self.algos if label != SCRATCH or scratch]
        for count, task, arm, agent in product(asked.counts, asked.task_names, asked.arms, labels):
            names = ["data", "skip_bad", "burned_in", "device", "precision"]
            name, start, known = _file_name(agent), SCRATCH, None
            if agent == SCRATCH:  # else the pretrained U-Net has decided
                names += ["image_size", "channels", "fit", "window", "axis", "width", "norm"]
            else:
                start, known, name = str(self.out / "runs" / f"{name}-{run}"), run, f"{name}-run{run}"
            own = {"labels": count, "seed": draw, "stratified": True}
            given = {**{one: getattr(self.settings, one) for one in names}, **asked.given(arm, task), **own}
            path = self.out / "finetuned" / f"{task}-{count_name(count)}" / _file_name(arm) / f"{name}-draw{draw}"
            made = asked.made(arm, task)
            total = made.rounds * made.steps * made.batch_size
            yield FinetuneTrial(agent, known, draw, task, count, arm, start, path, given, total)

    @property
    def directory(self) -> OwnedDirectory:
        """Its directory."""
        return OwnedDirectory(self.out, ABOUT, "an experiment")

    def begin(self) -> None:
        """Make the directory, or go on with the experiment in it; see `check`."""
        self.directory.write(self.check())

    def check(self) -> dict[str, Any]:
        """Refuse to go on with an experiment that this is not: it may grow by everything but its settings.

        Those of fine-tuning are fixed once one of its trials has begun.

        Returns:
            What its file says from here on.

        Raises:
            RunError: The directory holds something else.
            SettingsError: The settings do not go together with what earlier commands have asked for.
        """
        directory, common = self.directory, _as_written(self.shared)
        before: dict[str, Any] = {"common": common, "finetune": None, "asked": []}
        if directory.read() is not None:
            before = _about(directory.file)
        directory.refuse_others(_as_written(before["common"]), common, partial(flag_name, RunSettings))
        finetune = before["finetune"] if self.downstream is None else self.downstream.shared
        asked = [*before["asked"], *([] if self._asked in before["asked"] else [self._asked])]
        about = {"common": common, "finetune": finetune, "asked": asked}
        if any((trial.path / "config.json").exists() for part in _parts(self.out, before) for trial in part.finetuning):
            directory.refuse_others(before["finetune"], finetune, "finetune {}".format)
        _parts(self.out, about)
        return about

    @property
    def _asked(self) -> dict[str, Any]:
        """What a command asks for that an experiment may grow by."""
        about: dict[str, Any] = {"algos": list(self.algos), "runs": self.runs}
        if self.downstream is not None:
            names = ("tasks", "labels", "unlabelled", "draws")
            about |= {name: getattr(self.downstream, name) for name in names}
        return about

    @property
    def parts(self) -> list["Experiment"]:
        """What each command so far has asked for; none where none has begun.

        Raises:
            RunError: The file that describes the experiment is damaged.
        """
        if not is_experiment(self.out):
            return []
        return _parts(self.out, _about(self.out / ABOUT))

    def rows(self) -> list[Row]:
        """All numbers of all that is done, for whatever command it was done.

        Raises:
            RunError: They are damaged.
        """
        trials = {trial.path: trial for part in self.parts for trial in part.trials}
        return [row for trial in trials.values() for row in trial.rows()]

    def write(self) -> list[Row]:
        """Write `results.csv`, and return its rows."""
        rows = self.rows()
        write_results(self.out / RESULTS, rows)
        return rows


def is_experiment(path: Path) -> bool:
    """Whether a directory holds an experiment."""
    return (path / ABOUT).is_file()


def data_of(out: Path) -> str:
    """Read which data source an experiment takes its images from.

    Raises:
        RunError: The file that describes the experiment is damaged.
    """
    return str(_about(out / ABOUT)["common"].get("data", RunSettings.data))


def pretrained_runs(out: Path, rows: Iterable[Row]) -> dict[Path, str]:
    """Find the pretraining runs of an experiment that have results, and the name of each run's agent."""
    found = dict.fromkeys((row.agent, row.run) for row in rows if row.task == MASKING)
    return {out / "runs" / f"{_file_name(agent)}-{run}": agent for agent, run in found}


def _parts(out: Path, about: dict[str, Any]) -> list[Experiment]:
    return [_part(out, about, asked) for asked in about["asked"]]


def _part(out: Path, about: dict[str, Any], asked: dict[str, Any]) -> Experiment:
    """Build the part of an experiment that one command asked for."""
    pairs = (about["finetune"] or {}).items()
    settings = ",".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in pairs)
    rest = {name: asked[name] for name in ("tasks", "labels", "unlabelled", "draws") if name in asked}
    downstream = Downstream(**rest, settings=settings) if rest else None
    return Experiment(out, tuple(asked["algos"]), asked["runs"], about["common"], downstream)


def _about(path: Path) -> dict[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {name: about[name] for name in ("common", "finetune", "asked")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: damaged ({error}); restore it, or choose another --out") from None


def _on_this_machine(common: dict[str, Any]) -> dict[str, Any]:
    """Replace the precision `auto` by what it means here: all trials have the same, wherever they are worked on."""
    if common.get("precision", "auto") != "auto":
        return common
    return {**common, "precision": find_precision("auto", find_device(common.get("device", "auto")))}


def _as_written(common: dict[str, Any]) -> dict[str, Any]:
    """Write settings that were given, whatever their types, always alike, and as JSON can hold them."""
    made = RunSettings.from_dict(common).as_dict()
    return {name: made[name] for name in common}


def _file_name(label: str) -> str:
    return label.replace("/", "_").replace(":", "-")
