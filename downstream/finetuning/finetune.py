"""Fine-tuning as a function: a start and labelled images in, a run directory with a tested model out."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agents import PretrainedRun
from ahm_env import ImageSet, SettingsError
from ahm_env.files import path_of
from ahm_env.images.dataset.loader import find_source
from ahm_env.images.source import Source
from ahm_env.model import ranks
from ahm_env.runs.following import following
from ahm_env.runs.observer import Observer, Silent
from ahm_env.runs.run import held_run
from downstream.evaluation.cropping import Cropped, load_segmenter
from downstream.finetuning.labelled import only_labelled
from downstream.finetuning.mean_teacher import OWN
from downstream.finetuning.run import FinetuneDirectory, Finetuning
from downstream.finetuning.settings import FinetuneSettings
from downstream.models.model import Model
from downstream.models.pretrained import PretrainedWeights

Entry = Callable[[FinetuneSettings, Source | None], ImageSet]


@dataclass(frozen=True)
class FinetunedModel:
    """A finished run of fine-tuning.

    Attributes:
        path: Its directory.
        settings: What it computed.
        result: How the model did on the images it was tested on, as `test.json` has it, such as `dice`.
    """

    path: Path
    settings: FinetuneSettings
    result: Mapping[str, Any]

    def load(self, device: str = "cpu") -> Model:
        """Load the model.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        return Model.load(self.path, device)


def finetune(
    start: str | Path | PretrainedRun | None = None,
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    preset: str | None = None,
    resume: bool = False,
    observer: Observer | None = None,
    **settings: Any,
) -> FinetunedModel:
    """Fine-tune a model on labelled images and test it, or go on with that.

    Args:
        start: A run of pretraining or its directory, a file of weights, or `scratch`, the default.
        data: A source of images with masks or labels; by default that of the pretraining.
        out: The run directory; by default a new one under `runs`.
        preset: `quick` (800 steps, no unlabelled images) or `paper`.
        resume: Go on with the run in `out`; no other setting is needed. A run that is finished stays as it is.
        observer: Told of every update, row and warning; None for none.
        **settings: Fields of `FinetuneSettings`, such as `labels=25` and `unlabelled="auto"`.

    Returns:
        The model, and how it did.

    Raises:
        AHMError: Settings, images, start or directory do not go together, or training diverged.
        InterruptionError: A signal ended the run; all is saved.
    """
    begun = None if start is None else str(path_of(start))
    given = {"data": None if data is None else str(data), **settings}
    with open_run(given, begun, preset, None if out is None else Path(out), resume) as run:
        path = run.directory.path
        if not run.finished:
            run.run(observer or Silent())
        result = json.loads((path / "test.json").read_text(encoding="utf-8"))
        return FinetunedModel(path, run.settings, result)


@contextmanager
def open_run(
    given: Mapping[str, Any],
    start: str | None,
    preset: str | None,
    out: Path | None,
    resume: bool,
    load: Entry = FinetuneSettings.load_images,
    on_known: Callable[[ImageSet, ImageSet], object] = lambda whole, known: None,
) -> Iterator[Finetuning]:
    """Open a new run, or one to resume, in its directory, which no other process can use meanwhile.

    Args:
        given: Settings; None is not given.
        start: `scratch`, a run directory, or a file of weights.
        preset: Name of a preset.
        out: The run directory; by default a new one under `runs`.
        resume: Go on with the run in `out`.
        load: Loads images by the settings, or those of another source.
        on_known: Called with the images as they were loaded, and with what fine-tuning knows of them.

    Raises:
        AHMError: Anything that the user can mend.
    """
    with following() as copy:
        if copy is not None:
            given = {name: given.get(name) for name in FinetuneSettings.free}
            start, preset, out, resume = None, None, copy, True
        if resume:
            asked = FinetuneSettings.asked(preset, {**given, "start": start})
            directory, settings = FinetuneDirectory.resume(out, asked)
            found = PretrainedWeights.find(settings.start)
        else:
            found = PretrainedWeights.find(start or "scratch")
            settings = FinetuneSettings.make(found, preset, **given).on_this_machine()
            directory = FinetuneDirectory.claim(out, settings.task, settings)
        ranks.check_divisible("--batch-size", settings.batch_size)
        ranks.check_device(settings.device)
        if settings.unlabelled != "none":
            ranks.check_divisible("--unlabelled-batch", settings.unlabelled_batch)
        segmenter = _load_segmenter(settings)
        images = _load(settings, settings.data, load, segmenter)
        whole, images = images, only_labelled(settings, images)
        on_known(whole, images)
        others = None
        if settings.unlabelled not in OWN:
            others = _load(replace(settings, channels=images.channels), settings.unlabelled, load, segmenter)

        def make() -> Finetuning:
            return Finetuning(settings, images, directory, found, others, segmenter)

        with held_run(directory, settings, images, make, others) as run:
            yield run


def _load(settings: FinetuneSettings, data: str, load: Entry, segmenter: Model | None) -> ImageSet:
    """Images of a source as fine-tuning sees them, cut to the lesion where that is asked for."""
    settings = replace(settings, data=data)
    cropped = None if segmenter is None else Cropped(find_source(data, settings.pixels), segmenter, data)
    return load(settings, cropped)


def _load_segmenter(settings: FinetuneSettings) -> Model | None:
    """Load what images are cut by, if they are; it has to see the images as the classifier does.

    Raises:
        SettingsError: It has learned on other windows or slices.
    """
    if settings.crop_with is None:
        return None
    segmenter = load_segmenter(Path(settings.crop_with), settings.device, settings.precision)
    for name in ("window", "axis"):
        if (its := getattr(segmenter.spec, name)) != (own := getattr(settings, name)):
            remedy = f"leave out --{name}" if its is None else f"add --{name} {its}"
            raise SettingsError(
                f"--crop-with {settings.crop_with}: it segments with --{name} {its or 'left out'}, and here it is "
                f"{own or 'left out'}; {remedy}, or crop with another"
            )
    return segmenter
