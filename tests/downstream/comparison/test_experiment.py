"""Experiments on disk: which trials there are, in which order, on which images, and what is refused or resumed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.pretraining.settings import RunSettings
from ahm_env import ImageSet, MaskRatio, RunError, SettingsError, UNet
from ahm_env.model import devices
from downstream.comparison.experiment import ABOUT, REFERENCE_SEED, Experiment, pretrained_runs
from downstream.comparison.options import AgentConfig, Downstream
from downstream.comparison.results.rows import read_results
from downstream.comparison.trials import FinetuneTrial
from downstream.finetuning.labelled import Split
from downstream.finetuning.settings import FinetuneSettings
from downstream.models.pretrained import PretrainedWeights
from tests.downstream.comparison.examples import ALGOS, COMMON, QUICK, make


def settings_of(experiment: Experiment, trial: FinetuneTrial) -> FinetuneSettings:
    """Those that the trial's own process comes to, where its run has been made."""
    start = PretrainedWeights(trial.start, None, None, {})
    if trial.start != "scratch":
        agent = next(one for one in experiment.agents if one.label == trial.agent)
        run = RunSettings.make(**agent.given(experiment.shared)).as_dict()
        start = PretrainedWeights(trial.start, UNet(3, 3, run["width"]), None, run)
    return FinetuneSettings.make(start, **trial.given)


# Which trials


@pytest.mark.parametrize(
    ("algos", "text"),
    [
        (("a4c",), "unknown; choose one of a3c"),
        (("a3c+fast",), "KEY=VALUE"),
        (("a3c+=2",), "KEY=VALUE"),
        (("a3c", "a3c"), "agent a3c is there twice"),
        ((), "one agent"),
        (("a3c+horizon=0",), "horizon"),
        (("scratch",), "scratch is not pretrained: add an agent, or --downstream"),
        (("a3c+agent_share=much",), "--agent-share much"),
        (("a3c+total_images=x",), "--total-images x must be a whole number"),
        (("a3c+colour=1",), "agent 'a3c' has no setting 'colour'; it has backbone"),
        (("a3c+seed=5",), "seed is the same for all agents"),
        (("a3c+data=other",), "data is the same for all agents"),
        (("a3c+learning_rate=1",), "leave it out, or write agent_learning_rate"),
        (("ppo+workers=2",), "ppo trains in one process; use --workers 1"),
        (("a3c+backbone_weights=a/b", "a3c+backbone_weights=a_b"), "names that are the same as names of files"),
    ],
)
def test_bad_agents_are_refused_before_anything_runs(algos: tuple[str, ...], text: str, tmp_path: Path):
    with pytest.raises(SettingsError, match=text):
        Experiment(tmp_path / "out", algos, 1, {}).check_agents()
    assert not (tmp_path / "out").exists()


def test_pretraining_pairs_seeds_and_shares_the_curriculum(tmp_path: Path):
    experiment = Experiment(tmp_path, ("scratch", "a3c", "hard-patches"), 2, {"total_images": 50})
    trials = experiment.pretraining
    assert [(one.agent.label, one.run) for one in trials] == [
        ("a3c", 0),
        ("hard-patches", 0),
        ("a3c", 1),
        ("hard-patches", 1),
    ]
    made = [RunSettings.make(**one.given) for one in trials]
    assert {(one.agent_share, one.total_images, one.workers) for one in made} == {(RunSettings().agent_share, 50, 1)}
    assert [one.seed for one in made] == [0, 0, 1, 1]
    assert {one.reference_unet for one in made} == {str(experiment.references[0].unet)}
    assert {one.references for one in trials} == {tuple(one.unet for one in experiment.references)}
    assert len({one.path for one in trials}) == 4
    assert [one.given["seed"] for one in experiment.references] == [REFERENCE_SEED, REFERENCE_SEED + 1]
    assert REFERENCE_SEED not in range(1000)
    assert {one.total for one in trials} == {50}
    assert experiment.finetuning == []


def test_fine_tuning_is_agents_x_tasks_x_numbers_x_arms_seed_by_seed(tmp_path: Path) -> None:
    experiment = make(tmp_path, unlabelled="none,auto")
    assert [(one.draw, one.run, one.labels, one.task, one.arm, one.agent) for one in experiment.finetuning] == [
        (seed, None if agent == "scratch" else seed, labels, task, arm, agent)
        for seed in (0, 1)
        for labels in (8, None)
        for task in ("segmentation", "classification")
        for arm in ("none", "auto")
        for agent in ALGOS
    ]
    assert len({one.path for one in experiment.finetuning}) == 48
    assert experiment.finetuning[0].path == tmp_path / "finetuned" / "segmentation-8" / "none" / "scratch-draw0"
    runs = {(one.agent.label, one.run): str(one.path) for one in experiment.pretraining}
    assert all(
        one.start == ("scratch" if one.run is None else runs[one.agent, one.run]) for one in experiment.finetuning
    )
    assert {one.total for one in experiment.finetuning} == {4}
    assert {one.given["seed"] for one in experiment.finetuning} == {0, 1}


def test_with_draws_every_run_meets_every_draw_and_an_early_end_has_seen_all(tmp_path: Path) -> None:
    experiment = make(tmp_path, ("scratch", "a3c"), 3, tasks="segmentation", labels="8", draws=5)
    order = [(one.agent, one.run, one.draw) for one in experiment.finetuning]
    assert len(set(order)) == len(order) == 5 + 15
    assert {(run, draw) for agent, run, draw in order if agent == "a3c"} == {
        (run, draw) for run in range(3) for draw in range(5)
    }
    assert {draw for agent, _, draw in order[:10] if agent == "a3c"} == set(range(5))
    assert {draw for agent, _, draw in order[:10] if agent == "scratch"} == set(range(5))
    assert all(run == draw % 3 for agent, run, draw in order[:10] if agent == "a3c")
    assert [len(some) for some, _ in experiment.stages] == [1, 1, 1, 0, 0]  # a U-Net is there when it is needed
    assert len({one.path for one in experiment.finetuning}) == 20


def test_an_arm_has_settings_of_its_own(tmp_path: Path) -> None:
    experiment = make(tmp_path, ("scratch",), 1, tasks="segmentation", labels="8", unlabelled="none,auto+steps=6")
    plain, longer = experiment.finetuning
    assert (plain.total, longer.total) == (4, 12)
    assert (plain.given["unlabelled"], longer.given["unlabelled"], longer.given["steps"]) == ("none", "auto", 6)
    assert experiment.agents == []


@pytest.mark.slow
def test_all_arms_learn_from_the_same_images_and_few_lie_within_many(tmp_path: Path, drawn: ImageSet) -> None:
    experiment = make(tmp_path, labels="8,16,all", runs=2, draws=3, unlabelled="none,auto")
    chosen: dict[Any, set[tuple[int, ...]]] = {}
    for trial in experiment.finetuning:
        split = Split.make(settings_of(experiment, trial), drawn)
        chosen.setdefault((trial.draw, trial.task, trial.labels), set()).add(tuple(split.learn.tolist()))
        assert split.test.tolist() == drawn.split("test").tolist()
    assert {len(some) for some in chosen.values()} == {1}  # whatever the start, run and arm
    learn = {key: set(next(iter(some))) for key, some in chosen.items()}
    for draw in range(3):
        for task in ("segmentation", "classification"):
            few, more, most = (learn[draw, task, count] for count in (8, 16, None))
            assert (len(few), len(more)) == (8, 16)
            assert few < more < most
            assert most == set(drawn.split("train").tolist())
    assert len({tuple(sorted(learn[draw, "segmentation", 8])) for draw in range(3)}) == 3


def test_what_a_pretrained_u_net_has_decided_is_left_to_it(tmp_path: Path) -> None:
    algos = ("scratch", "a3c+width=4+image_size=32", "random")
    experiment = make(tmp_path, algos, 1, labels="all", tasks="segmentation")
    made = {one.agent: settings_of(experiment, one) for one in experiment.finetuning}
    shapes = {agent: (one.width, one.image_size) for agent, one in made.items()}
    assert shapes == {"scratch": (2, 16), "a3c+width=4+image_size=32": (4, 32), "random": (2, 16)}
    assert {(one.steps, one.data, one.labels) for one in made.values()} == {(2, "phantom:40:0", None)}


# On disk


def test_an_experiment_may_grow_but_not_change(tmp_path: Path):
    out = tmp_path / "out"
    Experiment(out, ("random",), 1, {"total_images": 50}).begin()
    Experiment(out, ("random", "a3c"), 3, {"total_images": 50}).begin()
    with pytest.raises(RunError, match="another --total-images; give the same"):
        Experiment(out, ("random",), 1, {"total_images": 60}).begin()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="is not an empty directory and holds no experiment"):
        Experiment(tmp_path / "other", ("random",), 1, {}).begin()
    with pytest.raises(RunError, match="is not an empty directory"):
        Experiment(tmp_path / "other" / "thesis.txt", ("random",), 1, {}).begin()
    for damage in ("{", "[]", "{}"):
        (out / ABOUT).write_text(damage)
        with pytest.raises(RunError, match=r"experiment\.json: damaged"):
            Experiment(out, ("random",), 1, {"total_images": 50}).begin()


@pytest.mark.parametrize("ratio", [MaskRatio(0.3, 0.7), (0.3, 0.7), "0.3:0.7"])
def test_it_goes_on_however_its_settings_are_written(ratio: Any, tmp_path: Path) -> None:
    for given in (ratio, ratio, "0.30:0.7"):
        Experiment(tmp_path, ("random",), 1, {"mask_ratio": given, "total_images": np.int64(50)}).begin()
    with pytest.raises(RunError, match="another --mask-ratio; give the same"):
        Experiment(tmp_path, ("random",), 1, {"mask_ratio": 0.3, "total_images": 50}).begin()
    about = json.loads((tmp_path / ABOUT).read_text())
    assert about["common"] == {"mask_ratio": "0.3:0.7", "total_images": 50, "precision": "fp32", "workers": 1}


def test_all_trials_have_the_precision_of_the_machine_on_which_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(**given: str) -> Experiment:
        downstream = Downstream("segmentation", "8", settings=QUICK)
        return Experiment(tmp_path, ("scratch", "random", "a3c+precision=fp32"), 1, {**COMMON, **given}, downstream)

    monkeypatch.setattr(devices, "has_bf16", lambda device: True)
    asked(precision="auto").begin()
    about = json.loads((tmp_path / ABOUT).read_text())
    assert about["common"]["precision"] == "bf16"
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)  # on another machine
    for given in ({}, {"precision": "auto"}, {"precision": "bf16"}):
        one = asked(**given)
        one.begin()
        random, own = one.pretraining
        assert {trial.given["precision"] for trial in (*one.references, random, *one.finetuning)} == {"bf16"}
        assert own.given["precision"] == "fp32"
    with pytest.raises(RunError, match="another --precision; give the same"):
        asked(precision="fp32").begin()
    assert json.loads((tmp_path / ABOUT).read_text()) == about


def test_it_may_grow_by_labels_tasks_and_arms_but_keeps_its_recipe(tmp_path: Path) -> None:
    make(tmp_path, tasks="segmentation", labels="8").begin()
    make(tmp_path, labels="8,16,all", unlabelled="auto", draws=2).begin()
    make(tmp_path, labels="8,16,all", unlabelled="auto", draws=2).begin()  # once is enough
    trial = make(tmp_path, tasks="segmentation", labels="8").finetuning[0]
    trial.path.mkdir(parents=True)
    (trial.path / "config.json").touch()  # one has begun
    about = json.loads((tmp_path / ABOUT).read_text())
    assert about["finetune"] == {"steps": 2, "batch_size": 2, "augment": "none"}
    assert [(one["labels"], one["unlabelled"], one["draws"]) for one in about["asked"]] == [
        ("8", "none", 0),
        ("8,16,all", "auto", 2),
    ]
    for settings, what in (
        ("steps=3,batch_size=2,augment=none", "steps"),
        (f"{QUICK},ema_decay=0.9", "ema_decay"),
        ("steps=2,batch_size=2", "augment"),
    ):
        with pytest.raises(RunError, match=f"another finetune {what}; give the same"):
            make(tmp_path, settings=settings).begin()
    assert json.loads((tmp_path / ABOUT).read_text()) == about
    Experiment(tmp_path, ("random",), 1, COMMON).begin()  # without fine-tuning, the recipe stays
    assert json.loads((tmp_path / ABOUT).read_text())["finetune"] == about["finetune"]


def test_the_recipe_may_change_until_something_is_fine_tuned_by_it(tmp_path: Path) -> None:
    make(tmp_path, settings=QUICK).begin()
    make(tmp_path, settings="steps=3").begin()
    about = json.loads((tmp_path / ABOUT).read_text())
    assert about["finetune"] == {"steps": 3}
    assert {one.total for part in Experiment(tmp_path, ("random",), 1, COMMON).parts for one in part.finetuning} == {24}
    with pytest.raises(SettingsError, match="the tasks have other classes"):  # of the first command
        make(tmp_path, tasks="segmentation", settings="classes=0,1").begin()
    assert json.loads((tmp_path / ABOUT).read_text()) == about


def finish(trial: FinetuneTrial, dice: float) -> None:
    """Pretend that a trial is done."""
    trial.path.mkdir(parents=True)
    (trial.path / "test.csv").write_text(f"image,patient,dice\na,1,{dice}\nb,2,{dice}\n")
    (trial.path / "test.json").write_text(json.dumps({"task": "segmentation", "images": 2, "labels": 8, "dice": dice}))


def test_results_hold_what_any_command_has_asked_for(tmp_path: Path) -> None:
    one = make(tmp_path, ("scratch",), 1, tasks="segmentation", labels="8")
    two = make(tmp_path, ("scratch",), 1, tasks="segmentation", labels="8,all", unlabelled="auto+mix=none")
    one.begin()
    assert one.write() == []
    assert not (tmp_path / "results.csv").exists()
    two.begin()
    finish(one.finetuning[0], 0.25)
    finish(two.finetuning[1], 0.5)
    rows = one.write()
    assert rows == two.rows() == read_results(tmp_path / "results.csv")
    assert {(row.labels, row.arm) for row in rows} == {("8", "none"), ("all", "auto+mix=none")}
    assert pretrained_runs(tmp_path, rows) == {}


def test_runs_that_were_judged_are_found_again(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, ("a3c+mask_ratio=0.3:0.7",), 1, {"total_images": 50})
    experiment.begin()
    (trial,) = experiment.pretraining
    trial.path.mkdir(parents=True)
    evaluation = {"images": 50, "unet_updates": 4, "seconds": 2, "unet_loss": 1, "agent_share": 1}
    losses = {f"{name}_{kind}": [2.0] for name in ("loss", "random_loss") for kind in ("sampled", "likeliest")}
    evaluation |= {"shown": ["a"], "patients": [3], "references": [losses]}
    (trial.path / "mask_evaluation.json").write_text(json.dumps(evaluation))
    assert pretrained_runs(tmp_path, experiment.rows()) == {trial.path: "a3c+mask_ratio=0.3:0.7"}


def test_an_agent_with_settings_is_shared_by_all_its_runs(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, ("a3c+horizon=2",), 2, {"total_images": 50})
    assert experiment.agents == [AgentConfig("a3c+horizon=2", "a3c", {"horizon": 2})]
    assert [RunSettings.make(**one.given).horizon for one in experiment.pretraining] == [2, 2]
    assert [one.path.name for one in experiment.pretraining] == ["a3c+horizon=2-0", "a3c+horizon=2-1"]


def test_an_agent_may_have_several_workers_and_the_others_have_one(tmp_path: Path) -> None:
    experiment = Experiment(tmp_path, ("a3c", "a3c+workers=3"), 1, {"device": "cpu"})
    assert [one.processes for one in experiment.pretraining] == [1, 3]
    assert [one.processes for one in experiment.references] == [1, 1]
