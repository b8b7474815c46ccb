"""What pretraining is good for: agents × seeds × label counts, all fine-tuned alike, on the same labelled images."""

import csv
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from agents.settings import RunSettings
from ahm_env import ImageError, ImageSet, RunError, SettingsError
from ahm_env.files import write_text
from downstream.comparison import Plan, parse_value
from downstream.crew import images_shown
from downstream.labelled import Split, check_classes, only_labelled
from downstream.models import TASKS, Start
from downstream.settings import FinetuneSettings
from downstream.tasks_console import finetune
from downstream.training import Recipe

SCRATCH = "scratch"
ALL = "all"
# What each task is judged by, an image at a time
MEASURE = {"segmentation": "dice", "classification": "accuracy"}


@dataclass(frozen=True)
class TransferCell:
    """One U-Net fine-tuned for one task with one number of labels.

    Attributes:
        agent: Whose masks it was pretrained with; `scratch` for none.
        seed: Of pretraining, of the choice of labelled images, and of fine-tuning.
        task: `segmentation` or `classification`.
        labels: How many labelled images; None is all.
        start: The run it starts from, or `scratch`.
        path: Its own run.
        total: Images that it is shown in all.
    """

    agent: str
    seed: int
    task: str
    labels: int | None
    start: str
    path: Path
    total: int

    @property
    def result(self) -> dict[str, Any] | None:
        """What `test.json` holds, None where the cell is not done.

        Raises:
            RunError: It is damaged.
        """
        path = self.path / "test.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None
        except (ValueError, TypeError) as error:
            raise RunError(f"{path}: damaged ({error}); delete it, and the same command tests again") from None

    @property
    def images(self) -> int:
        """Images shown so far."""
        return images_shown(self.path)

    def per_image(self) -> dict[str, tuple[str, float]]:
        """Name of each test image to its patient and its Dice, or whether its class was found.

        Raises:
            RunError: `test.csv` is missing or damaged.
        """
        path = self.path / "test.csv"
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            if not rows:
                raise ValueError("it holds no image")
            if self.task == "segmentation":
                values = [float(row["dice"]) for row in rows]
            else:
                values = [float(row["label"] == row["prediction"]) for row in rows]
            patients = [row.get("patient") or row["image"] for row in rows]
            return {row["image"]: (patient, value) for row, patient, value in zip(rows, patients, values, strict=True)}
        except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
            raise RunError(f"{path}: missing or damaged ({error}); delete {self.path} and run again") from None


@dataclass(frozen=True)
class Downstream:
    """What the user asked to be done with pretrained U-Nets, as it was written.

    Attributes:
        tasks: Such as `segmentation,classification`.
        labels: Such as `25,100,all`.
        settings: Such as `steps=400,augment=flips`.
        sam: Directory of a Segment Anything model.
        prompt: How that is prompted.
    """

    tasks: str
    labels: str = "25,100,all"
    settings: str = ""
    sam: Path | None = None
    prompt: str = "box"

    @classmethod
    def asked(cls, tasks: str | None, **given: Any) -> "Downstream | None":
        """What was asked; None if nothing was (None is not given).

        Raises:
            SettingsError: It is said how, but not what for.
        """
        named = {name: value for name, value in given.items() if value is not None}
        if tasks is not None:
            return cls(tasks, **named)
        if named:
            flag = next(iter(named)).replace("settings", "finetune")
            raise SettingsError(f"--{flag} needs --downstream segmentation, or classification, or both")
        return None

    def transfer(self, plan: Plan) -> "Transfer":
        """Read it.

        Raises:
            SettingsError: It is misspelt, or a value is out of range.
        """
        counts = tuple(_count(text) for text in _parts(self.labels))
        settings = dict(_pair(text) for text in _parts(self.settings))
        return Transfer(plan, tuple(_parts(self.tasks)), counts, settings, self.sam, self.prompt)


@dataclass(frozen=True)
class Transfer:
    """The part of a comparison that fine-tunes.

    Args:
        plan: The comparison whose runs are fine-tuned.
        tasks: `segmentation`, `classification`, or both.
        counts: How many labelled images, each at a time; None is all.
        settings: Settings of fine-tuning that are not its defaults, the same for all.
        sam: Directory of a Segment Anything model, which segments the test images without training; None for none.
        prompt: How that is prompted.

    Raises:
        SettingsError: A task is unknown, or a setting out of range.
    """

    plan: Plan
    tasks: tuple[str, ...]
    counts: tuple[int | None, ...]
    settings: dict[str, Any]
    sam: Path | None = None
    prompt: str = "box"

    def __post_init__(self) -> None:
        if odd := [task for task in self.tasks if task not in TASKS]:
            raise SettingsError(f"--downstream {odd[0]} is unknown; choose among {', '.join(TASKS)}")
        if not self.tasks or not self.counts or 0 in self.counts:
            raise SettingsError("--downstream needs a task, and --labels a number from 1 or all")
        if self.sam is not None and "segmentation" not in self.tasks:
            raise SettingsError("--sam segments; add segmentation to --downstream, or leave it out")
        if len(set(self.counts)) < len(self.counts) or len(set(self.tasks)) < len(self.tasks):
            raise SettingsError("--downstream and --labels must name each task and number once")
        self.total  # noqa: B018 (refuses settings that are out of range)

    @property
    def zero_shot(self) -> Path:
        """Where the masks of Segment Anything are, and their scores."""
        return self.plan.out / f"sam-{Path(self.prompt).stem}"

    @property
    def total(self) -> int:
        """Images that a cell is shown."""
        settings = FinetuneSettings.make(Start(SCRATCH, None, None, {}), **self.settings)
        return settings.steps * settings.batch_size

    def given(self, cell: TransferCell) -> dict[str, Any]:
        """Settings of a cell; what a pretrained U-Net has decided is left to it."""
        run = RunSettings.make(**self.plan.reference.variant.given(self.plan.shared))
        names = ["data", "skip_bad", "burned_in", "device"]
        if cell.start == SCRATCH:
            names += ["image_size", "channels", "fit", "window", "axis", "width", "norm"]
        own = {"task": cell.task, "labels": cell.labels, "seed": cell.seed, "stratified": True}
        return {**{name: getattr(run, name) for name in names}, **self.settings, **own}

    def check(self, images: ImageSet) -> None:
        """Refuse, before hours of training, what these images cannot give.

        Raises:
            SettingsError: Fewer labelled images than asked for, or none of a class among them.
            ImageError: There are no masks or labels, or there is no image to test on.
        """
        for cell in self.cells:
            if cell.start == SCRATCH:
                settings = FinetuneSettings.make(Start(SCRATCH, None, None, {}), **self.given(cell))
                known = only_labelled(settings, images)
                split = Split.make(settings, known)
                if cell.task == "classification":
                    check_classes(known, split.learn, known.classes)
                if not split.test.size:
                    what = "mask" if cell.task == "segmentation" else "label"
                    raise ImageError(f"{images.source}: no image of a test or val split has a {what}; add such a split")

    @property
    def cells(self) -> list[TransferCell]:
        """All cells, seed by seed, so that what is done early is a comparison already."""
        runs = {(cell.variant.label, cell.seed): cell.path for cell in self.plan.cells}
        agents = (SCRATCH, *self.plan.labels)
        return [
            self._cell(agent, seed, task, count, runs)
            for seed in range(self.plan.seeds)
            for count in self.counts
            for task in self.tasks
            for agent in agents
        ]

    def _cell(
        self, agent: str, seed: int, task: str, count: int | None, runs: dict[tuple[str, int], Path]
    ) -> TransferCell:
        start = SCRATCH if agent == SCRATCH else str(runs[agent, seed])
        name = f"{task}-{count_name(count)}-{agent}-{seed}".replace("/", "_").replace(":", "-")
        return TransferCell(agent, seed, task, count, start, self.plan.out / "finetuned" / name, self.total)

    def begin(self) -> None:
        """Keep what is compared beside the comparison, which may grow by tasks and numbers of labels.

        Raises:
            RunError: The comparison was begun with other settings of fine-tuning.
        """
        path = self.plan.out / "transfer.json"
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))["settings"]
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path}: damaged ({error}); restore it, or choose another --out") from None
            if before != self.settings:
                odd = sorted(key for key in {*before, *self.settings} if before.get(key) != self.settings.get(key))
                raise RunError(
                    f"{self.plan.out}: was fine-tuned with another {odd[0]}; give the same, or choose another --out"
                )
        about = {"tasks": self.tasks, "labels": [count_name(one) for one in self.counts], "settings": self.settings}
        write_text(path, json.dumps(about, indent=2) + "\n")


def count_name(count: int | None) -> str:
    """A number of labels as the user writes it."""
    return ALL if count is None else str(count)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _count(text: str) -> int | None:
    if text != ALL and not text.isdecimal():
        raise SettingsError(f"--labels {text} is neither a number nor {ALL}; for example --labels 25,100,{ALL}")
    return None if text == ALL else int(text)


def _pair(text: str) -> tuple[str, Any]:
    key, equals, written = text.partition("=")
    names = {field.name for field in fields(Recipe)} | {"transfer", "select", "flips"}
    if not equals or key not in names:
        raise SettingsError(f"--finetune {text} is not KEY=VALUE with a KEY among {', '.join(sorted(names))}")
    value, kind = parse_value(written), type(getattr(FinetuneSettings, key))
    if type(value) is not kind and not (kind is float and type(value) is int):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}
        raise SettingsError(f"--finetune {text}: {key} must be {words[kind]}")
    return key, value


def run_transfer_cell(transfer: Transfer, cell: TransferCell) -> int:
    """Fine-tune and test one U-Net, or go on with it.

    Returns:
        The exit status.

    Raises:
        AHMError: Anything that the user can mend.
    """
    if (cell.path / "config.json").exists():
        return finetune({}, None, None, cell.path, resume=True)
    return finetune(transfer.given(cell), cell.start, None, cell.path, resume=False)
