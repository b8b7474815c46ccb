"""Agents and wrappers of one's own: found by name, trained and resumed like ours, and never imported for a file."""

import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest

from agents import Problem, load_agent, make_agent, pretrain, registry, save_agent
from agents.pretraining.settings import RunSettings
from ahm_env import AHMError, RunError, SettingsError
from downstream import evaluate_masks, finetune, report
from downstream.comparison.experiment import Experiment

TINY: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 2, "batch_size": 4, "total_images": 16}
PROBLEM = Problem(1, 16, 4, (8, 8))
GUEST = "guest:MomentsAgent"
WRAPPERS = '''

from gymnasium.vector import VectorWrapper


class Rewarded(VectorWrapper):
    """Pays nothing, and counts its steps."""

    steps = 0

    def step(self, actions):
        Rewarded.steps += 1
        observations, rewards, *rest = self.env.step(actions)
        return observations, -1 + 0 * rewards, *rest


class Cropped(VectorWrapper):
    """Shows less."""

    def __init__(self, env):
        super().__init__(env)
        self.single_observation_space = self.single_action_space


class Mute(MomentsAgent.__mro__[1]):
    """Can do nothing."""

    def learn(self, env, images, callback=None):
        pass


class Lazy(MomentsAgent):
    """Does not do what it is asked for."""

    name = "lazy"

    def learn(self, env, images, callback=None):
        super().learn(env, 4, callback)


class Loose(MomentsAgent):
    """Has settings of no known kind."""

    settings_class = dict
'''


@pytest.fixture(autouse=True)
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example as a module of another name, that can be imported and has not been yet."""
    example = Path(registry.__file__).parents[1] / "examples" / "own_agent.py"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "guest.py").write_text(example.read_text(encoding="utf-8") + WRAPPERS)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.setenv("AHM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("guest", None)


def install(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    """Let packages be installed that have these agents."""
    installed = EntryPoints(EntryPoint(name, value, registry.GROUP) for name, value in found.items())
    monkeypatch.setattr(registry, "entry_points", lambda group: installed.select(group=group))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nobody", "agent 'nobody' is unknown; choose one of a3c, .*, or package.module:Class"),
        ("guest:", "is not package.module:Class"),
        (":MomentsAgent", "is not package.module:Class"),
        ("guest:MomentsAgent()", "is not package.module:Class"),
        (
            "no_such_module:Mine",
            "No module named 'no_such_module'; install the package, or add its folder to PYTHONPATH",
        ),
        ("guest:Nothing", "is not there, or no subclass of agents.agent.Agent"),
        ("guest:Rewarded", "is not there, or no subclass of agents.agent.Agent"),
        ("guest:np", "is not there, or no subclass of agents.agent.Agent"),
        ("guest:Mute", "the class has no maps, predict; see examples/own_agent.py"),
        ("guest:Loose", "its settings_class is no dataclass; see examples/own_agent.py"),
    ],
)
def test_a_name_that_is_no_agent_is_refused_in_one_line(name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text) as caught:
        make_agent(name, PROBLEM)
    assert "\n" not in str(caught.value)


def test_settings_of_an_own_agent_are_checked_like_ours() -> None:
    assert make_agent(GUEST, PROBLEM, temperature=0.5).settings.temperature == 0.5
    with pytest.raises(SettingsError, match="has no setting 'heat'; it has learning_rate, temperature"):
        RunSettings.make(algo=GUEST, agent={"heat": 2})
    with pytest.raises(SettingsError, match="--set temperature hot must be a number"):
        RunSettings.make(algo=GUEST, agent={"temperature": "hot"})
    with pytest.raises(SettingsError, match="trains in one process"):
        RunSettings.make(algo=GUEST, workers=2, device="cpu")


def test_an_own_agent_is_saved_under_the_name_by_which_it_is_found(tmp_path: Path) -> None:
    agent = make_agent(GUEST, PROBLEM)
    save_agent(agent, tmp_path / "one")
    assert load_agent(tmp_path / "one", algo=GUEST).name == GUEST
    save_agent(type(agent)(PROBLEM), tmp_path / "other")  # made without the registry
    assert json.loads((tmp_path / "other" / "agent.json").read_text())["agent"] == GUEST


def test_a_class_without_a_name_is_not_saved_as_its_parent() -> None:
    class Mine(registry.AGENTS["a3c"]):  # type: ignore[misc]
        """Another one."""

    assert Mine.name.endswith(":test_a_class_without_a_name_is_not_saved_as_its_parent.<locals>.Mine")


def test_an_installed_agent_has_a_plain_name_and_may_be_named_by_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, moments=GUEST, a3c="guest:Lazy")
    assert registry.installed_agents() == {"moments": GUEST}
    assert "guest" not in sys.modules  # until it is asked for
    save_agent(make_agent("moments", PROBLEM), tmp_path)
    assert json.loads((tmp_path / "agent.json").read_text())["agent"] == "moments"
    assert type(load_agent(tmp_path)).__name__ == "MomentsAgent"
    assert registry.agent_class("a3c") is registry.AGENTS["a3c"]  # ours cannot be replaced
    with pytest.raises(SettingsError, match=r"a3c, .*, moments, or package.module:Class"):
        make_agent("nobody", PROBLEM)


@pytest.mark.slow
def test_an_agent_that_does_not_play_on_is_no_finished_run(tmp_path: Path) -> None:
    with pytest.raises(AHMError, match="guest:Lazy stopped after 4 of 16 images; its learn must play all"):
        pretrain("phantom:40", tmp_path / "run", algo="guest:Lazy", **TINY)


@pytest.mark.slow
def test_an_own_agent_is_trained_interrupted_and_resumed(tmp_path: Path, stopping: Any) -> None:
    whole = pretrain("phantom:40", tmp_path / "whole", algo=GUEST, agent={"temperature": 0.1}, **TINY)
    with pytest.raises(RunError, match="stopped by SIGINT"):
        pretrain("phantom:40", tmp_path / "run", algo=GUEST, agent={"temperature": 0.1}, observer=stopping, **TINY)
    run = pretrain(out=tmp_path / "run", resume=True, algo=GUEST)
    assert run.load_agent().state()["weights"].equal(whole.load_agent().state()["weights"])
    assert run.load_agent().state()["weights"].abs().sum() > 0
    assert run.load_agent().settings.temperature == 0.1


def forget() -> None:
    """Be a process that has not imported it."""
    sys.modules.pop("guest", None)


@pytest.fixture
def crafted(tmp_path: Path) -> Path:
    """The directory of a run that says it is of an agent, and in a wrapper, of somebody's own."""
    run = pretrain("phantom:40", tmp_path / "run", algo=GUEST, wrapper="guest:Rewarded", **TINY)
    forget()
    return run.path


def add_to_experiment(run: Path) -> None:
    """Read an experiment in which somebody has entered the class."""
    experiment = Experiment(Path("cmp"), ("random",), 1, {})
    experiment.begin()
    about = json.loads(Path("cmp/experiment.json").read_text())
    about["asked"].append({"algos": [GUEST], "runs": 1})
    Path("cmp/experiment.json").write_text(json.dumps(about))
    experiment.begin()
    assert experiment.rows() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use", "flag"),
    [
        (lambda run: pretrain(out=run, resume=True), f"--algo {GUEST}"),
        (lambda run: pretrain(out=run, resume=True, algo=GUEST), "--wrapper guest:Rewarded"),
        (lambda run: load_agent(run / "agent"), f"--algo {GUEST}"),
        (lambda run: load_agent(run / "agent", algo="guest:Lazy"), f"--algo {GUEST}"),
        (evaluate_masks, f"--algo {GUEST}"),
        (lambda run: report([run]), None),
        (lambda run: finetune(run, "phantom:40", run.parent / "tuned", labels=8, steps=1, batch_size=2), None),
        (add_to_experiment, None),
    ],
    ids=["resume", "resume in a wrapper", "load", "load as another", "evaluate", "report", "finetune", "compare"],
)
def test_a_file_that_names_a_class_imports_nothing(crafted: Path, use: Callable[[Path], Any], flag: str | None) -> None:
    """What needs the class is refused with the flag to add; the rest goes without."""
    if flag is None:
        use(crafted)
    else:
        with pytest.raises(RunError, match=rf"names guest:\w+, a class .* add {flag}$"):
            use(crafted)
    assert "guest" not in sys.modules


@pytest.mark.slow
def test_on_the_command_line_the_class_is_named_again(crafted: Path, call: Any) -> None:
    for words in (
        ("train-agent", "--resume", "--out", "run"),
        ("train-agent", "--config", "run/config.json", "--out", "other"),
        ("evaluate-agent", "run"),
    ):
        status, _, err = call(*words)
        assert (status, err.count("\n")) == (2, 1)
        assert f"add --algo {GUEST}" in err
        assert "guest" not in sys.modules
    assert call("train-agent", "--resume", "--out", "run", "--algo", GUEST, "--wrapper", "guest:Rewarded")[0] == 0
    assert call("evaluate-agent", "run", "--algo", GUEST)[0] == 0


@pytest.mark.slow
def test_a_wrapper_is_there_while_the_agent_learns_and_not_where_masks_are_measured(tmp_path: Path) -> None:
    run = pretrain("phantom:40", tmp_path / "run", algo="hard-patches", wrapper="guest:Rewarded", **TINY)
    assert sys.modules["guest"].Rewarded.steps == 4  # of 4 images each; none by the measurements
    assert run.metrics["hardness_sampled"] > 0
    with pytest.raises(SettingsError, match="changes the single_observation_space; masks are measured without it"):
        pretrain("phantom:40", tmp_path / "other", algo="a3c", wrapper="guest:Cropped", **TINY)
    with pytest.raises(SettingsError, match=r"no subclass of gymnasium.vector.vector_env.VectorWrapper"):
        RunSettings.make(wrapper=GUEST)
    for name, cause in (("FlattenObservation", "autoreset_mode"), ("TransformReward", "argument: 'func'")):
        wrapper = f"gymnasium.wrappers.vector:{name}"
        with pytest.raises(SettingsError, match=f"{name}: cannot be put around the environment: .*{cause}"):
            pretrain("phantom:40", tmp_path / name, algo="a3c", wrapper=wrapper, **TINY)


@pytest.mark.slow
def test_wrappers_of_gymnasium_can_be_named(tmp_path: Path) -> None:
    wrapper = "gymnasium.wrappers.vector:NormalizeReward"
    assert pretrain("phantom:40", tmp_path / "run", algo="a3c", wrapper=wrapper, **TINY).metrics["images"] == 16
