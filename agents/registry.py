"""Which agents there are: made by name, saved, and loaded without executing code.

A class of your own is named `package.module:Class`. It is imported where you name it; a file that names one is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args, get_type_hints
from zipfile import is_zipfile

import torch

from agents import baselines, loss_predictor
from agents.a3c import A3C
from agents.agent import Agent, Env, Problem
from agents.sb3.agent import A2CAgent, PPOAgent
from agents.settings import LinearSchedule
from ahm_env import CheckpointError, RunError, SettingsError
from ahm_env.errors import check_kind
from ahm_env.files import load_tensors

GROUP = "ahm.agents"  # entry points by which installed packages add agents

AGENTS: dict[str, type[Agent]] = {
    agent.name: agent
    for agent in (
        A3C,
        A2CAgent,
        PPOAgent,
        baselines.RandomAgent,
        baselines.BlocksAgent,
        baselines.ForegroundAgent,
        baselines.EdgesAgent,
        loss_predictor.HardPatchesAgent,
        loss_predictor.LearningProgressAgent,
        baselines.OracleAgent,
        loss_predictor.EasyPatchesAgent,
        baselines.UntrainedAgent,
        baselines.AutoencoderAgent,
    )
}


def installed_agents() -> dict[str, str]:
    """Name of each agent of another package that is installed, and its `package.module:Class`; none is imported."""
    return {one.name: one.value for one in entry_points(group=GROUP) if one.name not in AGENTS}


def agent_class(name: str) -> type[Agent]:
    """Find the class of an agent, and import it where it is not ours: only for names that the user gave.

    Raises:
        SettingsError: Unknown name, or its class is missing or unfit.
    """
    if name in AGENTS:
        return AGENTS[name]
    others = installed_agents()
    if ":" not in name and name not in others:
        raise SettingsError(
            f"agent {name!r} is unknown; choose one of {', '.join((*AGENTS, *others))}, or package.module:Class"
        )
    found: type[Agent] = import_class(others.get(name, name), Agent, "--algo")
    missing: list[str] = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise SettingsError(f"--algo {name}: the class has no {', '.join(missing)}; see examples/own_agent.py")
    if found.settings_class is not None and not is_dataclass(found.settings_class):
        raise SettingsError(f"--algo {name}: its settings_class is no dataclass; see examples/own_agent.py")
    return found


def import_class(reference: str, base: Any, flag: str) -> Any:
    """Import a class that the user named.

    Args:
        reference: `package.module:Class`.
        base: What it must be a subclass of.
        flag: How the user named it.

    Raises:
        SettingsError: It is misspelt, not there, or of another kind.
    """
    if re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", reference) is None:
        raise SettingsError(
            f"{flag} {reference} is not package.module:Class; for example {flag} my_package.agents:Mine"
        )
    module, _, name = reference.partition(":")
    try:
        found: Any = import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{flag} {reference}: {error}; install the package, or add its folder to PYTHONPATH"
        ) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if base not in getattr(found, "__mro__", ()):
        raise SettingsError(f"{flag} {reference}: is not there, or no subclass of {base.__module__}.{base.__name__}")
    return found


def refuse_code(found: Mapping[str, Any], named: Mapping[str, Any], path: Path) -> None:
    """Refuse a class that only a file names: what is loaded does not decide which code runs.

    Args:
        found: Settings that the file holds, `algo` and `wrapper` among them.
        named: Settings that the user named.
        path: The file, or its directory.

    Raises:
        RunError: The file names a class that is not installed as an agent, and that the user did not name.
    """
    for setting in ("algo", "wrapper"):
        value = found.get(setting)
        if value is not None and ":" in str(value) and named.get(setting) != value:
            raise RunError(
                f"{path}: names {value}, a class that is only imported if you name it, too; if you trust its code, "
                f"add --{setting} {value}"
            )


def make_agent(
    name: str, env: Env | Problem, seed: int = 0, device: str | torch.device = "cpu", **settings: Any
) -> Agent:
    """Make an untrained agent for a vector environment.

    Args:
        name: One of `AGENTS`, an entry point of the group `ahm.agents`, or `package.module:Class`, which is imported.
        env: The environment; only its shapes and quotas are used.
        seed: Of its weights and draws.
        device: Where it computes.
        **settings: Fields of the agent's settings, such as `learning_rate`.

    Raises:
        SettingsError: Unknown name, or a setting that this agent does not have.
    """
    agent = agent_class(name)(env, read_settings(name, settings), seed, device)
    agent.name = name
    return agent


def read_settings(name: str, settings: Mapping[str, Any]) -> Any:
    """Read the settings of an agent, and refuse what it does not have.

    Args:
        name: Of the agent.
        settings: Settings by their names.

    Returns:
        Of its `settings_class`; None where there is nothing to set.

    Raises:
        SettingsError: Unknown agent, a setting that it does not have, or a value of the wrong type or out of range.
    """
    kind = agent_class(name).settings_class
    known = {field.name for field in fields(kind)} if kind else set()
    if unknown := sorted(set(settings) - known):
        raise SettingsError(
            f"agent {name!r} has no setting {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}"
        )
    kinds = get_type_hints(kind) if kind else {}
    for setting, value in settings.items():
        if LinearSchedule not in (kinds[setting], *get_args(kinds[setting])):  # which reads itself
            check_kind(f"--set {setting}", value, kinds[setting])
    return kind(**settings) if kind else None


def learns(name: str) -> bool:
    """Whether an agent of this name has settings, such as a step size."""
    return agent_class(name).settings_class is not None


def load_agent(directory: Path, device: str | torch.device = "cpu", algo: str | None = None) -> Agent:
    """Read what `save_agent` wrote.

    Args:
        directory: Where it was written.
        device: Where the agent computes.
        algo: `package.module:Class` of an agent of your own, which may be imported if it is that.

    Raises:
        CheckpointError: Missing, damaged, or not an agent.
        RunError: It is an agent of a class that `algo` does not name.
    """
    path = directory / "agent.safetensors"
    for suspect in (directory, *sorted(directory.glob("*.zip")), path):
        if suspect.is_file() and is_zipfile(suspect):
            raise CheckpointError(
                f"{suspect}: a zip archive, such as Stable-Baselines3 saves; reading it could execute code, so it is "
                f"not read: train with `ahm train-agent --algo ppo`, or save with agents.save_agent"
            )
    tensors, about = load_tensors(path)
    refuse_code({"algo": about.get("agent")}, {"algo": algo}, path)
    try:
        check_kind("settings", about["settings"], dict)
        check_kind("progress", about["progress"], float)
        if not 0 <= about["progress"] <= 1:
            raise SettingsError(f"progress {about['progress']} is not from 0 to 1")
        problem = Problem(**{**about["problem"], "quotas": tuple(about["problem"]["quotas"])})
        problem.check()
        # the backbone's own file may be gone: its weights are in this one
        settings = {key: value for key, value in about["settings"].items() if key != "backbone_weights"}
        agent = make_agent(about["agent"], problem, device=device, **settings)
        fresh = {name: one for name, one in agent.state().items() if name.startswith("optimiser.")}
        agent.restore(tensors | fresh)
        agent.progress = about["progress"]
    except (KeyError, TypeError, RuntimeError, SettingsError) as error:
        raise CheckpointError(f"{path}: not an agent that this version knows ({error}); train it again") from None
    return agent
