"""Settings of fine-tuning: what a start decides, what a preset says, and what is refused."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ahm_env import SettingsError, UNet
from downstream.finetuning.settings import PRESETS, FinetuneSettings
from downstream.models.pretrained import PretrainedWeights

SCRATCH = PretrainedWeights("scratch", None, None, {})
RUN = {"image_size": 32, "fit": "pad", "width": 4, "norm": "group", "channels": None, "data": "elsewhere", "seed": 9}


@pytest.fixture
def from_run() -> PretrainedWeights:
    return PretrainedWeights("run", UNet(1, 1, 4, "group"), None, RUN)


@pytest.fixture
def from_file() -> PretrainedWeights:
    return PretrainedWeights("unet.pth", UNet(1, 1, 4, "group"), None, {})


def test_defaults_need_nothing():
    assert FinetuneSettings.make(SCRATCH) == FinetuneSettings(unlabelled="auto")


@pytest.mark.parametrize(
    ("given", "unlabelled"),
    [
        ({}, "auto"),
        ({"unlabelled": "none"}, "none"),
        ({"task": "classification"}, "none"),
        ({"task": "classification", "unlabelled": "auto"}, "auto"),
        ({"ema_decay": 0.0}, "none"),  # there is no teacher
        ({"preset": "quick"}, "none"),
        ({"preset": "quick", "unlabelled": "auto"}, "auto"),
    ],
)
def test_unlabelled_images_take_part_by_default_where_that_was_shown_to_help(given: dict[str, Any], unlabelled: str):
    assert FinetuneSettings.make(SCRATCH, **given).unlabelled == unlabelled


def test_a_run_decides_how_images_become_pixels_and_what_the_unet_is(from_run: PretrainedWeights):
    made = FinetuneSettings.make(from_run)
    decided = {"image_size": 32, "fit": "pad", "width": 4, "norm": "group", "channels": 1}
    assert made == FinetuneSettings(start="run", data="elsewhere", unlabelled="auto", **decided)


def test_the_images_of_a_run_are_fine_tuned_on_unless_others_are_named(from_run: PretrainedWeights):
    assert FinetuneSettings.make(from_run).data == "elsewhere"
    assert FinetuneSettings.make(from_run, data="others").data == "others"
    assert FinetuneSettings.make(SCRATCH).data == FinetuneSettings.data


def test_a_file_of_weights_decides_what_the_unet_is(from_file: PretrainedWeights):
    made = FinetuneSettings.make(from_file, image_size=48, fit="pad")
    assert (made.width, made.norm, made.channels, made.image_size, made.fit) == (4, "group", 1, 48, "pad")


@pytest.mark.parametrize(
    ("name", "value", "decided"),
    [
        ("width", 8, 4),
        ("norm", "batch", "group"),
        ("channels", 3, 1),
        ("image_size", 64, 32),
        ("fit", "stretch", "pad"),
    ],
)
def test_what_the_start_has_decided_cannot_be_chosen_otherwise(
    from_run: PretrainedWeights, name: str, value: object, decided
):
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(SettingsError, match=rf"{flag} {value}: run was pretrained with {decided}; leave {flag} out"):
        FinetuneSettings.make(from_run, **{name: value})
    assert getattr(FinetuneSettings.make(from_run, **{name: decided}), name) == decided


def test_a_preset_lies_between_the_defaults_and_what_is_given():
    paper = FinetuneSettings.make(SCRATCH, "paper")
    assert paper == replace(FinetuneSettings(), **PRESETS["paper"])
    assert (paper.learning_rate, paper.schedule, paper.batch_size, paper.augment) == (3e-4, "steps", 4, "none")
    given = FinetuneSettings.make(SCRATCH, "paper", batch_size=6, learning_rate=None)
    assert (given.batch_size, given.learning_rate) == (6, 3e-4)
    with pytest.raises(SettingsError, match="--preset papre is unknown; choose one of quick, paper"):
        FinetuneSettings.make(SCRATCH, "papre")


def test_vgg16_takes_colour(from_run: PretrainedWeights):
    assert FinetuneSettings.make(SCRATCH, model="vgg16", task="classification").channels == 3
    with pytest.raises(SettingsError, match=r"--model vgg16 classifies.*not by --from"):
        FinetuneSettings.make(from_run, model="vgg16", task="classification")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"task": "detection"}, "--task detection is unknown; choose segmentation or classification"),
        ({"model": "resnet"}, "--model resnet is unknown; choose unet or vgg16"),
        ({"transfer": "head"}, "--transfer head is unknown; choose all or encoder"),
        ({"labels": 0}, "--labels 0 must be 1 or more, or all"),
        ({"seed": -1}, "--seed -1 must not be negative"),
        ({"val_fraction": 1.0}, "--val-fraction 1.0 must be a share"),
        ({"val_fraction": -0.1}, "--val-fraction -0.1"),
        ({"val_fraction": float("nan")}, "--val-fraction nan"),
        ({"image_size": 8}, "--image-size 8 is too small for a U-Net; use 16 or more"),
        ({"image_size": 0}, "image_size is 0"),
        ({"image_size": 16, "batch_size": 1}, "--batch-size 1 below --image-size 32.*--norm group"),
        ({"channels": 2}, "channels is 2"),
        ({"fit": "crop"}, "fit is 'crop'"),
        ({"model": "vgg16"}, "--model vgg16 classifies"),
        ({"model": "vgg16", "task": "classification", "channels": 1}, "--model vgg16 needs --channels 3"),
        ({"model": "vgg16", "task": "classification", "image_size": 31}, "--image-size 32 or more"),
        ({"weights": "vgg16.pth"}, "--weights is for --model vgg16"),
        ({"freeze": True}, "--freeze is for the encoder of a U-Net that classifies"),
        ({"model": "vgg16", "task": "classification", "freeze": True}, "--freeze is for"),
        ({"task": "classification", "ignore": 255}, "--ignore 255 is for --task segmentation"),
        ({"task": "classification", "transfer": "all"}, "--transfer all is for --task segmentation"),
        ({"task": "classification", "batch_size": 1, "norm": "group"}, "--batch-size 1 has no batch by which"),
        ({"crop_with": "run"}, "--crop-with is for --task classification"),
        ({"steps": 0}, "--steps 0"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(given: dict[str, object], text: str):
    with pytest.raises(SettingsError, match=text) as refusal:
        FinetuneSettings.make(SCRATCH, **given)
    assert "\n" not in str(refusal.value)


@given(
    st.builds(
        FinetuneSettings,
        task=st.just("classification"),
        data=st.text(min_size=1),
        labels=st.none() | st.integers(1, 10**6),
        learning_rate=st.floats(1e-6, 1),
        val_fraction=st.floats(0, 0.9),
        crop_with=st.none() | st.text(min_size=1),
        tta=st.booleans(),
        augment=st.sampled_from(["none", "full"]),
    )
)
def test_settings_survive_a_json_file(settings: FinetuneSettings):
    assert FinetuneSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings


def test_differences_are_those_of_what_is_given():
    settings = FinetuneSettings(labels=25)
    assert settings.differences({"labels": 25, "seed": None, "steps": 2800}) == []
    assert settings.differences({"labels": 26, "seed": 1, "start": "run"}) == ["labels", "seed", "start"]


@pytest.mark.parametrize(("steps", "join", "after"), [(2800, 0.4, 1120), (10, 0.35, 4), (10, 0.99, 9), (1, 0.4, 0)])
def test_unlabelled_images_join_in_the_last_step_at_the_latest(steps: int, join: float, after: int):
    assert FinetuneSettings.make(SCRATCH, steps=steps, join=join).joins_after == after
