"""Who chooses the mask: interchangeable agents behind one protocol."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from agents.a3c import A3C, A3CSettings
from agents.agent import Agent, Env, Problem, save_agent
from agents.baselines import FrozenAgent, RandomAgent
from ahm_env import CheckpointError, SettingsError
from ahm_env.files import load_tensors

__all__ = ["A3C", "AGENTS", "A3CSettings", "Agent", "Problem", "load_agent", "make_agent", "save_agent"]

AGENTS: dict[str, Any] = {"a3c": A3C, "random": RandomAgent, "frozen": FrozenAgent}
_SETTINGS: dict[str, Any] = {"a3c": A3CSettings, "frozen": A3CSettings}


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
    if name not in AGENTS:
        raise SettingsError(f"agent {name!r} is unknown; choose one of {', '.join(AGENTS)}")
    kind = _SETTINGS.get(name)
    known = {field.name for field in fields(kind)} if kind else set()
    if unknown := sorted(set(settings) - known):
        raise SettingsError(
            f"agent {name!r} has no setting {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}"
        )
    agent: Agent = AGENTS[name](env, kind(**settings) if kind else None, seed, device)
    return agent


def load_agent(directory: Path, device: str | torch.device = "cpu") -> Agent:
    """Read what `save_agent` wrote.

    Raises:
        CheckpointError: Missing, damaged, or not an agent.
    """
    path = directory / "agent.safetensors"
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
