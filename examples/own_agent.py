"""A whole agent of one's own: it learns how a patch's brightness and contrast go with its loss, and hides accordingly.

`PYTHONPATH=examples ahm train-agent --algo own_agent:MomentsAgent --data phantom --set temperature=0.2`
"""

from dataclasses import dataclass

import numpy as np
import torch

from agents.agent import Agent, batches, hide_highest, summary
from ahm_env.masks import mean_over


@dataclass(frozen=True)
class MomentsSettings:
    """What `--set` can set."""

    learning_rate: float = 0.05
    temperature: float = 0.2


class MomentsAgent(Agent):
    """Scores a patch by the mean and the contrast of its pixels, each weighted by its correlation with the loss."""

    settings_class = MomentsSettings

    def build(self):
        """Make what is learned."""
        self.weights, self.temperature = torch.zeros(2), self.settings.temperature

    def features(self, images):
        """Mean and contrast of each patch of images `(B, C, S, S)`, standardised within the image: `(B, N, 2)`."""
        grey, patch_means = images.mean(1), self.problem.grid.patch_means
        means = patch_means(grey)
        found = np.stack([means, np.sqrt(np.maximum(patch_means(grey**2) - means**2, 0))], -1)
        return (found - found.mean(1, keepdims=True)) / (found.std(1, keepdims=True) + 1e-6)

    def learn(self, env, images, callback=None):
        """Hide patches, see their losses, and move the weights towards the correlations."""
        for shown, final, _ in batches(self, env, images):
            mask, losses = (final[key].reshape(env.num_envs, -1) for key in ("mask", "patch_loss"))
            above = (losses - mean_over(losses, mask)[:, None]) * mask
            above /= above.std(1, keepdims=True) + 1e-6
            correlations = torch.as_tensor((above[..., None] * self.features(shown)).mean((0, 1)))
            self.weights.lerp_(correlations.float(), self.settings.learning_rate)
            if callback is not None and not callback(summary(final)):
                return

    def maps(self, observations):
        """Return the scores as the policy map, and no value map."""
        return (self.features(observations) @ self.weights.numpy()).astype(np.float32), None

    def predict(self, observations, deterministic=False, infos=None, generator=None):
        """Hide the highest scores; to sample a mask, after Gumbel noise."""
        scores, _ = self.maps(observations)
        if not deterministic:
            uniform = torch.rand(scores.shape, generator=generator or self.generator).clamp(1e-6, 1 - 1e-6)
            scores = scores - self.temperature * (-uniform.log()).log().numpy()
        return hide_highest(scores, self.problem, infos)

    def state(self):
        """Return what learning changes."""
        return {"weights": self.weights} | super().state()

    def restore(self, state):
        """Go back to it."""
        self.weights.copy_(state["weights"])
        super().restore(state)
