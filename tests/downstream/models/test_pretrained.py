"""What a start gives to fine-tuning."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.pretraining.run_directory import RunDirectory
from agents.pretraining.settings import RunSettings
from ahm_env import CheckpointError, PatchGrid, Reconstructor, RunError, Standardisation, UNet
from ahm_env.files import load_tensors
from ahm_env.model.unet import initialise
from ahm_env.model.weights import save_unet
from downstream.models.model import ENCODER, Model, ModelSpec
from downstream.models.pretrained import PretrainedWeights

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
    with pytest.raises(RunError, match=r"empty: holds no run; give the directory that `ahm train-agent` wrote"):
        PretrainedWeights.find(str(tmp_path / "empty"))
    Model.create(spec, 0).save(tmp_path / "tuned" / "model.safetensors")
    (tmp_path / "tuned" / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"tuned: holds a fine-tuned model; give the directory that `ahm train-ag"
    ):
        PretrainedWeights.find(str(tmp_path / "tuned"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    with pytest.raises(RunError, match=r"damaged/config\.json: damaged .*; restore it, or give the directory"):
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
