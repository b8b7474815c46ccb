"""One optimiser step after another on labelled images: what fine-tuning does, without files and consoles."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ahm_env import ImageSet, SettingsError, TrainingError
from ahm_env.masks import Ints
from ahm_env.optimiser import SharedAdam
from downstream.augmentation import Augmentation
from downstream.models import EncoderClassifier, Model

SCHEDULES = ("cosine", "steps")
MEASURED = 64  # images at once
_WARM_UP = 0.05  # of the steps
_LOWEST = 0.01  # of the step size, at the end of a cosine


@dataclass(frozen=True)
class Recipe:
    """How a model learns from labelled images."""

    steps: int = 800
    """Optimiser steps in all."""
    batch_size: int = 8
    """Images a step."""
    learning_rate: float = 1e-3
    """Step size of Adam at its highest."""
    schedule: str = "cosine"
    """cosine (a short warm-up, then down), or steps (x 0.9 every 3 epochs, as published)."""
    weight_decay: float = 0.0
    """Decay of the weights towards zero, apart from Adam's moments (AdamW)."""
    freeze: bool = False
    """Of classification by a U-Net: its encoder stays as it is, and only the layer to the classes learns."""
    average: float = 0.99
    """Decay of a running mean of the weights, which is what is kept in the end; 0 keeps the last ones."""
    balance: bool = True
    """Of classification: rare classes count as much as frequent ones."""
    augment: str = "affine"
    """none, flips, affine or full."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise SettingsError(f"--{name.replace('_', '-')} {getattr(self, name)} must be 1 or more")
        if not 0 < self.learning_rate < math.inf:
            raise SettingsError(f"--learning-rate {self.learning_rate} must be a positive number")
        if self.schedule not in SCHEDULES:
            raise SettingsError(f"schedule {self.schedule!r} is unknown; choose {' or '.join(SCHEDULES)}")
        if not 0 <= self.average < 1 or not self.weight_decay >= 0:
            raise SettingsError("average must be in [0, 1), and weight_decay at least 0")
        Augmentation(self.augment)


class Trainer:
    """Teaches a model. All that is random depends on the seed and the number of the step: any step can be resumed.

    Args:
        model: What learns.
        images: The images.
        labelled: Indices of those to learn from.
        recipe: How.
        seed: Of order and augmentation.

    Raises:
        SettingsError: No image to learn from.
    """

    def __init__(self, model: Model, images: ImageSet, labelled: Ints, recipe: Recipe, seed: int) -> None:
        if len(labelled) == 0:
            raise SettingsError(f"{images.source}: no labelled image to learn from")
        self.model, self.images, self.labelled, self.recipe, self.seed = model, images, labelled, recipe, seed
        self.step = 0
        self.augmentation = Augmentation(recipe.augment)
        if recipe.freeze and isinstance(model.network, EncoderClassifier):
            self._measure_norms()
            model.network.freeze()
        learning = [weight for weight in model.network.parameters() if weight.requires_grad]
        self.optimiser = SharedAdam(learning, recipe.learning_rate, recipe.weight_decay)
        self.average = {name: one.detach().clone() for name, one in self._weights().items()} if recipe.average else {}
        self._segments = model.card.task == "segmentation"
        self._class_of = _lookup(model.card.values) if self._segments else np.zeros(0, np.int64)
        self._class_weights = self._balance() if recipe.balance and not self._segments else None

    def learn(self) -> float:
        """One optimiser step.

        Returns:
            The loss before it.

        Raises:
            TrainingError: The loss or its gradient is not finite; no weight has changed.
        """
        chosen = self._batch()
        pixels = torch.from_numpy(self.images.images(chosen)).float()
        size = pixels.shape[-2:]
        if self._segments:
            targets = torch.from_numpy(self._class_of[self.images.masks(chosen)])
            pixels, targets = self.augmentation(pixels, targets, self._draw())
        else:
            targets = torch.from_numpy(self.images.labels(chosen))
            pixels, _ = self.augmentation(pixels, torch.zeros(len(chosen), *size, dtype=torch.long), self._draw())
        targets = targets.to(self.model.device)
        self.model.network.train()
        logits = self.model.logits(pixels)
        loss = self._loss(logits, targets)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.item())
        if not self.optimiser.is_finite(loss):
            raise TrainingError(
                f"the loss or its gradient is no longer finite (loss {value:.3g}); the step size is probably "
                f"too large: lower --learning-rate"
            )
        self.optimiser.set_learning_rate(self.learning_rate)
        self.optimiser.step()
        self.step += 1
        self._keep_average()
        return value

    @property
    def learning_rate(self) -> float:
        """Step size of the next step."""
        recipe = self.recipe
        if recipe.schedule == "steps":
            epoch = self.step * recipe.batch_size // max(len(self.labelled), 1)
            return recipe.learning_rate * float(0.9 ** (epoch // 3))
        progress = self.step / recipe.steps
        rising = min(1.0, (self.step + 1) / max(1, _WARM_UP * recipe.steps))
        falling = _LOWEST + (1 - _LOWEST) * (1 + math.cos(math.pi * progress)) / 2
        return recipe.learning_rate * rising * falling

    def result(self) -> dict[str, Tensor]:
        """What has been learned: the network's tensors, or their running means where these are kept; not copies."""
        return {**self.model.network.state_dict(), **self.average}

    def state(self) -> dict[str, Tensor]:
        """Every tensor that learning changes; not copies."""
        weights = {f"network.{name}": one for name, one in self.model.network.state_dict().items()}
        moments = {f"optimiser.{name}": one for name, one in self.optimiser.tensors().items()}
        return weights | moments | {f"average.{name}": one for name, one in self.average.items()}

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Go back to what `state` returned at that step."""
        for name, tensor in self.state().items():
            tensor.data.copy_(state[name])
        self.step = step

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

    def _batch(self) -> Ints:
        """The images of a step: epochs in random order, one running into the next."""
        count, size = len(self.labelled), self.recipe.batch_size
        places = np.arange(self.step * size, (self.step + 1) * size)
        epochs = {
            int(epoch): np.random.default_rng((self.seed, int(epoch))).permutation(count)
            for epoch in np.unique(places // count)
        }
        return self.labelled[[epochs[int(place // count)][place % count] for place in places]]

    def _draw(self) -> int:
        return int(np.random.default_rng((self.seed, self.step, 1)).integers(2**31))

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        entropy = functional.cross_entropy(logits, targets, self._class_weights)
        return entropy + soft_dice_loss(logits, targets) if self._segments else entropy

    def _balance(self) -> Tensor:
        """Weights by which every class counts alike, however rare: B / (K · B_k)."""
        counts = np.bincount(self.images.labels(self.labelled), minlength=len(self.model.card.classes))
        weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
        return torch.from_numpy(weights).float().to(self.model.device)

    def _weights(self) -> dict[str, Tensor]:
        return {
            name: one for name, one in self.model.network.state_dict(keep_vars=True).items() if one.is_floating_point()
        }

    def _keep_average(self) -> None:
        # young averages forget faster, or they would remember the start
        decay = min(self.recipe.average, self.step / (self.step + 10))
        with torch.no_grad():
            for name, one in self._weights().items():
                if name in self.average:
                    self.average[name].lerp_(one, 1 - decay)


def soft_dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """One minus the soft Dice of every class but the background, over the batch (Milletari et al., 3DV 2016).

    Args:
        logits: `(B, K, H, W)`.
        targets: `(B, H, W)` class numbers 0..K-1.
    """
    probabilities = logits.softmax(1)[:, 1:]
    truth = functional.one_hot(targets, logits.shape[1]).movedim(-1, 1)[:, 1:].to(probabilities.dtype)
    both = (probabilities * truth).sum((0, 2, 3))
    return 1 - ((2 * both + 1) / ((probabilities + truth).sum((0, 2, 3)) + 1)).mean()


def _lookup(values: tuple[int, ...]) -> Ints:
    """From the number in a mask to the number of its class: `(256,)`."""
    table = np.zeros(256, np.int64)
    table[list(values)] = np.arange(len(values))
    return table
