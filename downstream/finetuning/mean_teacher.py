"""The unlabelled images' part in fine-tuning: a mean teacher labels them, and the student learns its labels.

The teacher is the running mean of the student's weights and buffers (Tarvainen, Valpola, NeurIPS 2017). It sees an
image turned and mirrored; the student sees the same pixels recoloured, and parts of two images mixed, and learns the
teacher's labels where the teacher is confident (FixMatch, Sohn et al., NeurIPS 2020; CutMix for segmentation, French et
al., BMVC 2020).

    labelled x, y          loss(student(x), y)
    unlabelled a, b        p_a, p_b = teacher(a), teacher(b)
                           u = recolour(M ? b : a),  p = M ? p_b : p_a
                           loss(student(u), argmax p) on the pixels with max p >= confidence

In a second round the teacher is what the first one came to. It labels each image once, as it is, and all of that counts
(self-training with a noised student: Xie et al., CVPR 2020).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ahm_env import ImageSet
from ahm_env.masks import Ints
from downstream.finetuning.augmentation import Augmentation, strong_kind
from downstream.finetuning.losses import classification_loss, segmentation_loss
from downstream.finetuning.mixing import MixedBatch, mixing_masks
from downstream.finetuning.settings import TrainConfig
from downstream.models.model import Model

OWN = ("none", "auto")  # not another source
WATCHED_STEPS = 200  # for so long the teacher's foreground may lie outside
FOREGROUND = (0.2, 5.0)  # times the foreground of the labelled images
FORGOTTEN = 2.0  # times its loss on clean labelled images at the start, and
FORGOTTEN_LOSS = 0.05  # more: twice nearly nothing is nothing
_KEY = 2  # of the random numbers here, beside those of the labelled images


@dataclass(frozen=True)
class Unlabelled:
    """Unlabelled images: which, of which set, and how many of another set stay out, as known or tested on here."""

    images: ImageSet
    indices: Ints
    left_out: int = 0


class MeanTeacher:
    """Labels unlabelled images with the running mean of a model's weights.

    Args:
        model: The student; the teacher is the same network with other weights.
        weights: Those weights, and the buffers: always the newest.
        unlabelled: The images.
        settings: How they take part.
        seed: Of their order, turns, colours and mixing masks.
    """

    def __init__(
        self,
        model: Model,
        weights: Mapping[str, Tensor],
        unlabelled: Unlabelled,
        settings: TrainConfig,
        seed: int,
    ) -> None:
        self.model, self.weights, self.unlabelled, self.settings, self.seed = model, weights, unlabelled, settings, seed
        self._segments = model.spec.task == "segmentation"
        self._turn = Augmentation("shape")
        strong = strong_kind(settings.strong, unlabelled.images, unlabelled.indices)
        self._recolour = Augmentation("recolour", strong)

    @property
    def strong(self) -> str:
        """Which strong changes of colour are made."""
        return self._recolour.strong

    @property
    def mixes(self) -> bool:
        """Whether parts of two images make one: the class of such an image would not be known."""
        return self._segments and self.settings.mix != "none"

    @property
    def _shown(self) -> int:
        """Number of images in a step."""
        return (2 if self.mixes else 1) * self.settings.unlabelled_batch

    @property
    def _key(self) -> tuple[int, ...]:
        """What decides their order."""
        return self.seed, _KEY, _KEY

    def batch(self, step: int, weights: Mapping[str, Tensor] | None = None) -> MixedBatch:
        """Make the mixed images of a step, counted from the step at which the unlabelled images joined.

        Args:
            step: From 0.
            weights: The teacher's; by default the newest.
        """
        count = self.settings.unlabelled_batch
        chosen = epoch_batch(self.unlabelled.indices, step, self._shown, self._key)
        seeds = np.random.default_rng((self.seed, step, _KEY)).integers(2**31, size=2).tolist()
        seen, labels, confident = self._labelled(chosen, seeds[0], weights or self.weights)
        foreground = float((labels > 0).float().mean())
        if self.mixes:
            masks = mixing_masks(self.settings.mix, count, seen.shape[-1], (self.seed, step, _KEY, 1))
            seen = torch.where(masks, seen[count:], seen[:count])
            there = masks[:, 0].to(labels.device)
            labels, confident = (torch.where(there, one[count:], one[:count]) for one in (labels, confident))
        recoloured, _ = self._recolour(seen, _nothing(seen), seeds[1])
        return MixedBatch(recoloured, labels, confident, foreground)

    def _labelled(self, chosen: Ints, seed: int, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Turn images, and label them: pixels, labels, and where these count."""
        pixels = self._pixels(chosen)
        seen, _ = self._turn(pixels, _nothing(pixels), seed)
        sure, labels = self.model.predict(seen, self.settings.teacher_tta, weights).max(1)
        return seen, labels, sure >= self.settings.confidence

    def _pixels(self, chosen: Ints) -> Tensor:
        return torch.from_numpy(self.unlabelled.images.images(chosen)).float()

    def loss(self, logits: Tensor, batch: MixedBatch) -> Tensor:
        """How far the student is from the teacher's confident labels."""
        loss = segmentation_loss if self._segments else classification_loss
        return loss(logits, batch.labels, batch.confident)

    def weight(self, step: int) -> float:
        """Weight of that loss at a step, counted from the one at which they joined."""
        return self.settings.unlabelled_weight * min(1.0, (step + 1) / max(1, self.settings.ramp))


class SettledTeacher(MeanTeacher):
    """Labels unlabelled images with weights that stay as they are: each image once, and for good."""

    @cached_property
    def _order(self) -> Ints:
        """The images in the order in which they are first shown."""
        return epoch_batch(self.unlabelled.indices, 0, len(self.unlabelled.indices), self._key)

    @cached_property
    def _place(self) -> dict[int, int]:
        """Where in that order each image is."""
        return {image: place for place, image in enumerate(self._order.tolist())}

    @cached_property
    def _known(self) -> dict[int, Tensor]:
        """The labels of those images that are shown in a step, by its number, once they are known."""
        return {}

    def _labelled(self, chosen: Ints, seed: int, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Turn images, and the labels that they have as they are, all of which count."""
        pixels, labels = self._pixels(chosen), self._labels_of(chosen)
        if self._segments:
            seen, labels = self._turn(pixels, labels, seed)
        else:
            seen, _ = self._turn(pixels, _nothing(pixels), seed)
        labels = labels.to(self.model.device)
        return seen, labels, torch.ones_like(labels, dtype=torch.bool)

    def _labels_of(self, chosen: Ints) -> Tensor:
        """Labels of images, which are found step by step as they are first shown, and so again when a run goes on.

        For what else is in a batch changes the last bits.
        """
        places = [divmod(self._place[image], self._shown) for image in chosen.tolist()]
        for step in sorted({step for step, _ in places} - self._known.keys()):
            shown = self._order[step * self._shown :][: self._shown]
            self._known[step] = self.model.predict(self._pixels(shown), True, self.weights).argmax(1).short().cpu()
        return torch.stack([self._known[step][number] for step, number in places]).long()


@dataclass
class SafetyNet:
    """Notices a teacher that has gone astray: one that finds far too much or too little, or forgets what is labelled.

    Attributes:
        foreground: Share of the foreground in the labelled images; None where there is no such thing.
        loss: The teacher's loss on clean labelled images when the unlabelled ones joined.
        outside: Steps for which the teacher's foreground has lain outside, without a break.
    """

    foreground: float | None
    loss: float
    outside: int = 0

    def after_step(self, found: float) -> str | None:
        """Look at the teacher's foreground share in the unlabelled images: why not to go on, None if all is well."""
        if self.foreground is None:
            return None
        low, high = (limit * self.foreground for limit in FOREGROUND)
        self.outside = 0 if low <= found <= high else self.outside + 1
        if self.outside < WATCHED_STEPS:
            return None
        return (
            f"the teacher marks {found:.1%} of the unlabelled images, but {self.foreground:.1%} of the labelled ones "
            f"are marked"
        )

    def after_test(self, loss: float) -> str | None:
        """Look at the teacher's loss on clean labelled images: why not to go on, None if all is well."""
        if loss <= FORGOTTEN * self.loss + FORGOTTEN_LOSS:
            return None
        return f"the teacher's loss on the labelled images rose from {self.loss:.3f} to {loss:.3f}"


def _nothing(pixels: Tensor) -> Tensor:
    """Masks of nothing `(B, S, S)`, for images that are changed without any."""
    return torch.zeros(len(pixels), *pixels.shape[-2:], dtype=torch.long)


def epoch_batch(indices: Ints, step: int, size: int, key: tuple[int, ...]) -> Ints:
    """Choose the images of a step: epochs in random order, one running into the next.

    Args:
        indices: All images.
        step: From 0.
        size: Number of images in a step.
        key: Decides the order.
    """
    count = len(indices)
    places = np.arange(step * size, (step + 1) * size)
    epochs = {
        int(epoch): np.random.default_rng((*key, int(epoch))).permutation(count) for epoch in np.unique(places // count)
    }
    return indices[[epochs[int(place // count)][place % count] for place in places]]
