"""What training brings down: cross-entropy, and one minus the soft Dice."""

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -1  # in place of a class number: a pixel that nothing is learned from


def segmentation_loss(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """Cross-entropy plus soft Dice loss.

    Args:
        logits: `(B, K, H, W)`.
        targets: `(B, H, W)` class numbers 0..K-1, or `IGNORED`; the loss depends on no logit of an ignored pixel.
        counted: `(B, H, W)` bool, the pixels that count; None is all that are not ignored. Cross-entropy is still
            divided by all of them, so that few pixels weigh little.
    """
    if counted is None:
        known = targets != IGNORED
        if known.all():
            return functional.cross_entropy(logits, targets) + soft_dice_loss(logits, targets)
        entropy = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
        return entropy / known.sum().clamp(min=1) + soft_dice_loss(logits, targets.clamp(min=0), known)
    entropy = functional.cross_entropy(logits, targets, reduction="none")
    return (entropy * counted).mean() + soft_dice_loss(logits, targets, counted)


def soft_dice_loss(logits: Tensor, targets: Tensor, counted: Tensor | None = None) -> Tensor:
    """One minus the soft Dice of every class but the background, over the batch (Milletari et al., 3DV 2016).

    Args:
        logits: `(B, K, H, W)`.
        targets: `(B, H, W)` class numbers 0..K-1.
        counted: `(B, H, W)` bool, the pixels that count; None is all.
    """
    probabilities = logits.softmax(1)[:, 1:]
    truth = functional.one_hot(targets, logits.shape[1]).movedim(-1, 1)[:, 1:].to(probabilities.dtype)
    if counted is not None:
        probabilities, truth = probabilities * counted[:, None], truth * counted[:, None]
    both = (probabilities * truth).sum((0, 2, 3))
    return 1 - ((2 * both + 1) / ((probabilities + truth).sum((0, 2, 3)) + 1)).mean()


def classification_loss(
    logits: Tensor, targets: Tensor, counted: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy.

    Args:
        logits: `(B, K)`.
        targets: `(B,)` class numbers 0..K-1.
        counted: `(B,)` bool, the images that count; None is all. The sum is still divided by all of them.
        weights: `(K,)` of the classes; not with `counted`.
    """
    if counted is None:
        return functional.cross_entropy(logits, targets, weights)
    return (functional.cross_entropy(logits, targets, reduction="none") * counted).mean()


def class_weights(counts: Tensor) -> Tensor:
    """Weights by which every class counts alike, however rare: B / (K · B_k); `counts` is `(K,)`."""
    return (counts.sum() / (len(counts) * counts.clamp(min=1))).to(torch.float32)
