"""The mean teacher: what it labels and what counts, by hand; when it is trusted, and what happens when it is not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from ahm_env import ImageSet, SettingsError
from downstream.finetuning import mean_teacher, training
from downstream.finetuning.losses import segmentation_loss, soft_dice_loss
from downstream.finetuning.mean_teacher import MeanTeacher, SafetyNet, SettledTeacher, Unlabelled, epoch_batch
from downstream.finetuning.mixing import mixing_masks
from downstream.finetuning.settings import TrainConfig
from downstream.finetuning.training import Trainer
from downstream.models.model import Model, ModelSpec
from tests.downstream.tiny import assert_equal, copies

LABELLED, UNLABELLED = np.arange(4), np.arange(4, 20)
QUICK = TrainConfig(
    steps=12, batch_size=4, augment="flips", ema_decay=0.9, unlabelled="auto", join=0.5, unlabelled_batch=3, ramp=4
)
CLASSIFIER = {"task": "classification", "values": ()}


class Marked(MeanTeacher):
    """A teacher whose answer is read off the pixels: sure of what is far from 128, foreground above."""

    def batch(self, step, weights=None):
        self.model.predict = self._answer  # type: ignore[method-assign]
        return super().batch(step, weights)

    def _answer(self, images, tta=False, weights=None):
        bright = (images.mean(1, keepdim=True) / 255).clamp(0.001, 0.999)
        return torch.cat([1 - bright, bright], 1)


def make_trainer(
    spec: ModelSpec, drawn: ImageSet, config: TrainConfig = QUICK, seed: int = 0, unlabelled=UNLABELLED
) -> Trainer:
    others = None if config.unlabelled == "none" else Unlabelled(drawn, unlabelled)
    return Trainer(Model.create(spec, 1), drawn, LABELLED, config, seed, others)


def of_task(spec: ModelSpec, drawn: ImageSet, task: str) -> ModelSpec:
    return spec if task == "segmentation" else replace(spec, **CLASSIFIER, classes=drawn.classes)


# Losses


def test_only_pixels_that_count_are_learned_and_few_weigh_little():
    logits = torch.tensor([[0.2, 0.6], [0.8, 0.4]]).log().reshape(1, 2, 1, 2)
    targets, counted = torch.tensor([[[1, 0]]]), torch.tensor([[[True, False]]])
    entropy = -np.log(0.8) / 2  # of one pixel, over both
    dice = 1 - (2 * 0.8 + 1) / (0.8 + 1 + 1)
    assert segmentation_loss(logits, targets, counted).item() == pytest.approx(entropy + dice, rel=1e-6)
    everything = torch.ones_like(counted)
    assert segmentation_loss(logits, targets, everything).item() == pytest.approx(
        segmentation_loss(logits, targets).item(), rel=1e-6
    )


def test_pixels_that_do_not_count_have_no_gradient():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 3, (2, 4, 4), generator=generator)
    counted = torch.rand(2, 4, 4, generator=generator) < 0.5
    segmentation_loss(logits, targets, counted).backward()
    assert not logits.grad.movedim(1, -1)[~counted].any()
    assert logits.grad.movedim(1, -1)[counted].any()
    assert torch.autograd.gradcheck(lambda one: segmentation_loss(one, targets, counted), (logits,))
    nothing = segmentation_loss(logits, targets, torch.zeros_like(counted))
    assert nothing.item() == pytest.approx(0, abs=1e-6)  # nothing asked, nothing missed
    assert soft_dice_loss(logits, targets, torch.zeros_like(counted)).item() == pytest.approx(0, abs=1e-6)


# What the student is shown


def test_labels_are_mixed_by_the_mask_that_mixes_the_images(spec: ModelSpec, drawn: ImageSet):
    model = Model.create(spec, 1)
    settings = TrainConfig(unlabelled="auto", unlabelled_batch=6, confidence=0.7)
    teacher = Marked(model, {}, Unlabelled(drawn, UNLABELLED), settings, 3)
    turned = []
    teacher._turn = lambda images, masks, seed: (turned.append(images) or images, masks)  # type: ignore[assignment]
    teacher._recolour = lambda images, masks, seed: (images, masks)  # type: ignore[assignment]
    batch = teacher.batch(5)
    first, second = turned[0][:6], turned[0][6:]
    masks = mixing_masks("box", 6, 16, (3, 5, 2, 1))
    expected = torch.where(masks, second, first)
    assert torch.equal(batch.pixels, expected)
    bright = expected.mean(1) / 255
    assert torch.equal(batch.labels, (bright > 0.5).long())
    assert torch.equal(batch.confident, (bright >= 0.7) | (bright <= 0.3))
    assert batch.foreground == pytest.approx(float((turned[0].mean(1) / 255 > 0.5).float().mean()))
    assert 0 < batch.confident.float().mean() < 1


def test_nothing_mixed_shows_whole_images(spec: ModelSpec, drawn: ImageSet):
    settings = TrainConfig(unlabelled="auto", unlabelled_batch=4, mix="none")
    teacher = MeanTeacher(Model.create(spec, 1), {}, Unlabelled(drawn, UNLABELLED), settings, 3)
    teacher._turn = lambda images, masks, seed: (images, masks)  # type: ignore[assignment]
    teacher._recolour = lambda images, masks, seed: (images, masks)  # type: ignore[assignment]
    assert len(teacher.batch(0).pixels) == 4
    epoch = [teacher.batch(step).pixels.byte().numpy() for step in range(4)]
    assert len({image.tobytes() for image in np.concatenate(epoch)}) == len(UNLABELLED)  # each once, none in vain
    shown = {image.numpy().tobytes() for image in teacher.batch(0).pixels.byte()}
    assert shown <= {drawn.images(index).tobytes() for index in UNLABELLED}


def test_the_teacher_sees_colours_as_they_are_and_the_student_does_not(spec: ModelSpec, drawn: ImageSet):
    teacher = MeanTeacher(Model.create(spec, 1), {}, Unlabelled(drawn, UNLABELLED), TrainConfig(strong="colour"), 0)
    seen = []
    predict = teacher.model.predict
    teacher.model.predict = lambda images, *more: (seen.append(images), predict(images, *more))[1]  # type: ignore
    batch = teacher.batch(0)
    values = set(np.unique(drawn.images(UNLABELLED).mean((0, 2, 3)).round()))
    assert len(seen) == 1
    assert seen[0].shape == (16, 3, 16, 16)
    assert abs(float(seen[0].mean()) - np.mean(list(values))) < 40
    assert not torch.equal(batch.pixels, seen[0][:8])


def test_the_teacher_computes_with_the_running_mean_and_its_buffers(spec: ModelSpec, drawn: ImageSet):
    student, other = Model.create(spec, 1), Model.create(spec, 2)
    with torch.no_grad():
        for _name, buffer in other.network.named_buffers():
            if buffer.is_floating_point():
                buffer.add_(0.3)
    weights = {name: one for name, one in other.network.state_dict().items() if one.is_floating_point()}
    pixels = torch.from_numpy(drawn.images(UNLABELLED)).float()
    before = copies(student.network.state_dict())
    torch.testing.assert_close(student.predict(pixels, False, weights), other.predict(pixels))
    assert not torch.allclose(student.predict(pixels), other.predict(pixels))
    assert_equal(before, student.network.state_dict())


def test_every_unlabelled_image_is_shown_once_an_epoch():
    shown = np.concatenate([epoch_batch(UNLABELLED, step, 6, (1, 2)) for step in range(8)])
    assert all(sorted(shown[start : start + 16]) == UNLABELLED.tolist() for start in (0, 16, 32))
    assert shown[:16].tolist() != shown[16:32].tolist()


def settled(spec: ModelSpec, drawn: ImageSet, **settings: object) -> SettledTeacher:
    model = Model.create(spec, 1)
    weights = {name: one.clone() for name, one in Model.create(spec, 2).network.state_dict().items()}
    config = TrainConfig(unlabelled="auto", unlabelled_batch=3, **settings)  # type: ignore[arg-type]
    return SettledTeacher(model, weights, Unlabelled(drawn, UNLABELLED), config, 3)


def redness(images: torch.Tensor, *_: object) -> torch.Tensor:
    """Class 1 where there is more red than green."""
    return torch.cat([images[:, 1:2], images[:, :1]], 1) / 510


def parity(images: torch.Tensor, *_: object) -> torch.Tensor:
    """Class 1 for images whose pixels have an odd sum."""
    odd = images.sum((1, 2, 3)) % 2
    return torch.stack([1 - odd, odd], 1)


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_settled_teacher_labels_each_image_once_as_it_is_and_all_of_it_counts(spec, drawn: ImageSet, task: str):
    teacher = settled(of_task(spec, drawn, task), drawn, mix="none", confidence=0.99)
    teacher._recolour = lambda images, masks, seed: (images, masks)  # type: ignore[assignment]
    seen = list[torch.Tensor]()
    predict = redness if task == "segmentation" else parity
    teacher.model.predict = lambda images, *_: (seen.append(images), predict(images))[1]  # type: ignore
    batches = [teacher.batch(step) for step in range(16)]  # three epochs
    labelled = torch.cat(seen).byte()
    assert sorted(one.numpy().tobytes() for one in labelled) == sorted(
        drawn.images(index).tobytes() for index in UNLABELLED
    )
    truth = predict(torch.from_numpy(drawn.images(UNLABELLED)).float()).argmax(1)
    turn, step = teacher._turn, 13
    chosen = epoch_batch(UNLABELLED, step, 3, (3, 2, 2))
    seed = np.random.default_rng((3, step, 2)).integers(2**31, size=2).tolist()[0]
    labels = truth[chosen - UNLABELLED[0]]
    if task == "segmentation":
        pixels, labels = turn(torch.from_numpy(drawn.images(chosen)).float(), labels, seed)
        assert torch.equal(batches[step].pixels, pixels)
    assert torch.equal(batches[step].labels, labels)
    assert all(batch.confident.all() for batch in batches)
    assert 0 < truth.float().mean() < 1


def test_a_settled_teacher_that_goes_on_in_the_middle_says_the_same(spec: ModelSpec, drawn: ImageSet):
    whole, later = settled(spec, drawn), settled(spec, drawn)
    whole.model.predict = redness  # type: ignore[method-assign]
    batches = [whole.batch(step) for step in range(9)]
    groups = list[int]()
    later.model.predict = lambda images, *_: (groups.append(len(images)), redness(images))[1]  # type: ignore
    for step in (7, 8):
        batch = later.batch(step)
        assert torch.equal(batch.pixels, batches[step].pixels)
        assert torch.equal(batch.labels, batches[step].labels)
    assert set(groups) <= {6, 4}  # those of the first epoch: 16 images by six


# When they take part


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_until_they_join_all_is_the_same_bit_for_bit(spec: ModelSpec, drawn: ImageSet, task: str):
    spec = of_task(spec, drawn, task)
    with_them = make_trainer(spec, drawn)
    without = make_trainer(spec, drawn, replace(QUICK, unlabelled="none"))
    for step in range(6):
        assert with_them.learn() == without.learn(), step
        assert with_them.joined is None
        assert np.isnan(with_them.unlabelled_loss)
    assert_equal(with_them.state(), without.state())
    with_them.learn()
    without.learn()
    assert with_them.joined == 6
    assert np.isfinite([with_them.unlabelled_loss, with_them.confident]).all()
    assert not torch.equal(with_them.average["inc.double_conv.0.weight"], without.average["inc.double_conv.0.weight"])


def test_the_weight_of_their_loss_rises_and_labelled_and_mixed_images_make_one_batch(spec: ModelSpec, drawn: ImageSet):
    trainer = make_trainer(spec, drawn, replace(QUICK, confidence=0.0, augment="none"))
    for _ in range(7):
        trainer.learn()
    sizes, logits = [], trainer.model.logits

    def watched(images, weights=None):
        sizes.append((len(images), weights is not None))
        return logits(images, weights)

    trainer.model.logits = watched  # type: ignore[method-assign]
    trainer.learn()
    assert sizes == [(6, True), (7, False)]
    assert trainer.teacher is not None
    assert [trainer.teacher.weight(step) for step in (0, 1, 3, 50)] == [0.25, 0.5, 1, 1]


def test_the_gradient_is_that_of_the_weighted_mean_of_both_losses(spec: ModelSpec, drawn: ImageSet):
    spec = replace(spec, norm="group")  # without running statistics the same pass can be made again
    trainer = make_trainer(spec, drawn, replace(QUICK, confidence=0.0, augment="none", join=0.0, ramp=1))
    assert trainer.teacher is not None
    model = Model.create(spec, 1)
    mixed = trainer.teacher.batch(0)
    pixels, targets = trainer._labelled_batch()
    trainer.learn()
    logits = model.logits(torch.cat([pixels, mixed.pixels]))
    loss = segmentation_loss(logits[:4], targets) + segmentation_loss(logits[4:], mixed.labels, mixed.confident)
    (loss / 2).backward()
    for ours, theirs in zip(trainer.model.network.parameters(), model.network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("step", [3, 6, 7, 9])
def test_going_on_from_any_step_is_one_run_bit_for_bit(spec: ModelSpec, drawn: ImageSet, task: str, step: int):
    spec = of_task(spec, drawn, task)
    config = replace(QUICK, confidence=0.4)
    whole = make_trainer(spec, drawn, config)
    for _ in range(step):
        whole.learn()
    state, progress = copies(whole.state()), whole.progress()
    losses = [(whole.learn(), whole.confident) for _ in range(12 - step)]
    resumed = make_trainer(spec, drawn, config)
    resumed.learn()  # is undone
    resumed.restore(state, progress)
    torch.rand(3)  # global generators do not matter
    assert np.array_equal([(resumed.learn(), resumed.confident) for _ in range(12 - step)], losses, equal_nan=True)
    assert_equal(resumed.state(), whole.state())
    assert resumed.progress() == whole.progress()


def test_no_teacher_without_a_running_mean():
    with pytest.raises(SettingsError, match="--ema-decay 0 leaves no teacher"):
        TrainConfig(unlabelled="auto", ema_decay=0.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("mix", "cut"), ("strong", "loud"), ("join", 1.0), ("confidence", 1.0), ("unlabelled_weight", 0.0), ("ramp", -1)],
)
def test_a_setting_out_of_range_is_named(name: str, value: object):
    with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')} "):
        TrainConfig(**{name: value})


# When the teacher goes astray


def test_the_net_counts_steps_outside_without_a_break():
    net = SafetyNet(foreground=0.1, loss=0.2)
    reasons = [net.after_step(found) for found in [0.019] * 199 + [0.021] + [0.51] * 199]
    assert reasons == [None] * 399
    told = str(net.after_step(0.501))
    assert told == "the teacher marks 50.1% of the unlabelled images, but 10.0% of the labelled ones are marked"
    assert net.after_test(0.45) is None
    assert "rose from 0.200 to 0.451" in str(net.after_test(0.451))
    assert SafetyNet(0.1, loss=0.001).after_test(0.05) is None  # twice nearly nothing is nothing


@pytest.mark.slow
def test_a_teacher_gone_astray_leaves_the_supervised_model_bit_for_bit(spec, drawn: ImageSet, monkeypatch):
    monkeypatch.setattr(mean_teacher, "FOREGROUND", (5.0, 5.1))  # nobody is inside
    monkeypatch.setattr(mean_teacher, "WATCHED_STEPS", 4)
    trainer = make_trainer(spec, drawn, replace(QUICK, confidence=0.0))
    steps = 0
    while trainer.step < 12:
        trainer.learn()
        steps += 1
    assert steps == 12 + 4  # four were taken back
    assert "the teacher marks" in str(trainer.gave_up)
    assert (trainer.joined, trainer.teacher) == (None, None)
    without = make_trainer(spec, drawn, replace(QUICK, unlabelled="none"))
    for _ in range(12):
        without.learn()
    assert_equal(trainer.state(), without.state())
    assert_equal(trainer.result(), without.result())


def test_a_teacher_that_forgets_what_is_labelled_is_noticed(spec: ModelSpec, drawn: ImageSet, monkeypatch):
    monkeypatch.setattr(training, "CHECKED_STEPS", 2)
    trainer = make_trainer(spec, drawn)
    for _ in range(7):
        trainer.learn()
    assert trainer._net is not None
    trainer._net.loss = 1e-9
    trainer.learn()
    assert "loss on the labelled images rose from 0.000" in str(trainer.gave_up)
    assert not trainer._supervised
    assert trainer.step == 6


def test_the_loss_on_clean_images_is_the_teacher_s(spec: ModelSpec, drawn: ImageSet):
    trainer = make_trainer(spec, drawn)
    for _ in range(3):
        trainer.learn()
    model = Model.create(spec, 0)
    model.network.load_state_dict(trainer.result())
    model.network.eval()
    targets = torch.from_numpy(drawn.masks(LABELLED).astype(np.int64))
    logits = model.logits(torch.from_numpy(drawn.images(LABELLED)).float())
    expected = functional.cross_entropy(logits, targets) + soft_dice_loss(logits, targets)
    loss, foreground = trainer._clean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert foreground == pytest.approx(float((targets > 0).float().mean()))
