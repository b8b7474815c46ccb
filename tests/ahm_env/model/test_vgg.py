"""VGG16's convolutions: the published architecture, its names, and its file."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from ahm_env.errors import CheckpointError
from ahm_env.model.vgg import VGG16Features

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
def vgg() -> VGG16Features:
    return VGG16Features()


def test_names_and_numbers_are_the_published_ones(vgg: VGG16Features):
    shapes = {f"features.{name}": tensor.shape for name, tensor in vgg.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in published().items() if name.startswith("features")}
    assert sum(weight.numel() for weight in vgg.parameters()) == 14_714_688


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [3, 5])
def test_the_published_weights_compute_what_they_compute_there(tmp_path: Path, blocks: int):
    weights, vgg = published(), VGG16Features(blocks)
    torch.save(weights, tmp_path / "vgg16-397923af.pth")
    vgg.load_published(tmp_path / "vgg16-397923af.pth")
    images = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
    features = images
    for layer in LAYERS if blocks == 5 else LAYERS[:7]:
        if layer in (5, 10, 17, 24):
            features = functional.max_pool2d(features, 2)
        weight, bias = weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"]
        features = functional.conv2d(features, weight, bias, padding=1).relu()
    assert vgg.channels == features.shape[1]
    with torch.no_grad():
        torch.testing.assert_close(vgg(images), functional.max_pool2d(features, 2))


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"features.0.weight": torch.zeros(64, 3, 3, 3)},
        {"conv1.weight": torch.zeros(64, 3, 7, 7)},
        {**published(), "features.28.weight": torch.zeros(2)},
        {**published(), "features.0.bias": 3},
        {"features.0.weight": Malicious()},
        [1, 2],
    ],
    ids=["empty", "a part", "another network", "shape", "number", "code", "list"],
)
def test_other_files_are_refused_by_name(
    vgg: VGG16Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: ") as refusal:
        vgg.load_published(Path("other.pth"))
    assert "\n" not in str(refusal.value)
    assert not Path("executed").exists()


def test_a_pickle_is_refused_and_not_executed(vgg: VGG16Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("vgg16.pth").write_bytes(pickle.dumps({"features.99.weight": Malicious()}, protocol=2))
    with pytest.raises(CheckpointError, match=r"vgg16\.pth"):
        vgg.load_published(Path("vgg16.pth"))
    assert not Path("executed").exists()
    pickle.loads(Path("vgg16.pth").read_bytes())
    assert Path("executed").exists()  # the trap is armed


def test_a_missing_file_is_refused_by_name(vgg: VGG16Features):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such file"):
        vgg.load_published(Path("nowhere.pth"))
