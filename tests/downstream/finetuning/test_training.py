"""Training: losses and schedules by hand, every image in its turn, and any step again."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from ahm_env import ImageSet, SettingsError, TrainingError
from downstream.finetuning.losses import IGNORED, segmentation_loss, soft_dice_loss
from downstream.finetuning.settings import TrainConfig
from downstream.finetuning.training import Trainer
from downstream.models.model import Model, ModelSpec
from tests.downstream.tiny import assert_equal, copies


class Few:
    """A few images of 16 px in memory, which remember who was asked for."""

    source = "few"

    def __init__(self, count: int = 8, values: tuple[int, ...] = (0, 1), labels: tuple[int, ...] = ()) -> None:
        rng = np.random.default_rng(0)
        self._images = rng.integers(0, 256, (count, 3, 16, 16), np.uint8)
        self._masks = np.array(values, np.uint8)[rng.integers(0, len(values), (count, 4, 4))].repeat(4, 1).repeat(4, 2)
        self._labels = np.resize(np.array(labels or (0, 1), np.int64), count)
        self.asked: list[int] = []

    def images(self, indices):
        self.asked += indices.tolist()
        return self._images[indices]

    def masks(self, indices):
        return self._masks[indices]

    def labels(self, indices):
        return self._labels[indices]


QUICK = TrainConfig(steps=8, batch_size=4, augment="none")
CLASSIFIER = {"task": "classification", "classes": ("benign", "malignant"), "values": ()}


def make_trainer(spec: ModelSpec, config: TrainConfig = QUICK, images=None, labelled=None, seed: int = 0) -> Trainer:
    images = images or Few()
    labelled = np.arange(8) if labelled is None else labelled
    return Trainer(Model.create(spec, 1), images, labelled, config, seed)


# Losses


def test_the_soft_dice_loss_by_hand():
    # two pixels: foreground with probabilities 0.8 and 0.4, of which the first is true
    logits = torch.tensor([[0.2, 0.6], [0.8, 0.4]]).log().reshape(1, 2, 1, 2)
    expected = 1 - (2 * 0.8 + 1) / ((0.8 + 0.4 + 1) + 1)
    assert soft_dice_loss(logits, torch.tensor([[[1, 0]]])).item() == pytest.approx(expected, rel=1e-6)


def test_the_soft_dice_loss_of_two_classes_over_a_batch_by_hand():
    # one pixel an image, two images; the mean over classes 1 and 2, each summed over the batch
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]).log().reshape(2, 3, 1, 1)
    first = 1 - (2 * 0.3 + 1) / (0.3 + 0.2 + 1 + 1)
    second = 1 - (2 * 0.7 + 1) / (0.2 + 0.7 + 1 + 1)
    loss = soft_dice_loss(logits, torch.tensor([[[1]], [[2]]]))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_gradient_of_the_soft_dice_loss_is_that_of_finite_differences(classes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, classes, (2, 3, 4), generator=generator)
    assert torch.autograd.gradcheck(lambda one: soft_dice_loss(one, targets), (logits,))


@given(st.integers(0, 1000), st.integers(2, 4))
def test_the_soft_dice_loss_lies_between_0_and_1_and_is_0_for_what_is_right(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (2, 5, 5), generator=generator)
    logits = torch.randn(2, classes, 5, 5, generator=generator)
    assert 0 < soft_dice_loss(logits, targets) < 1
    right = functional.one_hot(targets, classes).movedim(-1, 1) * 100.0
    assert soft_dice_loss(right, targets).item() == pytest.approx(0, abs=1e-6)
    wrong = functional.one_hot((targets + 1) % classes, classes).movedim(-1, 1) * 100.0
    assert soft_dice_loss(wrong, targets) > 0.7


def test_background_that_is_found_to_be_background_does_not_count():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(1, 2, 4, 4, generator=generator), torch.randint(0, 2, (1, 4, 4), generator=generator)
    sure = torch.stack([torch.full((1, 60, 4), 200.0), torch.full((1, 60, 4), -200.0)], 1)
    more = soft_dice_loss(
        torch.cat([logits, sure], 2), torch.cat([targets, torch.zeros(1, 60, 4, dtype=torch.long)], 1)
    )
    assert more.item() == pytest.approx(soft_dice_loss(logits, targets).item(), rel=1e-6)


def test_the_loss_of_segmentation_is_cross_entropy_and_soft_dice_of_the_classes_that_the_values_stand_for(
    spec: ModelSpec,
):
    images = Few(values=(0, 2, 5))
    spec = replace(spec, classes=("background", "2", "5"), values=(0, 2, 5))
    trainer = make_trainer(spec, replace(QUICK, batch_size=8), images)
    model = copy.deepcopy(trainer.model)
    model.network.train()
    loss = trainer.learn()
    chosen = np.array(images.asked)
    targets = torch.from_numpy(np.select([images.masks(chosen) == 2, images.masks(chosen) == 5], [1, 2], 0))
    logits = model.logits(torch.from_numpy(images.images(chosen)).float())
    picked = logits.log_softmax(1).gather(1, targets[:, None])
    assert loss == pytest.approx((soft_dice_loss(logits, targets) - picked.mean()).item(), rel=1e-5)


def test_what_is_ignored_is_neither_learned_from_nor_part_of_the_foreground(spec: ModelSpec):
    images = Few(values=(0, 1, 255))
    trainer = make_trainer(replace(spec, ignore=255), replace(QUICK, batch_size=8), images)
    masks = images.masks(np.arange(8))
    foreground = trainer._clean()[1]
    assert foreground == pytest.approx((masks == 1).sum() / (masks != 255).sum())
    model = copy.deepcopy(trainer.model)
    model.network.train()
    images.asked.clear()
    loss = trainer.learn()
    chosen = np.array(images.asked)
    targets = torch.from_numpy(images.masks(chosen).astype(np.int64))
    targets[targets == 255] = IGNORED
    logits = model.logits(torch.from_numpy(images.images(chosen)).float())
    assert loss == pytest.approx(segmentation_loss(logits, targets).item(), rel=1e-5)


@pytest.mark.parametrize(("balance", "weights"), [(True, (8 / (2 * 6), 8 / (2 * 2))), (False, (1.0, 1.0))])
def test_rare_classes_count_as_much_as_frequent_ones(spec: ModelSpec, balance: bool, weights: tuple[float, float]):
    images = Few(labels=(0, 0, 0, 1))  # six of one, two of the other
    trainer = make_trainer(replace(spec, **CLASSIFIER), replace(QUICK, batch_size=8, class_weights=balance), images)
    model = copy.deepcopy(trainer.model)
    model.network.train()
    loss = trainer.learn()
    chosen = np.array(images.asked)
    logs = model.logits(torch.from_numpy(images.images(chosen)).float()).log_softmax(1).detach().numpy()
    own = np.array(weights)[images.labels(chosen)]
    expected = -(own * logs[np.arange(8), images.labels(chosen)]).sum() / own.sum()
    assert loss == pytest.approx(expected, rel=1e-5)


# Steps


@pytest.mark.slow
@pytest.mark.parametrize("task", [{}, CLASSIFIER])
@pytest.mark.parametrize("step", [0, 1, 5])
def test_going_on_from_any_step_is_one_run_bit_for_bit(spec: ModelSpec, task: dict[str, object], step: int):
    spec = replace(spec, **task)
    config = replace(QUICK, augment="full", ema_decay=0.9, weight_decay=0.1)
    whole = make_trainer(spec, config)
    for _ in range(step):
        whole.learn()
    state = copies(whole.state())
    losses = [whole.learn() for _ in range(3)]
    resumed = make_trainer(spec, config)
    resumed.learn()  # is undone
    resumed.restore(state, {"step": step})
    torch.rand(3)  # global generators do not matter
    assert [resumed.learn() for _ in range(3)] == losses
    assert_equal(resumed.state(), whole.state())
    assert_equal(resumed.result(), whole.result())
    assert not torch.equal(state["network.inc.double_conv.0.weight"], whole.state()["network.inc.double_conv.0.weight"])


@pytest.mark.parametrize(("count", "size"), [(8, 3), (5, 8), (1, 2)])
def test_every_labelled_image_is_shown_once_an_epoch(spec: ModelSpec, count: int, size: int):
    images, labelled = Few(20), np.arange(3, 3 + count)
    trainer = make_trainer(spec, replace(QUICK, batch_size=size), images, labelled)
    for _ in range(8):
        trainer.learn()
    assert len(images.asked) == 8 * size
    epochs = [images.asked[start : start + count] for start in range(0, 8 * size - count + 1, count)]
    assert all(sorted(epoch) == labelled.tolist() for epoch in epochs)
    assert count == 1 or len({tuple(epoch) for epoch in epochs}) > 1


def test_the_order_depends_on_the_seed(spec: ModelSpec):
    orders = []
    for seed in (0, 0, 1):
        images = Few()
        make_trainer(spec, replace(QUICK, batch_size=8), images, seed=seed).learn()
        orders.append(images.asked)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("task", [{}, CLASSIFIER])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_step_changes_every_weight_by_a_finite_gradient(spec: ModelSpec, task: dict[str, object], norm: str):
    trainer = make_trainer(replace(spec, norm=norm, **task))
    before = copies(dict(trainer.model.network.named_parameters()))
    assert math.isfinite(trainer.learn())
    for name, weight in trainer.model.network.named_parameters():
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
        assert not weight.grad.any() or not torch.equal(weight, before[name])
    moved = [name for name, weight in trainer.model.network.named_parameters() if not torch.equal(weight, before[name])]
    assert len(moved) > len(before) * 0.9


def test_a_frozen_encoder_stays_as_it_is_and_its_norms_are_those_of_whole_images(spec: ModelSpec):
    trainer = make_trainer(replace(spec, **CLASSIFIER), replace(QUICK, freeze=True, ema_decay=0.0))
    network, images = trainer.model.network, Few()
    before = copies(network.state_dict())
    for _ in range(4):
        trainer.learn()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    moving = {"head.weight", "head.bias", *(name for name in before if name.startswith("standardise"))}
    assert changed == moving
    first = network.inc.double_conv[0]
    pixels = (torch.from_numpy(images.images(np.arange(8))).float() - trainer.model._mean) / trainer.model._std
    expected = first(pixels).mean((0, 2, 3))
    torch.testing.assert_close(before["inc.double_conv.1.running_mean"], expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_run_goes_on_from_any_step_bit_for_bit(spec: ModelSpec):
    config = replace(QUICK, freeze=True)
    whole = make_trainer(replace(spec, **CLASSIFIER), config)
    for _ in range(3):
        whole.learn()
    state = copies(whole.state())
    again = make_trainer(replace(spec, **CLASSIFIER), config)
    again.restore(state, {"step": 3})
    for one in (whole, again):
        one.learn()
    assert_equal(again.state(), whole.state())


@pytest.mark.slow
def test_a_few_images_are_learned(spec: ModelSpec, drawn: ImageSet):
    config = TrainConfig(steps=40, batch_size=8, augment="none", learning_rate=0.01)
    trainer = make_trainer(replace(spec, width=4), config, drawn, drawn.split("train")[:8])
    losses = [trainer.learn() for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


# Step sizes


def test_the_cosine_rises_over_a_twentieth_and_falls_to_a_hundredth(spec: ModelSpec):
    trainer = make_trainer(spec, replace(QUICK, steps=100, learning_rate=0.5))
    rates = []
    for trainer.step in range(101):
        rates.append(trainer.learning_rate)
    assert rates[0] == pytest.approx(0.5 / 5)
    assert rates[4] == pytest.approx(0.5 * (0.01 + 0.99 * (1 + math.cos(math.pi * 0.04)) / 2))
    assert rates[50] == pytest.approx(0.5 * (0.01 + 0.99 / 2))
    assert rates[100] == pytest.approx(0.5 * 0.01)
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)


def test_a_very_short_run_begins_with_the_full_step(spec: ModelSpec):
    assert make_trainer(spec, replace(QUICK, steps=4, learning_rate=0.5)).learning_rate == pytest.approx(0.5)


def test_the_published_schedule_takes_a_tenth_off_every_three_epochs(spec: ModelSpec):
    trainer = make_trainer(spec, replace(QUICK, steps=100, schedule="steps", learning_rate=0.5, batch_size=4))
    rates = []
    for trainer.step in range(14):  # two steps an epoch
        rates.append(trainer.learning_rate)
    assert rates == pytest.approx([0.5] * 6 + [0.5 * 0.9] * 6 + [0.5 * 0.81] * 2)


def test_a_step_is_made_with_the_step_size_that_is_told(spec: ModelSpec):
    trainer = make_trainer(spec)
    for _ in range(3):
        told = trainer.learning_rate
        trainer.learn()
        assert [group["lr"] for group in trainer.optimiser.param_groups] == [told]
    assert trainer.learning_rate != told


# The running mean


def test_the_running_mean_of_the_weights_by_hand(spec: ModelSpec):
    trainer = make_trainer(spec, replace(QUICK, ema_decay=0.2))
    expected = copies(trainer.model.network.state_dict())
    for step in range(1, 6):
        trainer.learn()
        decay = min(0.2, step / (step + 10))
        for name, tensor in trainer.model.network.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
    found = trainer.result()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
        else:
            assert tensor == 5  # batches that the normalisation has seen
    name = "inc.double_conv.0.weight"
    assert not torch.equal(found[name], trainer.model.network.state_dict()[name])


def test_without_a_running_mean_the_result_is_the_network(spec: ModelSpec):
    trainer = make_trainer(spec, replace(QUICK, ema_decay=0.0))
    trainer.learn()
    assert_equal(trainer.result(), dict(trainer.model.network.state_dict()))


# What goes wrong


def test_a_step_size_that_is_too_large_ends_with_a_typed_error_before_weights_are_lost(spec: ModelSpec):
    trainer = make_trainer(spec, replace(QUICK, learning_rate=1e36))
    trainer.learn()
    before = copies(dict(trainer.model.network.named_parameters()))
    with pytest.raises(TrainingError, match=r"no longer finite.*lower --learning-rate") as stop:
        trainer.learn()
    assert "\n" not in str(stop.value)
    assert_equal(copies(dict(trainer.model.network.named_parameters())), before)


def test_a_gradient_that_is_not_finite_is_no_step(spec: ModelSpec):
    trainer = make_trainer(spec)
    weight = trainer.model.network.inc.double_conv[0].weight
    weight.register_hook(lambda gradient: gradient * math.inf)
    before = copies(dict(trainer.model.network.named_parameters()))
    with pytest.raises(TrainingError, match="gradient"):
        trainer.learn()
    assert trainer.step == 0
    assert_equal(copies(dict(trainer.model.network.named_parameters())), before)


def test_without_a_labelled_image_there_is_nothing_to_learn(spec: ModelSpec):
    with pytest.raises(SettingsError, match="few: no labelled image to learn from"):
        make_trainer(spec, labelled=np.zeros(0, np.int64))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"steps": 0}, "--steps 0 must be 1 or more"),
        ({"batch_size": -1}, "--batch-size -1 must be 1 or more"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0 must be a positive number"),
        ({"learning_rate": math.nan}, "--learning-rate nan"),
        ({"learning_rate": math.inf}, "--learning-rate inf"),
        ({"schedule": "linear"}, "schedule 'linear' is unknown; choose cosine or steps"),
        ({"ema_decay": 1.0}, r"--ema-decay must be in \[0, 1\)"),
        ({"ema_decay": -0.1}, "--ema-decay"),
        ({"ema_decay": math.nan}, "--ema-decay"),
        ({"weight_decay": -1e-4}, "weight_decay a number that is at least 0"),
        ({"weight_decay": math.inf}, "weight_decay"),
        ({"weight_decay": math.nan}, "weight_decay"),
        ({"augment": "mixup"}, "--augment mixup is unknown"),
    ],
)
def test_a_recipe_out_of_range_is_refused_in_one_line(change: dict[str, object], text: str):
    with pytest.raises(SettingsError, match=text) as refusal:
        TrainConfig(**change)
    assert "\n" not in str(refusal.value)
