"""The run: the agent proposes, the U-Net learns, and everything is measured, saved and drawn on the way."""

import time
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from agents.agent import Update, save_agent
from agents.pretraining.hardness import Measurement, measure
from agents.pretraining.run_directory import RunDirectory
from agents.pretraining.schedule import (
    Stage,
    make_env,
    make_reconstructor,
    play_stage,
    set_curriculum,
    split_held_out,
    stages,
)
from agents.pretraining.settings import RunSettings
from agents.pretraining.snapshots import take_frame
from agents.pretraining.workers import Counter, Workers
from agents.registry import learns, make_agent
from ahm_env import ImageSet, Reconstructor, TrainingError
from ahm_env.files import atomic
from ahm_env.rendering import as_rgb, limits, overlay, panel, reconstruction_columns
from ahm_env.runs.directory import Checkpoint, Interruption
from ahm_env.runs.observer import Observer

ROWS = 16  # rows of metrics.csv, each with a measurement of hardness
LARGEST_GAP = 10_000  # images between rows
# Hardness is measured on this many image and mask pairs, at least and at most, and in between on a fixed part of the
# run's images, so that measuring stays cheap beside training; for a row, and for the last row.
PAIRS, FINAL_PAIRS = (32, 128), (64, 4096)
PART, FINAL_PART = 64, 4
PICTURED = 8  # rows of masks.png
CHECKPOINT_SECONDS = 60.0
_AVERAGED = ("reward", "unet_loss", "entropy", "policy_loss", "value_loss")  # over the batches of a row that have one


class Pretraining:
    """One run from start, or from its last checkpoint, to its end.

    Args:
        settings: What to compute.
        images: The images; those of the `train` split are used.
        directory: The run directory, held by this process.

    Raises:
        SettingsError: Too few images, or settings that do not fit.
        CheckpointError: The last checkpoint is damaged.
    """

    def __init__(self, settings: RunSettings, images: ImageSet, directory: RunDirectory) -> None:
        self.settings, self.images, self.directory = settings, images, directory
        self.device = settings.torch_device
        self.processes = settings.processes
        torch.set_num_threads(1 if self.processes > 1 else torch.get_num_threads())
        self.shown, self.held_out = split_held_out(images)
        self.reconstructor = make_reconstructor(settings, images, self.shown)
        self.env = make_env(settings, images, self.shown, self.reconstructor)
        set_curriculum(self.env, settings, 0)
        self.env.reset(seed=settings.seed)
        extra = dict(settings.agent)
        if learns(settings.algo) and settings.agent_learning_rate is not None:
            extra["learning_rate"] = settings.agent_learning_rate
        self.agent = make_agent(settings.algo, self.env, settings.seed, self.device, **extra)
        self.seen = 0
        self.seconds = 0.0
        self.judge = None if settings.judge is None else Reconstructor.load(Path(settings.judge), settings.grid)
        self.pictured = self.held_out[
            np.linspace(0, len(self.held_out) - 1, min(PICTURED, len(self.held_out))).astype(int)
        ]
        self.sums: dict[str, tuple[float, int]] = {}
        self.row_start = (0, 0.0)
        self._interruption = Interruption()
        self._warned = False
        self._env_state = self.env.episodes.state()
        self._restore()

    def _restore(self) -> None:
        checkpoint = self.directory.latest()
        if checkpoint is None:
            self.directory.restore([], 0)
            return
        about = checkpoint.about
        self.agent.restore(checkpoint.part("agent"))
        self.reconstructor.restore(checkpoint.part("reconstructor"))
        self._env_state = about["env"]
        self.seen, self.seconds = checkpoint.images, about["seconds"]
        self.sums = {name: (total, count) for name, (total, count) in about["sums"].items()}
        self.row_start = (about["row_start"][0], about["row_start"][1])
        self.directory.restore(about["rows"], self.seen)

    @property
    def stopped_by(self) -> int | None:
        """The signal that ended the run, None where none did."""
        return self._interruption.signal

    @property
    def finished(self) -> bool:
        """Whether all images have been shown, and all is written."""
        rows = self.directory.rows
        return bool(rows) and rows[-1]["images"] >= self.settings.images

    def run(self, observer: Observer) -> Measurement | None:
        """Train to the end, or until interrupted; the state is saved either way.

        Args:
            observer: Is told how it goes.

        Returns:
            The last measurement, None if the run was interrupted.

        Raises:
            TrainingError: A loss is not finite, or a worker died; the last checkpoint stays as it is.
        """
        self.observer = observer
        counter = Counter(self.seen, shared=self.processes > 1)
        team = (self.processes, self.settings, self.images, self.shown, self.reconstructor, self.agent, counter)
        with self._interruption.watch(), Workers(*team) as workers:
            self._began = self._saved = time.monotonic()
            self._seconds_before = self.seconds
            if self.seen == 0:
                self._picture(self.measure(PAIRS[1]))
                self._began = self._saved = time.monotonic()
            for stage in stages(self.settings):
                if self.seen < stage.until and self.stopped_by is None:
                    self._play(stage, counter, workers)
            workers.join()
        self.seen = counter.value
        if self.stopped_by is not None:
            self._checkpoint()
            return None
        return self._record(last=True)

    def _play(self, stage: Stage, counter: Counter, workers: Workers) -> None:
        set_curriculum(self.env, self.settings, self.seen)
        self.env.episodes.restore(self._env_state)  # go on with the images that come next, resumed or not

        def after(update: Update) -> bool:
            workers.check()
            self.seen = counter.add(update.images)
            self.seconds = self._seconds_before + time.monotonic() - self._began
            self._env_state = self.env.episodes.state()
            self._tally(update)
            set_curriculum(self.env, self.settings, self.seen)
            self.observer.on_update(self.seen, update.unet_loss)
            if not update.resumable:
                pass  # rows and checkpoints wait until the agent has learned from its rollout
            elif self.seen >= self._next_row() and self.seen < self.settings.images:
                self._record()
            elif time.monotonic() - self._saved > CHECKPOINT_SECONDS:
                self._checkpoint()
            return self.stopped_by is None and self.seen < stage.until

        play_stage(stage, self.agent, self.env, stage.until - self.seen, after)

    def _next_row(self) -> int:
        gap = min(ceil(self.settings.images / ROWS), LARGEST_GAP)
        return (self.row_start[0] // gap + 1) * gap

    def _tally(self, update: Update) -> None:
        numbers = {name: getattr(update, name) for name in _AVERAGED} | dict(update.extras)
        for name, value in numbers.items():
            if not np.isnan(value):
                total, count = self.sums.get(name, (0.0, 0))
                self.sums[name] = (total + value, count + 1)

    def _record(self, last: bool = False) -> Measurement:
        """Measure hardness, add a row, and bring every file of the run up to date."""
        (least, most), part = (FINAL_PAIRS, FINAL_PART) if last else (PAIRS, PART)
        pairs = min(most, max(least, self.settings.images // part))
        measurement = self.measure(pairs)
        if not np.isfinite(measurement.losses).all():
            raise TrainingError(
                f"the U-Net's loss on held-out images is no longer finite after {self.seen:,} images; the step size is "
                f"probably too large: lower --learning-rate. The last checkpoint is as it was"
            )
        images, seconds = self.row_start
        row = {
            **dict.fromkeys(_AVERAGED, float("nan")),
            **{name: total / count for name, (total, count) in self.sums.items()},
            "images": self.seen,
            "seconds": self.seconds,
            "images_per_second": (self.seen - images) / max(1e-9, self.seconds - seconds),
            "hardness": measurement.hardness,
            "chosen_share": self.settings.chosen_share(self.seen / self.settings.images),
            "mask_ratio": float(measurement.masks.mean()),
            "unet_updates": self.reconstructor.updates,
            "judged_hardness": float("nan") if self.judge is None else self.measure(pairs, self.judge).hardness,
        }
        self.row_start, self.sums = (self.seen, self.seconds), {}
        self.directory.add(row)
        self._picture(measurement)
        self._warn_of_collapse(measurement)
        self.write_results()
        self._checkpoint()
        self.observer.on_row(row)
        return measurement

    def measure(self, pairs: int, judge: Reconstructor | None = None) -> Measurement:
        """Hardness and masks on about so many held-out image and mask pairs, by the run's own U-Net or a judge."""
        few = self.held_out[: max(2, pairs // 2)]
        draws = max(2, round(pairs / len(few)))
        ratio, horizon = self.settings.ratio, self.settings.horizon
        measurement = measure(self.agent, judge or self.reconstructor, self.images, few, ratio, horizon, draws)
        self.agent.attach(self.env)  # it may have looked at the judge
        return measurement

    def _picture(self, measurement: Measurement) -> None:
        self.directory.save_frame(
            take_frame(self.seen, self.agent, self.reconstructor, self.images, self.pictured, measurement)
        )

    def _warn_of_collapse(self, measurement: Measurement) -> None:
        settled = self.seen >= self.settings.images / 2  # at first, all images may well get a similar mask
        collapse = measurement.collapse
        if settled and collapse and not self._warned:
            self._warned = True
            self.observer.on_warning(
                f"the agent's masks are collapsing: {collapse}; raise --entropy-weight or lower --agent-learning-rate"
            )

    def _checkpoint(self) -> None:
        tensors = {f"agent/{name}": tensor for name, tensor in self.agent.state().items()}
        tensors |= {f"reconstructor/{name}": tensor for name, tensor in self.reconstructor.state().items()}
        about = {
            "env": self._env_state,
            "seconds": self.seconds,
            "sums": self.sums,
            "row_start": self.row_start,
        }
        self.directory.save(Checkpoint(self.seen, tensors, about))
        self._saved = time.monotonic()

    def write_results(self) -> None:
        """Write the U-Net, the agent and the picture as they are now."""
        path = self.directory.path
        self.reconstructor.save(path / "unet.safetensors")
        save_agent(self.agent, path / "agent")
        with atomic(path / "masks.png") as temporary:
            Image.fromarray(self.picture()).save(temporary, format="PNG")

    def picture(self) -> Any:
        """The panel of the same held-out images, whenever it is drawn: `(height, width, 3)` uint8."""
        images = self.images.images(self.pictured)
        masks = self.agent.act(images, generator=torch.Generator().manual_seed(0)).astype(bool)
        made, losses = self.reconstructor.reconstruct(images, masks), self.reconstructor.patch_losses(images, masks)
        shown = as_rgb(images)
        policy, values = self.agent.maps(images)
        maps = {"policy map": policy} | ({} if values is None else {"value map": values})
        scales = {name: limits(patch_map) for name, patch_map in maps.items()}
        overlays = {name: overlay(shown, maps[name], scale=scale) for name, scale in scales.items()}
        return panel({"image": shown, **overlays, **reconstruction_columns(images, masks, made, losses)}, scales)
