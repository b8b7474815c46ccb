"""VGG16 as a classifier: how it starts, and that it learns."""

from dataclasses import replace

import pytest
import torch

from ahm_env.model.vgg import IMAGENET_MEAN, IMAGENET_STD
from downstream.finetuning.settings import TrainConfig
from downstream.finetuning.training import Trainer
from downstream.models.model import Model, ModelSpec
from downstream.models.vgg import VGG16

# torchvision's numbers of the convolutions, and their channels
LAYERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
CHANNELS = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


def test_weights_are_drawn_so_that_features_neither_fade_nor_grow():
    vgg = VGG16(2)
    vgg.initialise(torch.Generator().manual_seed(0))
    for layer, fan_in in zip(LAYERS[1:], CHANNELS[1:], strict=False):
        weight = vgg.features[layer].weight
        assert weight.std().item() == pytest.approx((2 / (9 * fan_in)) ** 0.5, rel=0.05)
        assert not vgg.features[layer].bias.any()


@pytest.mark.slow
def test_it_learns_as_any_classifier_does(spec: ModelSpec, drawn):
    names = {"task": "classification", "classes": drawn.classes, "values": (), "image_size": 32}
    spec = replace(spec, model="vgg16", width=0, norm="", mean=IMAGENET_MEAN, std=IMAGENET_STD, **names)
    model = Model.create(spec, 0)

    class Larger:
        source, labels = drawn.source, staticmethod(drawn.labels)

        @staticmethod
        def images(indices):
            return drawn.images(indices).repeat(2, 2).repeat(2, 3)

    trainer = Trainer(model, Larger(), drawn.split("train"), TrainConfig(steps=2, batch_size=2, augment="none"), 0)
    before = model.network.features[0].weight.clone()
    assert 0 < trainer.learn() < 10
    assert not torch.equal(model.network.features[0].weight, before)
    assert model.probabilities(Larger.images([0, 1]), tta=True).sum(1) == pytest.approx([1, 1])
