"""The trials of an experiment: one agent pretrains, or one U-Net is fine-tuned; each in a directory of its own."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

from agents import pretrain
from agents.pretraining.hardness import KINDS
from agents.pretraining.settings import RunSettings
from ahm_env import RunError
from ahm_env.files import read_rows, write_text
from downstream.comparison.mask_evaluation import evaluate_masks, known
from downstream.comparison.options import AgentConfig, count_name
from downstream.comparison.places import begun
from downstream.comparison.results.rows import MASKING, Row
from downstream.finetuning.finetune import finetune
from downstream.finetuning.run import FinetuneDirectory

EVALUATION = "mask_evaluation.json"
SHARES = ("lesion_hidden", "background_hidden")  # what sampled masks hide; depends on which pixels are ignored
# What is measured of each image, and, where patients have several, of each patient
PER_IMAGE = {"segmentation": "dice", "classification": "accuracy"}

Labelled = tuple[str, int | None, int]  # task, number of labelled images, and draw of them


@dataclass(frozen=True)
class PretrainTrial:
    """One agent pretrains one U-Net; then its masks are evaluated on the reference U-Nets.

    Attributes:
        agent: The agent.
        run: Number of the run, and its seed.
        path: Its directory.
        given: Settings of its run.
        references: The U-Nets on which all agents are evaluated; none for a run that makes one.
        ignore: Number in masks that is no class, or None.
    """

    agent: AgentConfig
    run: int
    path: Path
    given: dict[str, Any]
    references: tuple[Path, ...]
    ignore: int | None = None
    start_setting: ClassVar[str] = "reference_unet"

    @property
    def start(self) -> str | None:
        """The first of these U-Nets, where its run has it; None for none."""
        return self.given.get(self.start_setting)

    @property
    def name(self) -> str:
        """What a person reads for it."""
        return self.path.name

    @property
    def sees_others(self) -> bool:
        """Whether its images have other pixels than those of other agents."""
        return self.agent.sees_others

    @property
    def total(self) -> int:
        """Images that it is shown in all."""
        return RunSettings.make(**self.given).total_images

    @property
    def processes(self) -> int:
        """How many processes train at once."""
        return RunSettings.make(**self.given).processes

    @property
    def unet(self) -> Path:
        """The file of its U-Net."""
        return self.path / "unet.safetensors"

    @property
    def done(self) -> bool:
        """Whether the run is finished, and its agent evaluated on all reference U-Nets."""
        found = self.evaluation
        return self._fits(found) and len(found["references"]) >= len(self.references)

    def _fits(self, found: dict[str, Any] | None) -> TypeGuard[dict[str, Any]]:
        """Whether what is evaluated so far has left the same pixels out."""
        return found is not None and found.get("ignored", []) == self._ignored

    @property
    def _ignored(self) -> list[int]:
        return [] if self.ignore is None else [self.ignore]

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """What the finished run came to, and its masks on each reference U-Net so far; None: it is not finished."""
        path = self.path / EVALUATION
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
            return found if found and isinstance(found["references"], list) else None
        except (KeyError, ValueError, TypeError):
            return None  # damaged: evaluated again

    @property
    def outcome(self) -> str:
        """What it came to, in a few words."""
        found = self.evaluation
        if not found or not found["references"]:
            return ""
        return f"hardness {', '.join(f'{_hardness(found, kind):.3f} {kind}' for kind in KINDS)}"

    def work(self) -> None:
        """Train the agent and evaluate its masks, or go on with that.

        Raises:
            AHMError: Anything that the user can mend.
        """
        found = self.evaluation
        if found is None:
            resume = begun(self.path, self.start, self.start_setting)
            code = {name: self.given.get(name) for name in ("algo", "wrapper")}
            row = pretrain(out=self.path, resume=resume, **(code if resume else self.given)).metrics
            found = {name: row[name] for name in ("images", "unet_updates", "seconds", "unet_loss", "agent_share")}
            found |= {f"own_hardness_{kind}": row[f"hardness_{kind}"] for kind in KINDS} | {"references": []}
            write_text(self.path / EVALUATION, json.dumps(known(found)) + "\n")
        if not self._fits(found):
            found |= {"references": []}
        for unet in self.references[len(found["references"]) :]:
            device = self.given.get("device", "auto")
            evaluated = evaluate_masks(self.path, unet, algo=self.agent.algo, ignore=self.ignore, device=device)
            found |= {"lesion_hidden": evaluated.scores.lesion, "background_hidden": evaluated.scores.background}
            found |= {"ignored": self._ignored, "shown": list(evaluated.names)}
            found |= {"patients": evaluated.patients.tolist()}
            losses = {}
            for kind in KINDS:
                masks = getattr(evaluated.scores.hardness, kind)
                losses[f"loss_{kind}"] = masks.losses.mean(0).tolist()
                losses[f"random_loss_{kind}"] = masks.random_losses.mean(0).tolist()
                found |= {f"patch_use_{kind}": masks.patch_use, f"between_images_{kind}": masks.between_images}
            found["references"].append(losses)
            write_text(self.path / EVALUATION, json.dumps(known(found)) + "\n")

    def rows(self) -> Iterator[Row]:
        """Yield, for each reference U-Net, the losses of each held-out image under sampled, likeliest and random masks.

        Then what is known of the run, but for the share of the lesion where other pixels were left out of it.

        Raises:
            RunError: The file of results is damaged.
        """
        one = self.evaluation
        if not one or not one["references"]:
            return
        agent, rest = self.agent.label, (MASKING, "", "")
        try:
            metrics = [f"{name}_{kind}" for kind in KINDS for name in ("loss", "random_loss")]
            for number, losses in enumerate(one["references"]):
                of_images = zip(one["shown"], one["patients"], *(losses[metric] for metric in metrics), strict=True)
                for image, patient, *values in of_images:
                    for metric, value in zip(metrics, values, strict=True):
                        yield Row(agent, self.run, number, *rest, image, str(patient), metric, float(value))
            numbers = {f"hardness_{kind}": _hardness(one, kind) for kind in KINDS}
            others = () if self._fits(one) else SHARES  # of other pixels than those of the other agents
            numbers |= {name: one[name] for name in one if isinstance(one[name], int | float) and name not in others}
            numbers["images_per_second"] = one["images"] / max(1e-9, one["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{self.path / EVALUATION}: damaged ({error}); delete it, and run again") from None
        for metric, value in numbers.items():
            if not isnan(value):
                yield Row(agent, self.run, None, *rest, "", "", metric, value)


@dataclass(frozen=True)
class FinetuneTrial:
    """One U-Net is fine-tuned for one task, on one draw of labelled images, in one arm.

    Attributes:
        agent: Whose masks it was pretrained with; `scratch` for none.
        run: Number of the pretraining run; None for none.
        draw: Number of the draw, and seed of the fine-tuning.
        task: `segmentation` or `classification`.
        labels: How many labelled images; None is all.
        arm: How unlabelled images take part.
        start: The run it starts from, or `scratch`.
        path: Its directory.
        given: Settings of its run.
        total: Images that it is shown in all.
    """

    agent: str
    run: int | None
    draw: int
    task: str
    labels: int | None
    arm: str
    start: str
    path: Path
    given: dict[str, Any]
    total: int
    start_setting: ClassVar[str] = "start"

    @property
    def name(self) -> str:
        """What a person reads for it."""
        return "/".join(self.path.parts[-3:])

    @property
    def sees_others(self) -> bool:
        """Whether its images have other pixels than those of other agents."""
        return AgentConfig.parse(self.agent).sees_others

    @property
    def processes(self) -> int:
        """How many processes train at once."""
        return 1

    @property
    def labelled(self) -> Labelled:
        """What its labelled images depend on."""
        return self.task, self.labels, self.draw

    @property
    def ready(self) -> bool:
        """Whether what it starts from is there."""
        return self.run is None or (Path(self.start) / EVALUATION).exists()

    @property
    def done(self) -> bool:
        """Whether it is tested."""
        return (self.path / "test.json").exists()

    @property
    def outcome(self) -> str:
        """What it came to, in a few words."""
        metric = PER_IMAGE[self.task]
        found = [row.value for row in self.rows() if row.metric == metric and not (row.image or row.patient)]
        return f"{metric} {found[0]:.3f}" if found else ""

    def work(self) -> None:
        """Fine-tune and test, or go on with that.

        Raises:
            AHMError: Anything that the user can mend.
        """
        if begun(self.path, self.start, self.start_setting):
            finetune(out=self.path, resume=True)
        else:
            finetune(self.start, out=self.path, **self.given)

    def rows(self) -> Iterator[Row]:
        """Dice, or whether the class was right, of each test image, Dice of each patient, and all measures as means.

        Raises:
            RunError: `test.csv` or `test.json` is damaged.
        """
        if not self.done:
            return
        about = (self.agent, self.run, self.draw, self.task, count_name(self.labels), self.arm)
        metric, path = PER_IMAGE[self.task], self.path / "test.json"
        try:
            summary = dict(json.loads(path.read_text(encoding="utf-8")))
            path = self.path / "test.csv"
            for row in _table(path):
                right = float(row["label"] == row["prediction"]) if metric == "accuracy" else float(row[metric])
                yield Row(*about, row["image"], row["patient"], metric, right)
            path = self.path / "patients.csv"
            for row in _table(path) if path.exists() else ():
                yield Row(*about, "", row["patient"], "patient_dice", float(row["dice"]))
        except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
            raise RunError(f"{path}: missing or damaged ({error}); delete {self.path} and run again") from None
        for name, value in summary.items():
            if isinstance(value, int | float) and name != "images":
                yield Row(*about, "", "", name, float(value))


Trial = PretrainTrial | FinetuneTrial  # one directory's work, which goes on where it was stopped


def images_of(path: Path) -> str | None:
    """Key of the images that a trial began with; None where it has not begun, or is damaged, as it says itself."""
    try:
        return FinetuneDirectory(path).content_key()
    except RunError:
        return None


def _hardness(evaluation: dict[str, Any], kind: str) -> float:
    losses, random = (
        sum(sum(one[f"{name}_{kind}"]) for one in evaluation["references"]) for name in ("loss", "random_loss")
    )
    return float(losses / random)


def _table(path: Path) -> list[dict[str, str]]:
    rows = read_rows(path)
    if not rows:
        raise ValueError("it holds no row")
    return rows
