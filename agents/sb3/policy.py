"""A policy for Stable-Baselines3 that is made of our networks."""

from math import log
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from agents.agent import Problem
from agents.policy.networks import MaskingNetwork
from agents.sb3.settings import SB3Settings


class MapsPolicy(ActorCriticPolicy):
    """A fully convolutional actor-critic: our feature extraction and map heads under SB3's roof.

    The policy map holds the logit of every patch's bit; the mean of the value map is the value of the image.
    """

    def __init__(
        self,
        *args: Any,
        problem: Problem,
        settings: SB3Settings,
        generator: torch.Generator,
        **kwargs: Any,
    ) -> None:
        self.settings, self._problem, self._generator = settings, problem, generator
        self.progress = 0.0  # of the run, where the rollout began: within it, the odds of a mask must not change
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        problem, settings = self._problem, self.settings
        size = problem.channels, problem.image_size, problem.side
        backbone = settings.backbone, settings.backbone_weights
        self.network = MaskingNetwork(*size, None, *backbone, self._generator)
        # at first, half as many ones as wanted: of too many, some are dropped, and the policy cannot tell which
        odds = 0.5 * problem.quotas[-1] / problem.patches
        bias, most = self.network.policy.bias, 0.9 * (settings.bound.start if settings.bound else 10.0)
        assert bias is not None
        bias.data.fill_(float(np.clip(settings.temperature.start * log(odds / (1 - odds)), -most, most)))
        make: Any = self.optimizer_class
        self.optimizer = make(self.network.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _heads(self, observations: Any) -> tuple[Any, Tensor]:
        maps = self.network.look(observations.float(), self.settings, self.progress)
        return self.action_dist.proba_distribution(maps.logits), maps.values.mean(1, keepdim=True) - 1

    def _log_prob(self, distribution: Any, actions: Tensor) -> Tensor:
        bits = self.settings.own_weight != 0
        return (distribution.distribution if bits else distribution).log_prob(actions)  # type: ignore[no-any-return]

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions `(B, N)`, values `(B, 1)` and log-probabilities for observations `(B, C, S, S)`.

        Log-probabilities are `(B,)`, or `(B, N)` of each bit where patches are credited one by one.
        """
        distribution, values = self._heads(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, self._log_prob(distribution, actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values `(B, 1)`, log-probabilities `(B,)` or, of each bit, `(B * N,)`, and entropies `(B,)`."""
        distribution, values = self._heads(obs)
        return values, self._log_prob(distribution, actions).flatten(), distribution.entropy()

    def get_distribution(self, obs: Any) -> Any:
        """Return the distribution over masks."""
        return self._heads(obs)[0]

    def predict_values(self, obs: Any) -> Tensor:
        """Values `(B, 1)`."""
        return self._heads(obs)[1]
