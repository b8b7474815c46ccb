"""One optimiser step after another: what fine-tuning does, without files and consoles.

All steps follow one schedule. Labelled images are learned from throughout; where there are unlabelled ones, they join
after a part of the steps, labelled by a mean teacher. Until then all is the same, bit for bit, as without them.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ahm_env import ImageSet, SettingsError, TrainingError
from ahm_env.masks import Ints
from ahm_env.model.optimiser import SharedAdam
from ahm_env.model.ranks import sum_gradients
from ahm_env.model.weights import copy_state
from downstream.finetuning.augmentation import Augmentation, strong_kind
from downstream.finetuning.losses import IGNORED, class_weights, classification_loss, segmentation_loss
from downstream.finetuning.mean_teacher import MeanTeacher, SafetyNet, SettledTeacher, Unlabelled, epoch_batch
from downstream.finetuning.mixing import MixedBatch
from downstream.finetuning.settings import TrainConfig
from downstream.models.model import EncoderClassifier, Model, ModelSpec

MEASURED = 64  # images at once
CHECKED_STEPS = 200  # between two looks at the teacher's loss on clean labelled images
_WARM_UP = 0.05  # of the steps
_LOWEST = 0.01  # of the step size, at the end of a cosine


class Trainer:
    """Teaches a model. All that is random depends on the seed and the number of the step: any step can be resumed.

    Args:
        model: What learns.
        images: The images.
        labelled: Indices of those to learn from.
        config: How.
        seed: Of order and augmentation.
        unlabelled: Images that take part without labels; None for none.
        teacher: Weights and buffers of a teacher that stays as it is; None: it is the running mean.

    Attributes:
        step: Steps done.
        joined: The step at which the unlabelled images joined; None before that, and where they were sent away again.
        unlabelled_loss: Of the last step; NaN where only labelled images took part.
        confident: Share of the teacher's labels that counted in the last step; NaN likewise.
        gave_up: Why the unlabelled images were sent away again; None if they were not.
        on_astray: Called before they are, as long as the teacher is there.

    Raises:
        SettingsError: No image to learn from.
    """

    def __init__(
        self,
        model: Model,
        images: ImageSet,
        labelled: Ints,
        config: TrainConfig,
        seed: int,
        unlabelled: Unlabelled | None = None,
        teacher: Mapping[str, Tensor] | None = None,
    ) -> None:
        if len(labelled) == 0:
            raise SettingsError(f"{images.source}: no labelled image to learn from")
        self.model, self.images, self.labelled, self.config, self.seed = model, images, labelled, config, seed
        self.step = 0
        self.joined: int | None = None
        self.gave_up: str | None = None
        self.on_astray: Callable[[], object] = lambda: None
        self.unlabelled_loss = self.confident = math.nan
        strong = strong_kind(config.strong, images, labelled) if config.augment == "strong" else "grey"
        self.augmentation = Augmentation(config.augment, strong)
        if config.freeze and isinstance(model.network, EncoderClassifier):
            self._measure_norms()
            model.network.freeze()
        learning = [weight for weight in model.network.parameters() if weight.requires_grad]
        self.optimiser = SharedAdam(learning, config.learning_rate, config.weight_decay)
        self.average = {name: one.detach().clone() for name, one in self._weights().items()} if config.ema_decay else {}
        self._segments = model.spec.task == "segmentation"
        self._class_of = _lookup(model.spec) if self._segments else np.zeros(0, np.int64)
        self._class_weights = self._balance() if config.class_weights and not self._segments else None
        kind, weights = (MeanTeacher, self.average) if teacher is None else (SettledTeacher, teacher)
        self.teacher = None if unlabelled is None else kind(model, weights, unlabelled, config, seed)
        self._net: SafetyNet | None = None
        self._supervised: dict[str, Tensor] = {}

    def learn(self) -> float:
        """One optimiser step.

        Returns:
            The loss on the labelled images before it.

        Raises:
            TrainingError: The loss or its gradient is not finite; no weight has changed.
        """
        if self.joins_now:
            self._join()
        mixed = None
        if self.teacher is not None and self.joined is not None:
            mixed = self.teacher.batch(self.step - self.joined)
        pixels, targets = self._labelled_batch()
        self.model.network.train()
        # one batch, so that BatchNorm sees one distribution
        logits = self.model.logits(pixels if mixed is None else torch.cat([pixels, mixed.pixels]))
        loss = total = self._loss(logits[: len(pixels)], targets)
        if self.teacher is not None and self.joined is not None and mixed is not None:
            weight = self.teacher.weight(self.step - self.joined)
            unlabelled_loss = self.teacher.loss(logits[len(pixels) :], mixed)
            total = (loss + weight * unlabelled_loss) / (1 + weight)
            self.unlabelled_loss, self.confident = float(unlabelled_loss.item()), float(mixed.confident.float().mean())
        self.optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        sum_gradients(self.model.network.parameters())
        value = float(loss.item())
        if not self.optimiser.is_finite(total):
            raise TrainingError(
                f"the loss or its gradient is no longer finite (loss {value:.3g}); the step size is probably "
                f"too large: lower --learning-rate"
            )
        self.optimiser.set_learning_rate(self.learning_rate)
        self.optimiser.step()
        self.step += 1
        self._keep_average()
        if mixed is not None:
            self._look_after(mixed)
        return value

    @property
    def joins_now(self) -> bool:
        """Whether the unlabelled images join in the next step."""
        return self.teacher is not None and self.joined is None and self.step >= self.config.joins_after

    def _labelled_batch(self) -> tuple[Tensor, Tensor]:
        """Augmented images of a step `(B, C, S, S)`, and their masks `(B, S, S)` or classes `(B,)`."""
        chosen = epoch_batch(self.labelled, self.step, self.config.batch_size, (self.seed,))
        pixels, targets = torch.from_numpy(self.images.images(chosen)).float(), self._targets(chosen)
        if self._segments:
            pixels, targets = self.augmentation(pixels, targets, self._draw())
        else:
            empty = torch.zeros(len(chosen), *pixels.shape[-2:], dtype=torch.long)
            pixels, _ = self.augmentation(pixels, empty, self._draw())
        return pixels, targets.to(self.model.device)

    def _targets(self, indices: Ints) -> Tensor:
        """Masks of these images `(B, S, S)`, or their classes `(B,)`."""
        return torch.from_numpy(
            self._class_of[self.images.masks(indices)] if self._segments else self.images.labels(indices)
        )

    def _join(self) -> None:
        """Let the unlabelled images take part from here on; of one that learns, the state is kept to come back to."""
        self.joined = self.step
        if not isinstance(self.teacher, SettledTeacher):  # that was watched while it learned
            self._supervised = {name: one.detach().clone() for name, one in self.state().items()}
            loss, foreground = self._clean()
            self._net = SafetyNet(foreground, loss)

    def _look_after(self, mixed: MixedBatch) -> None:
        """Go back to where the unlabelled images joined, and on without them, if the teacher has gone astray."""
        assert self.joined is not None
        if self._net is None:
            return
        reason = self._net.after_step(mixed.foreground)
        if (self.step - self.joined) % CHECKED_STEPS == 0 or self.step == self.config.steps:
            reason = reason or self._net.after_test(self._clean()[0])
        if reason is not None:
            self.on_astray()
            self.restore(self._supervised, {"step": self.joined, "gave_up": reason})

    def _clean(self) -> tuple[float, float | None]:
        """Measure the teacher's loss on labelled images as they are, and their share of foreground (None: no masks)."""
        some = self.labelled[np.linspace(0, len(self.labelled) - 1, min(MEASURED, len(self.labelled))).astype(int)]
        self.model.network.eval()
        with torch.no_grad():
            logits = self.model.logits(torch.from_numpy(self.images.images(some)).float(), self.average)
        targets = self._targets(some).to(self.model.device)
        foreground = float((targets > 0).sum() / (targets != IGNORED).sum().clamp(min=1)) if self._segments else None
        return float(self._loss(logits, targets)), foreground

    @property
    def learning_rate(self) -> float:
        """Step size of the next step."""
        config = self.config
        if config.schedule == "steps":
            epoch = self.step * config.batch_size // max(len(self.labelled), 1)
            return config.learning_rate * float(0.9 ** (epoch // 3))
        progress = self.step / config.steps
        rising = min(1.0, (self.step + 1) / max(1, _WARM_UP * config.steps))
        falling = _LOWEST + (1 - _LOWEST) * (1 + math.cos(math.pi * progress)) / 2
        return config.learning_rate * rising * falling

    def result(self) -> dict[str, Tensor]:
        """Return what was learned: the network's tensors, or their running means where these are kept; not copies."""
        return {**self.model.network.state_dict(), **self.average}

    def state(self) -> dict[str, Tensor]:
        """Every tensor that learning changes, and those to come back to; not copies."""
        weights = {f"network.{name}": one for name, one in self.model.network.state_dict().items()}
        moments = {f"optimiser.{name}": one for name, one in self.optimiser.tensors().items()}
        averages = {f"average.{name}": one for name, one in self.average.items()}
        return weights | moments | averages | {f"supervised.{name}": one for name, one in self._supervised.items()}

    def average_at_join(self) -> dict[str, Tensor]:
        """Return the teacher's weights and buffers when the unlabelled images joined."""
        kept = "average."
        return {name.removeprefix(kept): one for name, one in self._supervised.items() if name.startswith(kept)}

    def progress(self) -> dict[str, Any]:
        """Return what else is needed to resume, as JSON can hold it."""
        net = None if self._net is None else asdict(self._net)
        return {"step": self.step, "joined": self.joined, "gave_up": self.gave_up, "net": net}

    def restore(self, state: dict[str, Tensor], progress: Mapping[str, Any]) -> None:
        """Go back to what `state` and `progress` returned."""
        self._supervised = {
            name.removeprefix("supervised."): tensor.detach().to(self.model.device, copy=True)
            for name, tensor in state.items()
            if name.startswith("supervised.")
        }
        copy_state({name: one for name, one in self.state().items() if not name.startswith("supervised.")}, state)
        net = progress.get("net")
        self.step, self.joined, self.gave_up = progress["step"], progress.get("joined"), progress.get("gave_up")
        self._net = None if net is None else SafetyNet(**net)
        self.unlabelled_loss = self.confident = math.nan
        if self.gave_up is not None:
            self.teacher = None

    def _measure_norms(self) -> None:
        """Statistics of BatchNorm over whole images: those of pretraining are of images with patches hidden."""
        norms = [layer for layer in self.model.network.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
        self.model.network.train()
        with torch.no_grad():
            for part in np.array_split(self.labelled, -(-len(self.labelled) // MEASURED)):
                self.model.logits(torch.from_numpy(self.images.images(part)).float())
        for layer in norms:
            layer.momentum = 0.1  # PyTorch's own

    def _draw(self) -> int:
        return int(np.random.default_rng((self.seed, self.step, 1)).integers(2**31))

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self._segments:
            return segmentation_loss(logits, targets)
        return classification_loss(logits, targets, weights=self._class_weights)

    def _balance(self) -> Tensor:
        counts = np.bincount(self.images.labels(self.labelled), minlength=len(self.model.spec.classes))
        return class_weights(torch.from_numpy(counts)).to(self.model.device)

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: one for name, one in self.model.network.state_dict(keep_vars=True).items() if one.is_floating_point()
        }

    def _keep_average(self) -> None:
        # young averages forget faster, or they would remember the start
        decay = min(self.config.ema_decay, self.step / (self.step + 10))
        with torch.no_grad():
            for name, one in self._weights().items():
                if name in self.average:
                    self.average[name].lerp_(one, 1 - decay)


def _lookup(spec: ModelSpec) -> Ints:
    """From the number in a mask to the number of its class, or `IGNORED`: `(256,)`."""
    table = np.zeros(256, np.int64)
    table[list(spec.values)] = np.arange(len(spec.values))
    if spec.ignore is not None:
        table[spec.ignore] = IGNORED
    return table
