"""The run: the agent proposes, the U-Net learns, and everything is measured, saved and drawn on the way."""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from agents.agent import Update, save_agent
from agents.pretraining.hardness import Hardness, Measurement, measure
from agents.pretraining.nodes import Nodes, count_workers
from agents.pretraining.run_directory import RunDirectory
from agents.pretraining.schedule import (
    Stage,
    load_reference,
    make_env,
    make_learner,
    make_reconstructor,
    play_stage,
    set_curriculum,
    split_held_out,
    stages,
    wrapped,
)
from agents.pretraining.settings import RunSettings
from agents.pretraining.snapshots import Frame, draw_frame, take_frame
from agents.pretraining.workers import Work, Workers, seed_of
from ahm_env import ImageSet, Reconstructor, TrainingError
from ahm_env.files import atomic
from ahm_env.runs.directory import Checkpoint
from ahm_env.runs.run import Run

ROWS = 16  # rows of metrics.csv, each with a measurement of hardness
LARGEST_GAP = 10_000  # images between rows
# Hardness is measured on this many image and mask pairs, at least and at most, and in between on a fixed part of the
# run's images, so that measuring stays cheap beside training; for a row, and for the last row.
PAIRS, FINAL_PAIRS = (32, 128), (64, 4096)
PART, FINAL_PART = 64, 4
RANDOM_DRAWS = 4  # random masks an image, at least
PICTURED = 8  # rows of masks.png
# of a collapse, by the setting of an agent that it needs
REMEDIES = {"ent_coef": "raise its ent_coef (--set)", "learning_rate": "lower --agent-learning-rate"}
_AVERAGED = ("reward", "unet_loss", "entropy", "policy_loss", "value_loss")  # over the batches of a row that have one


class Pretraining(Run[RunSettings, Hardness]):
    """One run from start, or from its last checkpoint, to its end.

    Args:
        settings: What to compute.
        images: The images; those of the `train` split are used.
        directory: The run directory, held by this process.
        ray: The module `ray`, connected to the cluster that has the other workers; None: they are on this machine.

    Raises:
        SettingsError: Too few images, or settings that do not fit.
        CheckpointError: The last checkpoint is damaged.
    """

    directory: RunDirectory

    def __init__(self, settings: RunSettings, images: ImageSet, directory: RunDirectory, ray: Any = None) -> None:
        super().__init__(settings, directory)
        self.images = images
        self.device = settings.torch_device
        self.processes = settings.processes if ray is None else count_workers(ray, settings)
        self.shown, self.held_out = split_held_out(images)
        self.reconstructor = make_reconstructor(settings, *images.standardisation(self.shown))
        self.env = make_env(settings, images, self.shown, self.reconstructor)
        self.agent = make_learner(settings, self.env)
        set_curriculum(self.env, self.agent, settings, 0)
        self.env.reset(seed=seed_of(settings.seed, 0, 0))
        self.reference_unet: Reconstructor | None = None
        if settings.reference_unet is not None:
            how = {"device": self.device, "precision": settings.precision}
            self.reference_unet = load_reference(Path(settings.reference_unet), settings.grid, images.channels, **how)
        self.pictured = self.held_out[
            np.linspace(0, len(self.held_out) - 1, min(PICTURED, len(self.held_out))).astype(int)
        ]
        self._warned = False
        self._env_state = self.env.episodes.state()
        self._learning_env = wrapped(self.env, settings.wrapper)
        self.restore()
        set_curriculum(self.env, self.agent, settings, self.seen)
        work = Work(settings, images, self.shown, self.reconstructor, self.agent)
        self.workers = (
            Workers(self.processes, work, self.seen)
            if ray is None
            else Nodes(ray, self.processes, work, self.seen, lambda text: self.observer.on_warning(text))
        )

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """All that learning changes, and where the environment is."""
        self._fetch()
        parts = {"agent": self.agent.state(), "reconstructor": self.reconstructor.state()}
        return parts, {"env": self._env_state}

    def _fetch(self) -> None:
        """Bring what other workers have learned, and their number of images, to the same moment."""
        self.workers.fetch()
        self.seen = self.workers.shared.seen

    def load_state(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint."""
        self.agent.restore(checkpoint.part("agent"))
        self.reconstructor.restore(checkpoint.part("reconstructor"))
        self._env_state = checkpoint.about["env"]

    @property
    def finished(self) -> bool:
        """Whether all images have been shown, and all is written."""
        rows = self.directory.rows
        return bool(rows) and rows[-1]["images"] >= self.settings.total_images

    def train(self) -> None:
        """Go through the stages that are left.

        Raises:
            TrainingError: A loss is not finite, or a worker died; the last checkpoint stays as it is.
        """
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1 if self.processes > 1 else threads)
            with self.workers:
                if self.seen == 0:
                    self._picture(self.measure(PAIRS[1]).sampled)
                    self.start_clock()
                for stage in stages(self.settings):
                    if self.seen < stage.until and self.stopped_by is None:
                        self._play(stage)
                self.workers.join()
        finally:
            torch.set_num_threads(threads)
        self.seen = self.workers.shared.seen

    def conclude(self) -> Hardness:
        """Add the last row, and write what belongs to it.

        Returns:
            What was measured for it.
        """
        if not self.finished:  # other workers may have come to the end while a row was made
            self.record()
        return self.hardness

    def _play(self, stage: Stage) -> None:
        set_curriculum(self.env, self.agent, self.settings, self.seen)
        self.env.episodes.restore(self._env_state)  # go on with the images that come next, resumed or not

        def after(update: Update) -> bool:
            self.workers.check()
            self.seen = self.workers.shared.add(update.images)
            self._env_state = self.env.episodes.state()
            self.tally({name: getattr(update, name) for name in _AVERAGED} | dict(update.extras))
            set_curriculum(self.env, self.agent, self.settings, self.seen)
            row_due = self._next_row() <= self.seen < self.settings.total_images
            self.after_step(update.unet_loss, row_due, update.resumable)
            return self.stopped_by is None and self.seen < stage.until

        play_stage(stage, self.agent, self.env, self._learning_env, stage.until - self.seen, after)
        if self.stopped_by is None and self.seen < stage.until:
            raise TrainingError(
                f"{self.settings.algo} stopped after {self.seen:,} of {stage.until:,} images; its learn must play all "
                f"that it is asked for, and call the callback after each batch"
            )

    def _next_row(self) -> int:
        gap = min(ceil(self.settings.total_images / ROWS), LARGEST_GAP)
        return (self.row_start[0] // gap + 1) * gap

    def measure_row(self) -> Mapping[str, float]:
        """Hardness, and where the run is.

        Raises:
            TrainingError: The loss on held-out images is not finite.
        """
        self._fetch()
        last = self.seen >= self.settings.total_images
        (least, most), part = (FINAL_PAIRS, FINAL_PART) if last else (PAIRS, PART)
        pairs = min(most, max(least, self.settings.total_images // part))
        self.hardness = self.measure(pairs)
        sampled = self.hardness.sampled
        if not np.isfinite(sampled.losses).all():
            raise TrainingError(
                f"the U-Net's loss on held-out images is no longer finite after {self.seen:,} images; the step size is "
                f"probably too large: lower --learning-rate. The last checkpoint is as it was"
            )
        row = {
            **self.hardness.as_dict(),
            "agent_share": self.settings.agent_share.at(self.seen / self.settings.total_images),
            "mask_ratio": float(sampled.masks.mean()),
            "unet_updates": self.reconstructor.updates,
            **self.workers.measure(),
        }
        if self.reference_unet is not None:
            row |= self.measure(pairs, self.reference_unet).as_dict("reference_hardness")
        return row

    def measure(self, pairs: int, reference_unet: Reconstructor | None = None) -> Hardness:
        """Hardness and masks on about so many held-out image and mask pairs, by the run's own U-Net or a reference.

        Its own is a copy: while it is measured, other workers go on with theirs.
        """
        few = self.held_out[: max(2, pairs // 2)]
        draws = max(2, round(pairs / len(few)))
        ratio, horizon = self.settings.mask_ratio, self.settings.horizon
        unet = reference_unet or self.reconstructor.frozen()
        random_draws = max(draws, RANDOM_DRAWS)
        found = measure(self.agent, unet, self.images, few, ratio, horizon, draws, random_draws=random_draws)
        self.agent.attach(self.env)  # it may have looked at the reference U-Net
        return found

    def _picture(self, measurement: Measurement) -> Frame:
        """Add a frame of the same held-out images, whenever it is taken, to the history."""
        frame = take_frame(self.seen, self.agent, self.reconstructor, self.images, self.pictured, measurement)
        self.directory.save_frame(frame)
        return frame

    def _warn_of_collapse(self, measurement: Measurement) -> None:
        settled = self.seen >= self.settings.total_images / 2  # at first, all images may well get a similar mask
        collapse = measurement.collapse
        if settled and collapse and not self._warned:
            self._warned = True
            advice = ", or ".join(text for name, text in REMEDIES.items() if hasattr(self.agent.settings, name))
            self.observer.on_warning(f"the agent's masks are collapsing: {collapse}" + (advice and f"; {advice}"))

    def write_results(self) -> None:
        """Write the U-Net, the agent and the pictures as they are now."""
        picture = draw_frame(self._picture(self.hardness.sampled), self.images.images(self.pictured))
        self._warn_of_collapse(self.hardness.sampled)
        path = self.directory.path
        self.reconstructor.save(path / "unet.safetensors")
        save_agent(self.agent, path / "agent")
        with atomic(path / "masks.png") as temporary:
            Image.fromarray(picture).save(temporary, format="PNG")
