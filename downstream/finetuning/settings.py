"""Everything that decides what fine-tuning computes, with defaults and presets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from ahm_env import SettingsError
from ahm_env.model.reconstruction import SMALLEST_IMAGE
from ahm_env.runs.flags import Flag
from ahm_env.runs.settings import ImageSettings, Settings, check_norm, check_seed
from downstream.evaluation.tested import check_ignore
from downstream.finetuning.augmentation import STRONG, Augmentation
from downstream.finetuning.mixing import MIXES
from downstream.models.model import MODELS, TASKS
from downstream.models.pretrained import PretrainedWeights

SCHEDULES = ("cosine", "steps")
LEARNING, MODEL, UNLABELLED = "Learning", "Model", "Unlabelled images"
LATER_WEIGHT = 4.0  # times as much as in the first round the unlabelled images count in later ones
TRANSFERS = ("all", "encoder")
PRESETS: dict[str, dict[str, Any]] = {
    # A tenth of the time; a U-Net from scratch is then not yet trained out.
    "quick": {"steps": 800, "unlabelled": "none"},
    # The recipe of the published reproduction; the number of its epochs is not known.
    "paper": {
        "learning_rate": 3e-4,
        "schedule": "steps",
        "batch_size": 4,
        "augment": "none",
        "ema_decay": 0.0,
        "unlabelled": "none",
    },
}
# Settings that one task alone has.
OF_TASK = {"freeze": "classification", "ignore": "segmentation", "transfer": "segmentation"}
# What a start decides, and how a run and a fine-tuned model call it.
FROM_RUN = frozenset(("image_size", "width", "norm", "channels", "fit", "window", "axis"))


def label_count(text: str | int | None) -> int | None:
    """Read a number of labelled images, or `all`, which is None.

    Raises:
        SettingsError: It is neither.
    """
    if text is None or text == "all":
        return None
    if not str(text).removeprefix("-").isdecimal() or not str(text).isascii():
        raise SettingsError(f"--labels {text} is neither a number nor all; for example --labels 25")
    return int(text)


def path_name(start: str) -> str:
    """Write a path, or the name of a start, in the one way it is compared by: without a slash at its end."""
    return str(Path(start))


@dataclass(frozen=True)
class TrainConfig:
    """How a model learns from labelled images, and from unlabelled ones."""

    unlabelled: Annotated[
        str,
        Flag(
            "Images that take part without labels: auto (the rest of train), none, or a source.",
            UNLABELLED,
            "auto to segment with a running mean, else none",
        ),
    ] = "none"
    join: Annotated[float, Flag("Share of the steps after which they take part.", UNLABELLED)] = 0.4
    rounds: Annotated[
        int,
        Flag("Rounds of so many steps: from the second on a fresh model has the last one as its teacher.", UNLABELLED),
    ] = 1
    mix: Annotated[str, Flag("Parts of two unlabelled images that make one: box, patches, or none.", UNLABELLED)] = (
        "box"
    )
    strong: Annotated[str, Flag("Strong changes of colour: colour (photographs), grey, or auto.", UNLABELLED)] = "auto"
    confidence: Annotated[float, Flag("Probability from which a label of the teacher counts.", UNLABELLED)] = 0.9
    unlabelled_batch: Annotated[int, Flag("Number of mixed images a step.", UNLABELLED)] = 8
    unlabelled_weight: Annotated[float, Flag("Weight of their loss.", UNLABELLED)] = 1.0
    ramp: Annotated[int, Flag("Number of steps over which that weight rises from 0.", UNLABELLED)] = 300
    teacher_tta: Annotated[bool, Flag("The teacher averages over mirror images.", UNLABELLED)] = False
    steps: Annotated[int, Flag("Number of optimiser steps.", LEARNING)] = 2800
    batch_size: Annotated[int, Flag("Number of labelled images a step.", LEARNING)] = 8
    learning_rate: Annotated[float, Flag("Highest learning rate of Adam.", LEARNING)] = 1e-3
    schedule: Annotated[
        str, Flag("cosine (a short warm-up, then down), or steps (x 0.9 every 3 epochs, as published).", LEARNING)
    ] = "cosine"
    weight_decay: Annotated[float, Flag("Weight decay of AdamW.", LEARNING)] = 0.0
    freeze: Annotated[
        bool, Flag("Classification: leave the encoder as it is; only the layer to the classes learns.", LEARNING)
    ] = False
    ema_decay: Annotated[
        float, Flag("Decay of the running mean of the weights, which is kept in the end; 0: the last ones.", LEARNING)
    ] = 0.99
    class_weights: Annotated[bool, Flag("Classification: rare classes count as much as frequent ones.", LEARNING)] = (
        True
    )
    augment: Annotated[str, Flag("Augmentation: none, flips, affine, full (bends, too), or strong.", LEARNING)] = (
        "affine"
    )

    @property
    def joins_after(self) -> int:
        """Steps after which unlabelled images take part: in the last one, at the latest."""
        return min(math.ceil(self.join * self.steps), self.steps - 1)

    def later_round(self) -> Self:
        """Return the recipe of a round that has a teacher from its first step on."""
        return replace(self, join=0.0, ramp=0, unlabelled_weight=LATER_WEIGHT * self.unlabelled_weight)

    def __post_init__(self) -> None:
        for name, value, known in (("mix", self.mix, MIXES), ("strong", self.strong, ("auto", *STRONG))):
            if value not in known:
                raise SettingsError(f"--{name} {value} is unknown; choose one of {', '.join(known)}")
        if not 0 <= self.join < 1:
            raise SettingsError(f"--join {self.join} must be a share of the steps, from 0 to below 1")
        if self.unlabelled_batch < 1 or self.ramp < 0:
            raise SettingsError("--unlabelled-batch must be 1 or more, and --ramp 0 or more")
        if not 0 <= self.confidence < 1:
            raise SettingsError(f"--confidence {self.confidence} must be a probability, from 0 to below 1")
        if not 0 < self.unlabelled_weight < math.inf:
            raise SettingsError(f"--unlabelled-weight {self.unlabelled_weight} must be a positive number")
        for name in ("steps", "batch_size", "rounds"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 1 or more")
        if not 0 < self.learning_rate < math.inf:
            raise SettingsError(f"--learning-rate {self.learning_rate} must be a positive number")
        if self.schedule not in SCHEDULES:
            raise SettingsError(f"schedule {self.schedule!r} is unknown; choose {' or '.join(SCHEDULES)}")
        if not 0 <= self.ema_decay < 1 or not 0 <= self.weight_decay < math.inf:
            raise SettingsError("--ema-decay must be in [0, 1), and weight_decay a number that is at least 0")
        if self.unlabelled != "none" and not self.ema_decay:
            raise SettingsError(
                "--ema-decay 0 leaves no teacher for --unlabelled images; use 0.99, or --unlabelled none"
            )
        if self.rounds > 1 and self.unlabelled == "none":
            raise SettingsError("--rounds is for --unlabelled images; name them, or leave --rounds out")
        Augmentation(self.augment)


@dataclass(frozen=True)
class FinetuneSettings(TrainConfig, ImageSettings):
    """Settings of fine-tuning; the same settings and images give the same weights, bit for bit, on the CPU."""

    task: Annotated[str, Flag("segmentation or classification.")] = "segmentation"
    start: Annotated[str, Flag("A run of train-agent, a file of U-Net weights, or scratch.", name="from")] = "scratch"
    labels: Annotated[
        int | None, Flag("How many images of the train split count as labelled, or all.", default="all", kind=str)
    ] = None
    classes: Annotated[
        str | None, Flag("Names of the classes, or their numbers in masks: a,b,….", default="those labelled")
    ] = None
    ignore: Annotated[
        int | None,
        Flag("Number in masks that is no class: such pixels are neither learned from nor scored.", default="none"),
    ] = None
    seed: Annotated[int, Flag("Random seed for weights, labelled images, shuffling and augmentation.")] = 0
    tta: Annotated[bool, Flag("Test on mirror images, too, and average.")] = False
    model: Annotated[str, Flag("unet, or vgg16 to classify.", MODEL)] = "unet"
    stratified: bool = False
    """Each class has its share of the labelled images: for comparisons of methods, which may look at classes."""
    width: Annotated[int, Flag("Number of channels of the U-Net's first level.", MODEL)] = 16
    norm: Annotated[str, Flag("Normalisation in the U-Net: batch or group.", MODEL)] = "batch"
    transfer: Annotated[
        str, Flag("What is taken from the pretrained U-Net: encoder, or all but its last layer.", MODEL)
    ] = "encoder"
    val_fraction: Annotated[
        float, Flag("Share of the labelled images by which the best state is selected; 0: keep the last.", LEARNING)
    ] = 0.0
    weights: Annotated[str | None, Flag("File of VGG16's published weights, such as vgg16-397923af.pth.", MODEL)] = None
    crop_with: Annotated[str | None, Flag("Classify the lesion that this fine-tuned segmenter finds.", MODEL)] = None
    presets = PRESETS
    parsers: ClassVar = {"labels": label_count, "start": path_name}

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        super().__post_init__()
        _ = self.pixels
        for name, value, known in (
            ("task", self.task, TASKS),
            ("model", self.model, MODELS),
            ("transfer", self.transfer, TRANSFERS),
        ):
            if value not in known:
                raise SettingsError(f"--{name} {value} is unknown; choose {' or '.join(known)}")
        if self.model == "unet" and self.image_size < SMALLEST_IMAGE:
            raise SettingsError(f"--image-size {self.image_size} is too small for a U-Net; use 16 or more")
        if self.model == "unet":
            check_norm(self.norm, self.batch_size, self.image_size)
        if self.labels is not None and self.labels < 1:
            raise SettingsError(f"--labels {self.labels} must be 1 or more, or all")
        names = self.class_names or ()
        if len(set(names)) < len(names) or "" in names or (names and len(names) < 2):
            raise SettingsError(f"--classes {self.classes} must name two or more, each once: a,b")
        if self.task == "segmentation" and not all(name.isdecimal() and int(name) < 256 for name in names):
            raise SettingsError(f"--classes {self.classes}: of segmentation these are numbers in masks, such as 0,1,2")
        check_ignore(self.ignore)
        if self.task == "segmentation" and str(self.ignore) in names:
            raise SettingsError(f"--ignore {self.ignore} is among --classes {self.classes}; take it out of one of them")
        check_seed(self.seed)
        if not 0 <= self.val_fraction < 1:
            raise SettingsError(
                f"--val-fraction {self.val_fraction} must be a share from 0 to below 1; for example 0.2"
            )
        if self.model == "vgg16" and (self.task != "classification" or self.start != "scratch"):
            raise SettingsError("--model vgg16 classifies, and takes its weights by --weights FILE, not by --from")
        if self.model == "vgg16" and (self.channels == 1 or self.image_size < 32):
            raise SettingsError("--model vgg16 needs --channels 3 and --image-size 32 or more")
        if self.weights is not None and self.model != "vgg16":
            raise SettingsError("--weights is for --model vgg16; a pretrained U-Net is given by --from")
        if self.freeze and (self.task, self.model) != ("classification", "unet"):
            raise SettingsError("--freeze is for the encoder of a U-Net that classifies; leave it out")
        if self.task == "classification" and (self.ignore is not None or self.transfer == "all"):
            flag = "--transfer all" if self.transfer == "all" else f"--ignore {self.ignore}"
            raise SettingsError(f"{flag} is for --task segmentation; leave it out")
        if (self.task, self.model) == ("classification", "unet") and self.batch_size == 1:
            raise SettingsError("--batch-size 1 has no batch by which a classifier normalises; use 2 or more")
        if self.crop_with is not None and self.task != "classification":
            raise SettingsError("--crop-with is for --task classification")

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes that were named; None if none were."""
        return None if self.classes is None else tuple(name.strip() for name in self.classes.split(","))

    @classmethod
    def make(cls, start: PretrainedWeights, preset: str | None = None, **given: Any) -> "FinetuneSettings":
        """Defaults, overridden by the start's run, by a preset, and by what is given (None is not given).

        Raises:
            SettingsError: Unknown preset, a value out of range, or one that does not fit the start.
        """
        chosen = cls.asked(preset, given)
        fixed = _of_start(start)
        for name, value in fixed.items():
            if name in chosen and chosen[name] != value:
                flag = name.replace("_", "-")
                raise SettingsError(
                    f"--{flag} {chosen[name]}: {start.name} was pretrained with {value}; leave --{flag} out"
                )
        if chosen.get("model") == "vgg16":
            chosen.setdefault("channels", 3)
        chosen.setdefault("data", start.run.get("data", cls.data))
        segments = chosen.get("task", cls.task) == "segmentation" and chosen.get("ema_decay", cls.ema_decay)
        chosen.setdefault("unlabelled", "auto" if segments else "none")
        return cls(**{**fixed, **chosen, "start": start.name})


def _of_start(start: PretrainedWeights) -> Mapping[str, Any]:
    """Return the settings that the pretrained U-Net has decided."""
    if start.unet is None:
        return {}
    run = {name: start.run[name] for name in FROM_RUN if name in start.run}
    return {**run, "width": start.unet.width, "norm": start.unet.norm, "channels": start.unet.n_channels}
