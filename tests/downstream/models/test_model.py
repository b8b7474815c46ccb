"""Fine-tuned models: their file, and what they compute."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ahm_env import CheckpointError, UNet
from ahm_env.files import save_tensors
from downstream.models.model import Model, ModelSpec

CLASSIFIER = {"task": "classification", "classes": ("a", "b", "c"), "values": ()}


def pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16), np.uint8)


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
        {"std": [1.0, 2.0]},
        {"mean": [1.0]},
        {"mean": [1.0, 2.0, "3"]},
        {"std": [1.0, 0.0, 1.0]},
        {"mean": [1.0, float("nan"), 1.0]},
        {"values": [0]},
        {"values": [0, 0]},
        {"values": [0, 300]},
        {"values": [0, 1.5]},
        {"values": [0, 1, 2]},
        {"ignore": 1},
        {"ignore": 256},
        {"ignore": -1},
        {"image_size": "64"},
        {"image_size": 8},
        {"image_size": 64.0},
        {"channels": 4},
        {"fit": "crop"},
        {"axis": "up"},
        {"window": 3},
        {"cropped": "no"},
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
