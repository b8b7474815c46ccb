"""How many patches to hide where the mask ratio is a range: one of a few sizes, chosen and learned like the mask."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SizeChoice:
    """The sizes of B masks.

    Attributes:
        log_pi: `(B, K)` logarithms of the sizes' probabilities, with gradients.
        size: `(B,)` numbers of the sizes among the quotas.
        explores: `(B,)` bool, whether size and mask are random, to know what random masks of each size earn.
    """

    log_pi: Tensor
    size: Tensor
    explores: Tensor

    def entropy(self) -> Tensor:
        """Mean entropy of the choice, in nats."""
        return -(self.log_pi.exp() * self.log_pi).sum(1).mean()


class SizeHead(nn.Linear):
    """Features of an image to logits over K mask sizes; a size is worth what its masks earn above random ones.

    Args:
        channels: Of the features.
        quotas: `(K,)` numbers of hidden patches to choose from.
    """

    quotas: Tensor
    random_reward: Tensor

    def __init__(self, channels: int, quotas: Tensor) -> None:
        super().__init__(channels, len(quotas))
        self.register_buffer("quotas", quotas)
        self.register_buffer("random_reward", torch.zeros(len(quotas)))  # running means of what random masks earn

    def draw(self, logits: Tensor, generator: torch.Generator, deterministic: bool = False) -> Tensor:
        """Numbers `(B,)` of sizes for logits `(B, K)`: sampled, or the likeliest."""
        odds = logits.detach().softmax(-1).cpu()
        size = odds.argmax(-1) if deterministic else torch.multinomial(odds, 1, generator=generator)[:, 0]
        return size.to(logits.device)

    def explore(self, logits: Tensor, share: float, generator: torch.Generator) -> SizeChoice:
        """Draw sizes, of this share of the images uniformly at random."""
        size = self.draw(logits, generator)
        anything = torch.randint(len(self.quotas), size.shape, generator=generator).to(size.device)
        explores = (torch.rand(len(size), generator=generator) < share).to(size.device)
        return SizeChoice(logits.log_softmax(-1), torch.where(explores, anything, size), explores)

    def observe(self, choice: SizeChoice, rewards: Tensor) -> None:
        """Keep the running means of what random masks of each size earn, `rewards` being `(B,)`."""
        for size, reward in zip(choice.size[choice.explores], rewards[choice.explores], strict=True):
            self.random_reward[size].lerp_(reward, 1.0 if self.random_reward[size] == 0 else 0.05)

    def loss(self, choice: SizeChoice, rewards: Tensor) -> Tensor:
        """Policy loss of a choice, of those that do not explore; `rewards` `(B,)` count over those of random masks."""
        random_reward = self.random_reward[choice.size]
        known = (~choice.explores).float() * (random_reward > 0)
        relative = rewards / random_reward.clamp(min=1e-12)
        advantage = relative - (known * relative).sum() / known.sum().clamp(min=1)
        log_pi = choice.log_pi.gather(1, choice.size[:, None])[:, 0]
        return -(known * advantage * log_pi).mean()
