"""What can be set of Stable-Baselines3's A2C and PPO."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SB3Settings:
    """What can be set of both, each with a sentence. Sizes of steps and of rollouts come from a search."""

    learning_rate: float = 1e-3
    """Step size."""
    n_steps: int = 8
    """Batches of images before an update."""
    gamma: float = 0.95
    """Discount between the steps of an episode."""
    gae_lambda: float = 0.95
    """Weight of longer returns in the advantage."""
    ent_coef: float = 0.02
    """Weight of the entropy of the N bits, summed over them; without it, all images end up with one mask."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradients longer than this are shortened to it."""
    credit: str = "image"
    """`image`: all bits share the reward of the image; `own`: a bit is credited with the loss of the patch it hid."""
    scale_reward: bool = True
    """Learn from the logarithm of the reward, standardised over the run; SB3 itself would learn from the reward."""
    bound: float | None = 2.0
    """Policy logits lie within ±bound; of `maps` only."""
    policy: str = "maps"
    """`maps` (feature extraction and map heads as in our A3C) or `cnn` (SB3's own CnnPolicy)."""
    backbone: str = "conv"
    """Feature extraction of `maps`: `conv` or `vgg16`."""
    backbone_weights: str | None = None
    """A file of torchvision's VGG16 weights."""


@dataclass(frozen=True)
class A2CSettings(SB3Settings):
    """What can be set of A2C."""

    n_steps: int = 1
    gae_lambda: float = 1.0
    normalize_advantage: bool = True
    """Advantages minus their mean, over their std; SB3's own default is not to."""


@dataclass(frozen=True)
class PPOSettings(SB3Settings):
    """What can be set of PPO."""

    n_epochs: int = 3
    """Passes over the images of an update."""
    minibatches: int = 4
    """Gradient steps a pass; divides `n_steps`."""
    clip_range: float = 0.2
    """How far the probability ratio of a mask may move before its gradient is cut; with `credit=own`, that of a bit."""
    target_kl: float | None = 0.03
    """An update ends early where the policy has moved further than this, in a mask or a bit; None: never."""
