"""Losses: what is ignored weighs nothing, and what is left weighs as if it were all."""

import pytest
import torch
from torch.nn import functional

from downstream.finetuning.losses import IGNORED, segmentation_loss, soft_dice_loss


def some(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, targets of which a third is ignored, and which pixels are known."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 5, 6, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, classes, (2, 5, 6), generator=generator)
    known = torch.rand(2, 5, 6, generator=generator) > 1 / 3
    return logits.requires_grad_(), torch.where(known, targets, IGNORED), known


@pytest.mark.parametrize("classes", [2, 3])
def test_ignored_pixels_have_no_gradient_and_do_not_change_the_loss(classes: int) -> None:
    logits, targets, known = some(classes)
    loss = segmentation_loss(logits, targets)
    loss.backward()
    assert logits.grad is not None
    gradient = logits.grad.movedim(1, -1)
    assert (gradient[~known] == 0).all()
    assert (gradient[known] != 0).all()
    others = torch.where(known[:, None], logits.detach(), 100 * torch.randn_like(logits))
    assert segmentation_loss(others, targets) == loss.detach()


def test_the_loss_is_that_of_the_known_pixels_alone() -> None:
    logits, targets, known = some()
    # as one image whose only row is made of them
    alone = logits.movedim(1, -1)[known].T[None, :, None]
    expected = functional.cross_entropy(alone, targets[known][None, None])
    expected = expected + soft_dice_loss(alone, targets[known][None, None])
    assert segmentation_loss(logits, targets).item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_batch_in_which_all_is_ignored_has_a_loss_of_0() -> None:
    logits, targets, _ = some()
    loss = segmentation_loss(logits, torch.full_like(targets, IGNORED))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
