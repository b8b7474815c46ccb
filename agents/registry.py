"""Which agents there are: made by name, saved, and loaded without executing code."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints
from zipfile import is_zipfile

import torch

from agents.a3c import A3C
from agents.agent import Agent, Env, Problem
from agents.baselines import (
    AutoencoderAgent,
    BlocksAgent,
    EdgesAgent,
    ForegroundAgent,
    OracleAgent,
    RandomAgent,
    UntrainedAgent,
)
from agents.loss_predictor import EasyPatchesAgent, HardPatchesAgent, LearningProgressAgent
from agents.sb3.agent import A2CAgent, PPOAgent
from ahm_env import CheckpointError, SettingsError
from ahm_env.files import load_tensors
from ahm_env.runs.flags import check_kind

AGENTS: dict[str, type[Agent]] = {
    agent.name: agent
    for agent in (
        A3C,
        A2CAgent,
        PPOAgent,
        RandomAgent,
        BlocksAgent,
        ForegroundAgent,
        EdgesAgent,
        HardPatchesAgent,
        LearningProgressAgent,
        OracleAgent,
        EasyPatchesAgent,
        UntrainedAgent,
        AutoencoderAgent,
    )
}


def make_agent(
    name: str, env: Env | Problem, seed: int = 0, device: str | torch.device = "cpu", **settings: Any
) -> Agent:
    """Make an untrained agent for a vector environment.

    Args:
        name: One of `AGENTS`.
        env: The environment; only its shapes and quotas are used.
        seed: Of its weights and draws.
        device: Where it computes.
        **settings: Fields of the agent's settings, such as `learning_rate`.

    Raises:
        SettingsError: Unknown name, or a setting that this agent does not have.
    """
    check_settings(name, settings)
    kind = AGENTS[name].settings_class
    return AGENTS[name](env, kind(**settings) if kind else None, seed, device)


def check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse what an agent does not have.

    Args:
        name: Of the agent.
        settings: Settings by their names.

    Raises:
        SettingsError: Unknown agent, a setting that it does not have, or a value of the wrong type.
    """
    if name not in AGENTS:
        raise SettingsError(f"agent {name!r} is unknown; choose one of {', '.join(AGENTS)}")
    kind = AGENTS[name].settings_class
    known = {field.name for field in fields(kind)} if kind else set()
    if unknown := sorted(set(settings) - known):
        raise SettingsError(
            f"agent {name!r} has no setting {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}"
        )
    kinds = get_type_hints(kind) if kind else {}
    for setting, value in settings.items():
        check_kind(f"--set {setting}", value, kinds[setting])


def learns(name: str) -> bool:
    """Whether an agent of this name has settings, such as a step size."""
    return name in AGENTS and AGENTS[name].settings_class is not None


def load_agent(directory: Path, device: str | torch.device = "cpu") -> Agent:
    """Read what `save_agent` wrote.

    Raises:
        CheckpointError: Missing, damaged, or not an agent.
    """
    path = directory / "agent.safetensors"
    for suspect in (directory, *sorted(directory.glob("*.zip")), path):
        if suspect.is_file() and is_zipfile(suspect):
            raise CheckpointError(
                f"{suspect}: a zip archive, such as Stable-Baselines3 saves; reading it could execute code, so it is "
                f"not read: train with `ahm train-agent --algo ppo`, or save with agents.save_agent"
            )
    tensors, about = load_tensors(path)
    try:
        problem = Problem(**{**about["problem"], "quotas": tuple(about["problem"]["quotas"])})
        # the backbone's own file may be gone: its weights are in this one
        settings = {key: value for key, value in about["settings"].items() if key != "backbone_weights"}
        agent = make_agent(about["agent"], problem, device=device, **settings)
        fresh = {name: one for name, one in agent.state().items() if name.startswith("optimiser.")}
        agent.restore(tensors | fresh)
    except (KeyError, TypeError, RuntimeError, SettingsError) as error:
        raise CheckpointError(f"{path}: not an agent that this version knows ({error}); train it again") from None
    return agent
