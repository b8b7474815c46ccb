"""Fine-tuned models: their file, what they compute, and what a start gives to them."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.pretraining.run_directory import RunDirectory
from agents.pretraining.settings import RunSettings
from ahm_env import CheckpointError, PatchGrid, Reconstructor, RunError, Standardisation, UNet
from ahm_env.files import load_tensors, save_tensors
from ahm_env.model.unet import initialise
from ahm_env.model.weights import save_unet
from downstream.models.model import ENCODER, Model, ModelSpec, PretrainedWeights

CLASSIFIER = {"task": "classification", "classes": ("a", "b", "c"), "values": ()}
STANDARDISATION = Standardisation((100.0,) * 3, (50.0,) * 3)


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16), np.uint8)


def random_unet(channels: int = 3, width: int = 2, norm: str = "batch", bilinear: bool = False) -> UNet:
    """A U-Net all of whose numbers, statistics among them, are none that a new one has."""
    unet = UNet(channels, channels, width, norm, bilinear)
    initialise(unet, torch.Generator().manual_seed(99))
    with torch.no_grad():
        for number, tensor in enumerate(unet.state_dict().values()):
            tensor.add_(number + 1 if not tensor.is_floating_point() else 0.5)
    return unet


# The file


@pytest.mark.parametrize("task", [{}, CLASSIFIER])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("bilinear", [False, True])
def test_a_model_is_the_same_after_a_file(spec: ModelSpec, tmp_path: Path, task: dict[str, object], norm, bilinear):
    model = Model.create(replace(spec, norm=norm, bilinear=bilinear, **task), 3)
    model.network.train()
    model.logits(torch.from_numpy(pictures(8)).float())  # statistics of its own
    model.save(tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = Model.load(path)
        assert loaded.spec == model.spec
        np.testing.assert_array_equal(loaded.probabilities(pictures()), model.probabilities(pictures()))


def test_weights_depend_on_the_seed_alone(spec: ModelSpec):
    outputs = []
    for seed in (1, 1, 2):
        torch.rand(3)
        outputs.append(Model.create(spec, seed).probabilities(pictures()))
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_a_directory_without_a_model_says_what_is_meant(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors; give the directory that `ahm finetune`"):
        Model.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere: no such file"):
        Model.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        {"task": None},
        {"task": "detection"},
        {"model": "resnet"},
        {"classes": 3},
        {"width": 4},
        {"width": 3},
        {"width": "two"},
        {"norm": "layer"},
        {"classes": ["a", "b", "c"]},
        {"bilinear": True},
    ],
)
def test_a_card_that_does_not_fit_the_weights_is_refused_by_name(spec: ModelSpec, tmp_path: Path, change):
    about = {**asdict(spec), **change}
    if change == {"task": None}:
        del about["task"]
    save_tensors(tmp_path / "odd.safetensors", Model.create(spec, 0).network.state_dict(), about)
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: not a fine-tuned model .*ahm finetune") as refusal:
        Model.load(tmp_path / "odd.safetensors")
    assert "\n" not in str(refusal.value)


@pytest.mark.slow
def test_a_pretrained_unet_is_no_fine_tuned_model(pretrained: Path):
    with pytest.raises(CheckpointError, match=r"unet\.safetensors: not a fine-tuned model"):
        Model.load(pretrained / "unet.safetensors")


@pytest.mark.parametrize("name", ["classes", "values", "mean", "width", "bilinear"])
def test_a_card_needs_every_field(spec: ModelSpec, name: str):
    about = asdict(spec)
    assert ModelSpec.from_dict(about) == spec
    assert ModelSpec.from_dict({**about, "classes": list(spec.classes), "more": 1}) == spec
    del about[name]
    with pytest.raises(KeyError, match=name):
        ModelSpec.from_dict(about)


# What it computes


@pytest.mark.parametrize(("task", "shape"), [({}, (3, 2, 16, 16)), (CLASSIFIER, (3, 3))])
@pytest.mark.parametrize("tta", [False, True])
def test_probabilities_sum_to_1(spec: ModelSpec, task: dict[str, object], shape: tuple[int, ...], tta: bool):
    found = Model.create(replace(spec, **task), 0).probabilities(pictures(), tta)
    assert (found.shape, found.dtype) == (shape, np.float32)
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


def test_images_are_standardised_by_the_card(spec: ModelSpec):
    spec = replace(spec, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 8.0))
    model = Model.create(spec, 0)
    model.network.eval()
    pixels = torch.from_numpy(pictures()).float()
    mean, std = (torch.tensor(numbers).reshape(1, 3, 1, 1) for numbers in (spec.mean, spec.std))
    with torch.no_grad():
        expected = model.network((pixels - mean) / std)
        torch.testing.assert_close(model.logits(pixels), expected)
        np.testing.assert_allclose(model.probabilities(pictures()), expected.softmax(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", [{}, CLASSIFIER])
def test_flips_are_the_mean_over_four_mirrored_predictions(spec: ModelSpec, task: dict[str, object]):
    model = Model.create(replace(spec, **task), 0)
    model.network.train()
    model.logits(torch.from_numpy(pictures(8)).float())
    found = []
    for axes in ((), (3,), (2,), (2, 3)):
        one = model.probabilities(np.ascontiguousarray(np.flip(pictures(), axes)))
        found.append(np.flip(one, axes) if one.ndim == 4 else one)
    np.testing.assert_allclose(model.probabilities(pictures(), tta=True), np.mean(found, 0), atol=1e-6)
    assert not np.array_equal(found[0], found[1])


def test_predicting_teaches_nothing(spec: ModelSpec):
    model = Model.create(spec, 0)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    model.network.train()
    first = model.probabilities(pictures())
    np.testing.assert_array_equal(model.probabilities(pictures()), first)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())


def test_a_classifier_is_what_the_deep_levels_hold_of_the_image_and_a_linear_layer(spec: ModelSpec):
    model = Model.create(replace(spec, **CLASSIFIER), 0)
    unet = UNet(3, 3, 2)
    weights = {name: tensor for name, tensor in model.network.state_dict().items() if not name.startswith("head")}
    unet.load_state_dict(weights, strict=False)
    unet.eval()
    model.network.eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pooled = []
        for level in unet.encode(images)[2:]:
            values = level.flatten(2)
            pooled += [values.mean(2), (values.var(2, correction=0) + 1e-5).sqrt(), values.max(2).values]
        expected = model.network.head(model.network.standardise(torch.cat(pooled, 1)))
        torch.testing.assert_close(model.network(images), expected)


# Starts


@pytest.mark.parametrize(("task", "encoder_only"), [({}, False), ({}, True), (CLASSIFIER, False), (CLASSIFIER, True)])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_everything_but_the_last_layer_is_taken_over_or_the_encoder(
    spec: ModelSpec, task, encoder_only: bool, norm: str
):
    unet = random_unet(norm=norm)
    model = Model.create(replace(spec, norm=norm, **task), 0)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    PretrainedWeights("run", unet, None, {}).transfer(model, encoder_only)
    given, copied = unet.state_dict(), set()
    for name, tensor in model.network.state_dict().items():
        if name in given and given[name].shape == tensor.shape and torch.equal(tensor, given[name]):
            copied.add(name)
        else:
            assert torch.equal(tensor, before[name])
    only_encoder = encoder_only or bool(task)
    parts = {*ENCODER} if only_encoder else {*ENCODER, "up1", "up2", "up3", "up4"}
    assert copied == {name for name in given if name.partition(".")[0] in parts}
    assert not any(name.startswith(("outc", "head")) for name in copied)


def test_scratch_gives_nothing(spec: ModelSpec):
    start = PretrainedWeights.find("scratch")
    assert (start.unet, start.standardisation, dict(start.run)) == (None, None, {})
    model = Model.create(spec, 0)
    before = model.probabilities(pictures())
    start.transfer(model, False)
    np.testing.assert_array_equal(model.probabilities(pictures()), before)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (
            {"width": 4},
            r"run: its U-Net \(width 4, 3 channels, norm batch\) does not fit the model \(width 2, 3 channels",
        ),
        ({"channels": 1}, r"1 channels, norm batch\) does not fit the model \(width 2, 3 channels, norm batch\)"),
        ({"norm": "group"}, r"norm group\) does not fit .*norm batch"),  # whose tensors are some of those of norm batch
    ],
)
def test_a_unet_of_other_shapes_is_refused(spec: ModelSpec, other: dict[str, object], text: str):
    unet = random_unet(**other)
    model = Model.create(spec, 0)
    before = model.probabilities(pictures())
    with pytest.raises(CheckpointError, match=text):
        PretrainedWeights("run", unet, None, {}).transfer(model, False)
    np.testing.assert_array_equal(model.probabilities(pictures()), before)


def test_a_run_gives_its_unet_its_standardisation_and_its_settings(pretrained: Path, spec: ModelSpec):
    start = PretrainedWeights.find(str(pretrained))
    weights, about = load_tensors(pretrained / "unet.safetensors")
    assert start.unet is not None
    assert all(torch.equal(tensor, weights[name]) for name, tensor in start.unet.state_dict().items())
    assert start.standardisation == Standardisation(tuple(about["mean"]), tuple(about["std"]))
    assert (start.name, start.run["image_size"], start.run["algo"]) == (str(pretrained), 16, "random")
    model = Model.create(spec, 0)
    start.transfer(model, False)
    assert torch.equal(
        model.network.state_dict()["up4.conv.double_conv.0.weight"], weights["up4.conv.double_conv.0.weight"]
    )


@pytest.mark.parametrize("bilinear", [False, True])
def test_a_file_of_weights_gives_its_unet(tmp_path: Path, bilinear: bool):
    unet = random_unet(channels=1, bilinear=bilinear)
    save_unet(tmp_path / "unet.safetensors", unet, STANDARDISATION)
    save_unet(tmp_path / "unet.pth", unet, STANDARDISATION)
    for name, standardisation in (("unet.safetensors", STANDARDISATION), ("unet.pth", None)):
        start = PretrainedWeights.find(str(tmp_path / name))
        assert start.unet is not None
        assert (start.unet.n_channels, start.unet.width, start.unet.bilinear) == (1, 2, bilinear)
        assert (start.standardisation, dict(start.run)) == (standardisation, {})


def test_a_run_without_weights_says_how_to_finish_it(tmp_path: Path):
    with RunDirectory(tmp_path / "run") as run:
        run.write_config(RunSettings(), {"content_key": "a"})
    with pytest.raises(
        CheckpointError, match=r"run: this run has no weights yet; finish it with `ahm train-agent --res"
    ):
        PretrainedWeights.find(str(tmp_path / "run"))


def test_what_is_no_start_is_refused_by_name(tmp_path: Path, spec: ModelSpec):
    with pytest.raises(CheckpointError, match=r"nowhere: no such run or file; give a run directory"):
        PretrainedWeights.find("nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: holds no run; give the directory that `ahm train-agent` wrote"):
        PretrainedWeights.find(str(tmp_path / "empty"))
    Model.create(spec, 0).save(tmp_path / "tuned" / "model.safetensors")
    (tmp_path / "tuned" / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"tuned: holds a fine-tuned model; give the directory that `ahm train-ag"
    ):
        PretrainedWeights.find(str(tmp_path / "tuned"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"damaged/config\.json: damaged"):
        PretrainedWeights.find(str(tmp_path / "damaged"))
    (tmp_path / "notes.txt").write_text("text")
    with pytest.raises(CheckpointError, match=r"notes\.txt: damaged or not a safetensors file"):
        PretrainedWeights.find(str(tmp_path / "notes.txt"))


class Malicious:
    """Makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["bad.pth", "bad.safetensors", "bad.pt"])
def test_a_file_that_would_execute_code_is_refused(tmp_path: Path, name: str):
    torch.save({"inc.double_conv.0.weight": Malicious(tmp_path / "executed")}, tmp_path / name)
    for read in (lambda path: PretrainedWeights.find(str(path)), Model.load):
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as refusal:
            read(tmp_path / name)
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "executed").exists()


def test_what_pretraining_saves_is_what_fine_tuning_starts_from(tmp_path: Path, spec: ModelSpec):
    reconstructor = Reconstructor.create(PatchGrid(16, 4), STANDARDISATION, width=2, seed=5)
    reconstructor.save(tmp_path / "unet.safetensors")
    start = PretrainedWeights.find(str(tmp_path / "unet.safetensors"))
    model = Model.create(replace(spec, mean=STANDARDISATION.mean, std=STANDARDISATION.std), 0)
    start.transfer(model, False)
    seen = []
    for network in (reconstructor.unet, model.network):
        network.eval()
        network.up4.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        reconstructor.unet(reconstructor.standardise(pictures()))
        model.logits(torch.from_numpy(pictures()).float())
    torch.testing.assert_close(seen[0], seen[1])
