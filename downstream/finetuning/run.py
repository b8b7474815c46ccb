"""The run of fine-tuning: labelled images in, a tested model out, and everything saved on the way."""

import json
from collections.abc import Mapping
from math import ceil, nan
from pathlib import Path
from typing import Any

from torch import Tensor

from ahm_env import ImageError, ImageSet, Standardisation
from ahm_env.files import write_text
from ahm_env.images.pixels.png import save_picture
from ahm_env.model.vgg import IMAGENET_MEAN, IMAGENET_STD
from ahm_env.runs.directory import Checkpoint, Directory
from ahm_env.runs.run import Run
from downstream.evaluation.classification import assess_classifier
from downstream.evaluation.cropping import SEGMENTER_FILE
from downstream.evaluation.segmentation import assess_segmenter
from downstream.finetuning.labelled import Split, check_classes, choose_unlabelled, find_values, only_labelled
from downstream.finetuning.mixing import draw_mixing
from downstream.finetuning.settings import FinetuneSettings
from downstream.finetuning.training import Trainer
from downstream.models.model import MODEL_FILE, Model, ModelSpec
from downstream.models.pretrained import PretrainedWeights
from downstream.models.vgg import VGG16

ROWS = 20
PATIENCE = 6  # rows, all of them worse than the best, after which a run with --val-fraction stops
MIXING_FILE = "mixing.png"


class FinetuneDirectory(Directory[FinetuneSettings]):
    """A run of fine-tuning on disk. Use as a context manager."""

    settings_type = FinetuneSettings
    columns = (
        "images",
        "seconds",
        "images_per_second",
        "loss",
        "learning_rate",
        "selection",
        "unlabelled_loss",
        "confident",
    )


class Finetuning(Run[FinetuneSettings, dict[str, Any]]):
    """One run of fine-tuning from its start, or from its last checkpoint, to its end.

    Args:
        settings: What to compute.
        images: The images.
        directory: The run directory, held by this process.
        start: The pretrained weights.
        unlabelled: Another set, whose train split takes part without labels, where the settings name a source.
        segmenter: What the images were cut by, to be kept beside the model.

    Raises:
        AHMError: Settings, images and start do not go together.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        images: ImageSet,
        directory: FinetuneDirectory,
        start: PretrainedWeights,
        unlabelled: ImageSet | None = None,
        segmenter: Model | None = None,
    ) -> None:
        super().__init__(settings, directory)
        self._segmenter = segmenter
        self.images = images = only_labelled(settings, images)
        self._assess = assess_segmenter if settings.task == "segmentation" else assess_classifier
        self.split = Split.make(settings, images)
        spec = make_spec(settings, images, self.split, start)
        self.model = Model.create(spec, settings.seed, settings.device, settings.precision)
        network = self.model.network
        if settings.weights is not None and isinstance(network, VGG16):
            network.features.load_published(Path(settings.weights))
        start.transfer(self.model, settings.transfer == "encoder")
        self.unlabelled = choose_unlabelled(settings, images, self.split, unlabelled)
        self._start = {name: one.clone() for name, one in network.state_dict().items()}
        self._round, self._before = 1, 0  # which round, and the images shown before it
        self._teacher: dict[str, Tensor] | None = None
        self.trainer = self._new_trainer()
        self._best: tuple[float, dict[str, Tensor]] = (-1.0, {})
        self._at_join = self._best, self.sums  # what to come back to
        if not self.finished:
            self.restore()

    @property
    def step(self) -> int:
        """Steps done, of all rounds."""
        return self.seen // self.settings.batch_size

    @property
    def rounds(self) -> int:
        """Number of rounds: one, where no unlabelled images take part."""
        return 1 if self.unlabelled is None or self.trainer.gave_up is not None else self.settings.rounds

    @property
    def _round_over(self) -> bool:
        """Whether all steps of this round are done, or selection has stopped it."""
        if self.trainer.step >= self.settings.steps:
            return True
        values = [row["selection"] for row in self.directory.rows if row["images"] > self._before]
        recipe, begin = self.trainer.config, self._before
        if self.unlabelled is not None and self.trainer.gave_up is None:  # these need time
            begin += (recipe.joins_after + recipe.ramp) * recipe.batch_size
        waited = sum(row["images"] > begin for row in self.directory.rows)
        return bool(self.settings.val_fraction and waited > PATIENCE and max(values[-PATIENCE:]) < max(values))

    def _new_trainer(self) -> Trainer:
        """Begin a round; from the second on, with what the one before came to as the teacher."""
        recipe, learn = self.settings.later_round() if self._teacher else self.settings, self.split.learn
        trainer = Trainer(self.model, self.images, learn, recipe, recipe.seed, self.unlabelled, self._teacher)
        trainer.on_astray = self._draw_mixing
        return trainer

    def _next_round(self) -> None:
        """Keep what was learned as the teacher of a fresh model."""
        self._draw_mixing()
        self._teacher = {name: one.clone() for name, one in (self._best[1] or self.trainer.result()).items()}
        self._round, self._before = self._round + 1, self.seen
        self.model.network.load_state_dict(self._start)
        self.trainer = self._new_trainer()

    @property
    def finished(self) -> bool:
        """Whether all is learned, tested and written."""
        return (self.directory.path / "test.json").exists()

    def train(self) -> None:
        """Take the steps that are left.

        Raises:
            TrainingError: The loss is not finite; the last checkpoint stays as it is.
        """
        gap = max(1, ceil(self.settings.steps / ROWS))
        while self.stopped_by is None:
            if self._round_over:
                if self._round >= self.rounds:
                    return
                self._next_round()
            trainer = self.trainer
            step = trainer.step
            if trainer.joins_now:
                self._at_join = self._best, dict(self.sums)
            loss = trainer.learn()
            self.seen = self._before + trainer.step * self.settings.batch_size
            if trainer.step > step:
                confident = trainer.confident
                self.tally({"loss": loss, "unlabelled_loss": trainer.unlabelled_loss, "confident": confident})
            else:
                self._go_back()
            row_due = trainer.step % gap == 0 or trainer.step == self.settings.steps
            self.after_step(loss, row_due, resumable=trainer.step > step)

    def conclude(self) -> dict[str, Any]:
        """Keep the best of the states selected, else the mean or last one; save the model, and test it.

        Returns:
            What `test.json` holds.
        """
        self.model.network.load_state_dict(self._best[1] or self.trainer.result())
        self.model.save(self.directory.path / MODEL_FILE)
        self._draw_mixing()
        if self._segmenter is not None:  # who has this directory needs nothing else
            self._segmenter.save(self.directory.path / SEGMENTER_FILE)
        return self._test()

    def _go_back(self) -> None:
        """Take back what was learned with the unlabelled images; the run goes on from where they joined."""
        self.observer.on_warning(
            f"the unlabelled images do harm: {self.trainer.gave_up}; the run goes back to step {self.trainer.step:,}, "
            f"and on with the labelled images alone"
        )
        rows = [row for row in self.directory.rows if row["images"] <= self.seen]
        self.directory.restore(rows, self.seen)
        self._best, self.sums = self._at_join[0], dict(self._at_join[1])
        self.row_start = (int(rows[-1]["images"]) if rows else 0, self.seconds)
        self.save()

    def measure_row(self) -> Mapping[str, float]:
        """Return the step size, and how good the state is."""
        return {"learning_rate": self.trainer.learning_rate, "selection": self._select()}

    def _select(self) -> float:
        """How good the state is on the images set aside for that, NaN where there are none; the best is kept."""
        if not self.split.select.size:
            return nan
        candidate = Model.create(self.model.spec, 0, self.model.device, self.model.precision)
        candidate.network.load_state_dict(self.trainer.result())
        summary = self._assess(candidate, self.images, self.split.select).summary
        if self.settings.task == "classification":
            value = float(summary["balanced_accuracy"])
        else:  # a mean over images would be best where nothing is found, if most of them show nothing
            found = next(summary[name] for name in ("patient_dice", "marked_dice", "dice") if name in summary)
            value = nan if found is None else float(found)
        if value > self._best[0]:
            self._best = value, {name: one.clone() for name, one in candidate.network.state_dict().items()}
        return value

    def _draw_mixing(self) -> None:
        """Draw what the student was shown, with the teacher's labels when the unlabelled images joined and now."""
        trainer = self.trainer
        if trainer.teacher is None or trainer.joined is None or self._round > 1:  # whose teacher is drawn already
            return
        last, rows = max(trainer.joined, trainer.step - 1), {}
        for step, weights in ((trainer.joined, trainer.average_at_join()), (last, trainer.average)):
            rows[f"step {step + 1:,}"] = trainer.teacher.batch(step - trainer.joined, weights)
        save_picture(self.directory.path / MIXING_FILE, draw_mixing(rows, self.model.spec.classes))

    def _test(self) -> dict[str, Any]:
        """Test once, and write every file that tells about it."""
        path, summary = self.directory.path, dict[str, Any]()
        if self.split.test.size:
            tested = self._assess(self.model, self.images, self.split.test, self.settings.tta)
            tested.write(path)
            summary = tested.summary
        about = {
            "task": self.settings.task,
            "split": self.split.test_name if self.split.test.size else None,
            "images": len(self.split.test),
            "labels": len(self.split.learn) + len(self.split.select),
            "unlabelled": len(self.unlabelled.indices) if self.unlabelled and self._kept_mixed else 0,
            **summary,
        }
        write_text(path / "test.json", json.dumps(about, indent=2) + "\n")
        return about

    @property
    def _kept_mixed(self) -> bool:
        """Whether the state that is kept has learned from unlabelled images."""
        if self.trainer.joined is None:
            return False
        best = [row["images"] for row in self.directory.rows if row["selection"] == self._best[0]]
        return not best or best[0] > self.settings.joins_after * self.settings.batch_size

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """All that learning changes, the best state, and what to come back to."""
        (best_value, best), ((value_at_join, best_at_join), sums_at_join) = self._best, self._at_join
        parts = {"trainer": self.trainer.state(), "best": best, "best_at_join": best_at_join}
        about = {"best": best_value, "best_at_join": value_at_join, "sums_at_join": sums_at_join}
        about |= {"round": self._round, "before": self._before, "trainer": self.trainer.progress()}
        return {**parts, "teacher": self._teacher or {}}, about

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        about = checkpoint.about
        self._round, self._before = about["round"], about["before"]
        if self._round > 1:
            self._teacher = {name: one.to(self.model.device) for name, one in checkpoint.part("teacher").items()}
            self.trainer = self._new_trainer()
        self.trainer.restore(checkpoint.part("trainer"), about["trainer"])
        self._best = about["best"], checkpoint.part("best")
        self._at_join = (about["best_at_join"], checkpoint.part("best_at_join")), about["sums_at_join"]


def make_spec(settings: FinetuneSettings, images: ImageSet, split: Split, start: PretrainedWeights) -> ModelSpec:
    """Describe the model of a run; its classes are those of the labelled images, or those that were named.

    Raises:
        SettingsError: A class has no labelled image.
        ImageError: Masks or labels have one class only, or a mask, maybe one to test on, holds an unknown number.
    """
    if settings.task == "segmentation":
        values = find_values(settings, images, split)
        names = ("background", "foreground") if values == (0, 1) else ("background", *map(str, values[1:]))
    else:
        values, names = (), images.classes
        if len(names) < 2:
            what = "it has labels of fewer than two classes"
            raise ImageError(f"{images.source}: {what}; nothing can be learned from that")
        check_classes(images, split.learn, names)
    by = Standardisation(IMAGENET_MEAN, IMAGENET_STD) if settings.model == "vgg16" else start.standardisation
    by = by or Standardisation(*(tuple(numbers.tolist()) for numbers in images.standardisation(images.split("train"))))
    is_unet = settings.model == "unet"
    return ModelSpec(
        task=settings.task,
        model=settings.model,
        classes=tuple(names),
        values=values,
        image_size=images.image_size,
        channels=images.channels,
        fit=settings.fit,
        mean=by.mean,
        std=by.std,
        width=settings.width if is_unet else 0,
        norm=settings.norm if is_unet else "",
        bilinear=start.unet.bilinear if start.unet is not None else False,
        cropped=settings.crop_with is not None,
        window=settings.window,
        axis=settings.axis,
        ignore=settings.ignore,
    )
