"""VGG16: the published architecture, its names, and its file."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from ahm_env import CheckpointError
from ahm_env.model.vgg import IMAGENET_DEVIATION, IMAGENET_MEAN
from downstream.finetuning.settings import Recipe
from downstream.finetuning.training import Trainer
from downstream.models.model import Card, Model
from downstream.models.vgg import VGG16

# torchvision's numbers of the convolutions, and their channels
LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def published(seed: int = 0) -> dict[str, torch.Tensor]:
    """A state dict of the published names and shapes."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer, fan_in, fan_out in zip(LAYERS, CHANNELS, CHANNELS[1:], strict=False):
        scale = (2 / (9 * fan_in)) ** 0.5
        weights[f"features.{layer}.weight"] = torch.randn(fan_out, fan_in, 3, 3, generator=generator) * scale
        weights[f"features.{layer}.bias"] = torch.randn(fan_out, generator=generator) * 0.1
    return weights | {"classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}


@pytest.fixture(scope="module")
def vgg() -> VGG16:
    return VGG16(3)


def test_names_and_numbers_are_the_published_ones(vgg: VGG16):
    shapes = {name: tensor.shape for name, tensor in vgg.state_dict().items() if name.startswith("features")}
    assert shapes == {name: tensor.shape for name, tensor in published().items() if name.startswith("features")}
    assert sum(weight.numel() for weight in vgg.features.parameters()) == 14_714_688


def test_the_published_weights_compute_what_they_compute_there(vgg: VGG16, tmp_path: Path):
    weights = published()
    torch.save(weights, tmp_path / "vgg16-397923af.pth")
    head = vgg.head.weight.clone()
    vgg.features.load_published(tmp_path / "vgg16-397923af.pth")
    assert torch.equal(vgg.head.weight, head)
    images = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    features = images
    for layer in LAYERS:
        if layer in (5, 10, 17, 24):
            features = functional.max_pool2d(features, 2)
        weight, bias = weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"]
        features = functional.conv2d(features, weight, bias, padding=1).relu()
    pooled = functional.max_pool2d(features, 2).mean((2, 3))
    with torch.no_grad():
        torch.testing.assert_close(vgg(images), functional.linear(pooled, vgg.head.weight, vgg.head.bias))


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"features.0.weight": torch.zeros(64, 3, 3, 3)},
        {**published(), "features.28.weight": torch.zeros(2)},
        {**published(), "features.0.bias": 3},
        {"features.0.weight": Malicious()},
        [1, 2],
    ],
    ids=["empty", "a part", "shape", "number", "code", "list"],
)
def test_other_files_are_refused_by_name(vgg: VGG16, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: ") as refusal:
        vgg.features.load_published(Path("other.pth"))
    assert "\n" not in str(refusal.value)
    assert not Path("executed").exists()


def test_a_missing_file_is_refused_by_name(vgg: VGG16):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such file"):
        vgg.features.load_published(Path("nowhere.pth"))


def test_weights_are_drawn_so_that_features_neither_fade_nor_grow():
    vgg = VGG16(2)
    vgg.initialise(torch.Generator().manual_seed(0))
    for layer, fan_in in zip(LAYERS[1:], CHANNELS[1:], strict=False):
        weight = vgg.features[layer].weight
        assert weight.std().item() == pytest.approx((2 / (9 * fan_in)) ** 0.5, rel=0.05)
        assert not vgg.features[layer].bias.any()


def test_it_learns_as_any_classifier_does(card: Card, drawn):
    names = {"task": "classification", "classes": drawn.classes, "values": (), "image_size": 32}
    card = replace(card, model="vgg16", width=0, norm="", mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION, **names)
    model = Model.create(card, 0)

    class Larger:
        source, labels = drawn.source, staticmethod(drawn.labels)

        @staticmethod
        def images(indices):
            return drawn.images(indices).repeat(2, 2).repeat(2, 3)

    trainer = Trainer(model, Larger(), drawn.split("train"), Recipe(steps=2, batch_size=2, augment="none"), 0)
    before = model.network.features[0].weight.clone()
    assert 0 < trainer.learn() < 10
    assert not torch.equal(model.network.features[0].weight, before)
    assert model.probabilities(Larger.images([0, 1]), flips=True).sum(1) == pytest.approx([1, 1])
