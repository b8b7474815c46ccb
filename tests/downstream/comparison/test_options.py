"""What a person asks an experiment for: what is understood, and what is refused."""

from pathlib import Path

import pytest

from agents.pretraining.settings import RunSettings
from agents.settings import LinearSchedule
from ahm_env import SettingsError
from downstream.comparison.options import AgentConfig, Downstream, arm_settings


def test_an_agent_is_a_name_and_settings_of_its_own():
    agent = AgentConfig.parse("a3c+image_weight=2+horizon=4+mask-ratio=0.3:0.7+bound=null")
    assert (agent.algo, agent.settings) == (
        "a3c",
        {"image_weight": 2, "horizon": 4, "mask_ratio": "0.3:0.7", "bound": None},
    )
    given = agent.given({"total_images": 7})
    assert given == {
        "total_images": 7,
        "algo": "a3c",
        "horizon": 4,
        "mask_ratio": "0.3:0.7",
        "agent": {"image_weight": 2, "bound": None},
    }
    assert RunSettings.make(**given).horizon == 4
    workers = AgentConfig.parse("a3c+workers=4+agent_learning_rate=0.01").given({"workers": 1})
    assert (workers["workers"], workers["agent_learning_rate"]) == (4, 0.01)
    share = AgentConfig.parse("a3c+agent_share=0.5")  # a text that looks like a number
    assert RunSettings.make(**share.given({})).agent_share == LinearSchedule(0.5, 0.5)


def test_an_arm_is_a_way_to_use_unlabelled_images_and_settings_of_its_own():
    assert arm_settings("none") == {"unlabelled": "none"}
    arm = arm_settings("auto+mix=none+steps=9600+learning_rate=1")
    assert arm == {"unlabelled": "auto", "mix": "none", "steps": 9600, "learning_rate": 1}
    for text in ("box", "automatic+steps=2", "", "+steps=2"):
        with pytest.raises(SettingsError, match="an arm is none or auto"):
            arm_settings(text)


def test_how_to_fine_tune_without_what_for_is_refused():
    assert Downstream.asked(None, labels=None, settings=None) is None
    assert Downstream.asked("segmentation", labels=None, sam=None) == Downstream("segmentation", "25,100,all")
    with pytest.raises(SettingsError, match="--finetune needs --downstream"):
        Downstream.asked(None, settings="steps=4")
    with pytest.raises(SettingsError, match="--labels needs --downstream"):
        Downstream.asked(None, labels="25")
    with pytest.raises(SettingsError, match="--draws needs --downstream"):
        Downstream.asked(None, draws=3)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"tasks": "segmentaton"}, "--downstream segmentaton is unknown"),
        ({"tasks": ""}, "needs a task"),
        ({"tasks": "segmentation,segmentation"}, "--downstream segmentation is there twice"),
        ({"labels": "25,25"}, "--labels 25 is there twice"),
        ({"labels": " , "}, "a number from 1 or all"),
        ({"labels": "0"}, "a number from 1 or all"),
        ({"labels": "-5"}, "--labels -5 is neither"),
        ({"labels": "25,alll"}, "--labels alll is neither"),
        ({"unlabelled": ""}, "--unlabelled an arm"),
        ({"unlabelled": "auto,auto"}, "--unlabelled auto is there twice"),
        ({"unlabelled": "auto+mixed=box"}, "--unlabelled mixed: there is no such setting here; .* mix"),
        ({"unlabelled": "auto+mix=blocks"}, "--mix blocks"),
        ({"unlabelled": "none,none+ignore=255"}, r"none\+ignore=255: ignore decides what is scored; .* --finetune"),
        ({"draws": -1}, "--draws -1"),
        ({"settings": "steps=many"}, "--finetune steps many must be a whole number"),
        ({"unlabelled": "auto+steps=many"}, "--unlabelled steps many must be a whole number"),
        ({"settings": "step=400"}, "--finetune step: there is no such setting here; .* steps"),
        ({"settings": "steps"}, "--finetune steps is not KEY=VALUE"),
        ({"settings": "labels=3"}, "--finetune labels: there is no such"),
        ({"settings": "unlabelled=auto"}, "--finetune unlabelled: there is no such"),
        ({"settings": "steps=many"}, "steps many must be a whole number"),
        ({"settings": "steps=1.5"}, "steps 1.5 must be a whole number"),
        ({"settings": "steps=true"}, "steps True must be a whole number"),
        ({"settings": "learning_rate=fast"}, "--finetune learning_rate fast must be a number"),
        ({"settings": "tta=1"}, "tta 1 must be true or false"),
        ({"settings": "augment=3"}, "augment 3 must be a text"),
        ({"settings": "steps=0"}, "--steps 0"),
        ({"settings": "steps=3,mix=box,steps=4"}, "--finetune steps is there twice"),
        ({"settings": "augment=wild"}, "wild"),
        ({"settings": "mix=none", "mix": "box"}, "--finetune mix is there twice"),
        ({"tasks": "classification", "sam": Path("sam")}, "--sam segments"),
    ],
)
def test_what_is_misspelt_is_refused(asked: dict, text: str) -> None:
    with pytest.raises(SettingsError, match=text) as caught:
        Downstream(**{"tasks": "segmentation", **asked})
    assert "\n" not in str(caught.value)


def test_what_is_asked_for_is_read() -> None:
    asked = Downstream(
        "segmentation, classification",
        "25 ,all",
        "none, auto",
        3,
        settings="steps=7,learning_rate=1,tta=true,augment=flips",
    )
    assert (asked.task_names, asked.counts) == (["segmentation", "classification"], [25, None])
    assert asked.shared == {"steps": 7, "learning_rate": 1, "tta": True, "augment": "flips"}
    assert asked.arms == ["none", "auto"]
    given = asked.given("auto+steps=9", "segmentation")
    assert given == {**asked.shared, "unlabelled": "auto", "steps": 9, "task": "segmentation"}
    assert asked.made(asked.arms[1], "classification").unlabelled == "auto"


def test_a_setting_of_one_task_is_left_out_of_the_other_and_refused_alone():
    both = Downstream("segmentation,classification", settings="freeze=true,ignore=255,transfer=all")
    (arm,) = both.arms
    assert both.given(arm, "segmentation").keys() == {"ignore", "transfer", "unlabelled", "task"}
    assert both.given(arm, "classification").keys() == {"freeze", "unlabelled", "task"}
    with pytest.raises(SettingsError, match="--finetune classes: the tasks have other classes"):
        Downstream("segmentation,classification", settings="classes=0,1")
    with pytest.raises(SettingsError, match="--freeze is for the encoder of a U-Net that classifies"):
        Downstream("segmentation", settings="freeze=true")
    with pytest.raises(SettingsError, match="--ignore 255 is for --task segmentation"):
        Downstream("classification", settings="ignore=255")
