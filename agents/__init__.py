"""Who chooses the mask: interchangeable agents behind one protocol, and pretraining with them."""

# This file belongs to ahm-env; `ahm` looks for this line, since others have packages of this name, too.

from agents.a3c import A3C, A3CSettings
from agents.agent import Agent, Problem, save_agent
from agents.loss_predictor import HardPatchesSettings
from agents.pretraining.pretrain import PretrainedRun, pretrain
from agents.registry import AGENTS, learns, load_agent, make_agent
from agents.sb3.settings import A2CSettings, PPOSettings

__all__ = [
    "A3C",
    "AGENTS",
    "A2CSettings",
    "A3CSettings",
    "Agent",
    "HardPatchesSettings",
    "PPOSettings",
    "PretrainedRun",
    "Problem",
    "learns",
    "load_agent",
    "make_agent",
    "pretrain",
    "save_agent",
]
