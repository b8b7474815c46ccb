"""Settings: presets, what is refused and how, and that they survive a file."""

import json
import os
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.pretraining.settings import PRESETS, RunSettings
from agents.settings import LinearSchedule
from ahm_env import MaskRatio, SettingsError
from ahm_env.model import devices
from downstream.finetuning.settings import FinetuneSettings


def test_defaults_are_valid_and_need_no_preset() -> None:
    assert RunSettings.make() == RunSettings()


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_overrides_defaults(preset: str) -> None:
    made = RunSettings.make(preset)
    assert made == replace(RunSettings(), **PRESETS[preset])
    assert made != RunSettings()


def test_the_paper_s_preset_is_what_is_known_of_the_paper() -> None:
    paper = RunSettings.make("paper")
    assert (paper.grid.side, paper.grid.patch_size, paper.grid.image_size) == (20, 16, 320)
    assert paper.mask_ratio == MaskRatio(0.75, 0.75)
    assert (paper.batch_size, paper.learning_rate, paper.agent_learning_rate) == (12, 2e-4, 2e-4)


def test_what_is_given_overrides_the_preset_and_none_is_not_given() -> None:
    made = RunSettings.make("paper", batch_size=3, image_size=None, seed=7)
    assert (made.batch_size, made.image_size, made.seed) == (3, 320, 7)


def test_the_agent_s_learning_rate_is_given_once() -> None:
    with pytest.raises(SettingsError, match="--agent-learning-rate and --set learning_rate are the same setting"):
        RunSettings.make(agent_learning_rate=1e-3, agent={"learning_rate": 1e-2})
    made = RunSettings.make("paper", agent={"learning_rate": 1e-2})  # what is given overrides the preset
    assert (made.agent_learning_rate, made.agent) == (None, {"learning_rate": 1e-2})


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"--preset papre is unknown; choose one of demo, paper"):
        RunSettings.make("papre")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"mask_ratio": "0"}, "mask.ratio"),
        ({"mask_ratio": "1"}, "mask.ratio"),
        ({"mask_ratio": "-0.5"}, "mask.ratio"),
        ({"mask_ratio": "nan"}, "mask.ratio"),
        ({"mask_ratio": "half"}, "mask.ratio"),
        ({"mask_ratio": ""}, "mask.ratio"),
        ({"mask_ratio": "0.7:0.3"}, "mask.ratio"),
        ({"mask_ratio": "0.3:0.5:0.7"}, "mask.ratio"),
        ({"mask_ratio": "0.005"}, "mask.ratio"),  # none of 64 patches
        ({"mask_ratio": "0.999"}, "mask.ratio"),  # all of 64 patches
        ({"mask_ratio": "0.001:0.5"}, "mask.ratio"),
        ({"patch_size": 7}, "patch.size 7"),
        ({"patch_size": 0}, "patch.size 0"),
        ({"patch_size": -8}, "patch.size -8"),
        ({"image_size": 0}, "image.size 0"),
        ({"image_size": 8, "patch_size": 8}, "image.size 8"),
        ({"image_size": 65}, "--image-size 64"),
        ({"horizon": 0}, "--horizon 0"),
        ({"total_images": 0}, "--total-images 0"),
        ({"total_images": -12}, "--total-images -12"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"width": -2}, "--width -2"),
        ({"workers": -1}, "--workers -1"),
        ({"seed": -1}, "--seed -1"),
        ({"seed": 2**63}, r"--seed 9223372036854775808 must be below 2\*\*63"),
        ({"image_size": 16, "batch_size": 1}, "--batch-size 1 .* use --norm group"),
        ({"algo": "learning-progress", "schedule": "staged"}, "learning-progress .* use --schedule joint"),
        ({"algo": "autoencoder", "schedule": "staged"}, "autoencoder hides nothing.* use --schedule joint"),
        ({"learning_rate": 0.0}, "--learning-rate 0"),
        ({"learning_rate": float("nan")}, "--learning-rate nan"),
        ({"learning_rate": float("inf")}, "--learning-rate inf"),
        ({"agent_learning_rate": -1e-3}, "--agent-learning-rate -0.001"),
        ({"agent_share": "1.5"}, "--agent-share 1.5"),
        ({"agent_share": "-0.1:1"}, "--agent-share -0.1:1"),
        ({"agent_share": "nan"}, "--agent-share nan"),
        ({"agent_share": "0:0.5:1"}, "--agent-share 0:0.5:1"),
        ({"agent_share": "all"}, "--agent-share all"),
        ({"schedule": "later"}, "--schedule later"),
    ],
)
def test_a_bad_value_is_refused_in_one_line_that_names_it(given: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        RunSettings.make(**given)
    text = str(caught.value)
    assert re.search(named, text), text
    assert "\n" not in text
    assert 20 < len(text) < 200


def test_each_setting_of_a_paper_that_is_changed_to_something_impossible_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"320.*not divisible.*24"):
        RunSettings.make("paper", patch_size=24)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(SettingsError, match=r"--device") as caught:
        _ = RunSettings(device=device).torch_device
    assert "\n" not in str(caught.value)


def test_devices_that_are_there() -> None:
    assert RunSettings(device="cpu").torch_device == torch.device("cpu")
    best = RunSettings(device="auto").torch_device
    assert torch.zeros(1, device=best).item() == 0


def test_several_workers_do_not_go_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunSettings, "torch_device", torch.device("cuda"))
    with pytest.raises(SettingsError, match=r"--workers 2.*--workers 1"):
        RunSettings(workers=2, device="cuda")
    assert RunSettings(workers=1, device="cuda").processes == 1
    assert RunSettings(workers=0, device="cuda").processes == 1


def test_workers_are_as_many_as_asked_for_or_as_there_are_cores() -> None:
    assert RunSettings(workers=3, device="cpu").processes == 3
    assert 1 <= RunSettings(workers=0, device="cpu").processes <= (os.cpu_count() or 1)


def test_a_run_goes_on_with_other_numbers_of_workers_where_its_agent_can() -> None:
    assert RunSettings(workers=1).differences({"workers": 3, "seed": 1}) == ["seed"]
    RunSettings(algo="a3c", workers=2, device="cpu").check_workers()
    with pytest.raises(SettingsError, match="ppo trains in one process; use --workers 1"):
        RunSettings(algo="ppo", workers=2, device="cpu").check_workers()


def test_cores_are_counted_where_python_knows_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert RunSettings(workers=0, device="cpu").processes >= 1


@pytest.mark.parametrize(
    ("share", "at"),
    [
        ("1", {0.0: 1.0, 0.3: 1.0, 1.0: 1.0}),
        ("0:0.5", {0.0: 0.0, 0.5: 0.25, 1.0: 0.5, 1.2: 0.5}),
        ("1:0.5", {0.0: 1.0, 0.5: 0.75, 1.0: 0.5, 2.0: 0.5}),
    ],
)
def test_the_chosen_share_goes_evenly_from_start_to_end(share: str, at: dict[float, float]) -> None:
    settings = RunSettings(agent_share=share)
    assert {progress: settings.agent_share.at(progress) for progress in at} == pytest.approx(at)


def test_the_step_size_of_the_unet_falls_and_stays_above_0() -> None:
    settings = RunSettings(learning_rate=1e-3)
    sizes = [settings.unet_learning_rate(progress) for progress in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)]
    assert sizes[0] == 1e-3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 0


SETTINGS = st.builds(
    RunSettings,
    algo=st.sampled_from(["a3c", "random"]),
    mask_ratio=st.sampled_from(["0.5", "0.3:0.7", 1 / 3, 0.5078125]),
    learning_rate=st.floats(1e-6, 1.0),
    total_images=st.integers(1, 10**9),
    channels=st.sampled_from([None, 1, 3]),
    skip_bad=st.booleans(),
    data=st.text(min_size=1),
    agent=st.dictionaries(st.sampled_from(["ent_coef", "bound", "image_weight"]), st.none() | st.floats(0, 1)),
)


@pytest.mark.slow
@given(SETTINGS)
def test_settings_survive_a_json_file(settings: RunSettings) -> None:
    assert RunSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings


def test_settings_of_a_newer_version_are_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"horizons are unknown"):
        RunSettings.from_dict({**RunSettings().as_dict(), "horizons": 2})


def test_a_setting_that_an_older_version_did_not_have_has_its_default() -> None:
    settings = RunSettings(seed=3).as_dict()
    del settings["skip_connections"]
    assert RunSettings.from_dict(settings) == RunSettings(seed=3)


def test_a_bad_value_in_a_file_is_refused_too() -> None:
    with pytest.raises(SettingsError, match=r"mask.ratio"):
        RunSettings.from_dict({**RunSettings().as_dict(), "mask_ratio": "2"})


def test_differences_are_the_names_of_what_is_given_and_is_not_so() -> None:
    settings = RunSettings(seed=3, agent={"gamma": 0.9})
    assert settings.differences({}) == []
    assert settings.differences({"seed": 3, "width": None, "agent": {"gamma": 0.9}}) == []
    assert settings.differences({"seed": 4, "width": 8, "algo": "a3c"}) == ["seed", "width"]
    assert settings.differences({"agent": {"gamma": 0.8, "n_steps": 2}, "seed": 0}) == ["gamma", "n_steps", "seed"]


def test_another_step_size_of_the_agent_is_not_called_that_of_the_unet() -> None:
    one, other = (RunSettings(agent={"learning_rate": rate}) for rate in (1e-3, 2e-3))
    assert one.changes(other) == one.differences({"agent": other.agent}) == ["agent_learning_rate"]


# Precision


@pytest.mark.parametrize("kind", [RunSettings, FinetuneSettings])
def test_auto_is_decided_once_and_what_is_stored_is_obeyed(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda _: True)
    begun = kind(device="cpu").on_this_machine()
    assert begun.precision == "bf16"
    monkeypatch.setattr(devices, "has_bf16", lambda _: False)  # goes on elsewhere
    stored = kind.from_dict(begun.as_dict())
    assert stored.precision == stored.on_this_machine().precision == "bf16"
    assert kind(device="cpu").on_this_machine().precision == "fp32"
    assert stored.differences({"precision": "auto"}) == []
    assert stored.differences({"precision": "fp32"}) == ["precision"]


def test_ranks_refuse_what_they_cannot_do_together(monkeypatch: pytest.MonkeyPatch) -> None:
    RunSettings.make(algo="ppo", batch_size=7).check_ranks()
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    joint = RunSettings.make(algo="a3c", batch_size=12)
    joint.check_ranks()
    assert joint.processes == 1
    for odd in ({"algo": "ppo"}, {"workers": 2}, {"batch_size": 7}):
        with pytest.raises(SettingsError, match="2 ranks"):
            RunSettings.make(**odd).check_ranks()


def test_numbers_of_numpy_and_schedules_become_what_a_file_can_hold() -> None:
    agent = {"ent_coef": LinearSchedule(0.02, 0.002), "image_weight": np.float32(0.5), "sizes": np.int64(3)}
    given = {"total_images": np.int64(8), "learning_rate": np.float32(0.5), "seed": np.uint8(3), "agent": agent}
    made = RunSettings.make(**given)
    plain = RunSettings.make(
        total_images=8, learning_rate=0.5, seed=3, agent={"ent_coef": "0.02:0.002", "image_weight": 0.5, "sizes": 3}
    )
    assert made == plain == RunSettings.from_dict(json.loads(json.dumps(made.as_dict())))
    assert made.differences(given) == []
    tuned = FinetuneSettings(steps=np.int32(7), ema_decay=np.float32(0.5))
    assert json.loads(json.dumps(tuned.as_dict()))["steps"] == 7
