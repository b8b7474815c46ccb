"""What can be set of Stable-Baselines3's A2C and PPO."""

from dataclasses import dataclass

from agents.settings import LinearSchedule, check_ranges, read_schedules
from ahm_env.errors import SettingsError

POLICIES = ("maps", "cnn")
WHOLE = "own_weight needs rollouts that end with an episode: n_steps {} must be a multiple of the horizon"
OF_MAPS = ("own_weight", "bound", "temperature", "backbone", "backbone_weights")  # what SB3's CnnPolicy cannot do


@dataclass(frozen=True)
class SB3Settings:
    """What can be set of both, each with a sentence; a LinearSchedule is 0.02, or 0.02:0.002 from start to end.

    Sizes of steps and of rollouts come from a search.

    Raises:
        SettingsError: A number out of range, or settings that do not go together.
    """

    learning_rate: float = 1e-3
    """Step size."""
    n_steps: int = 8
    """Steps of the environment before an update; an episode takes as many as the horizon."""
    gamma: float = 0.95
    """Discount between the steps of an episode."""
    gae_lambda: float = 0.95
    """Weight of longer returns in the advantage."""
    ent_coef: LinearSchedule = LinearSchedule(0.02, 0.02)
    """Weight of the entropy of the N bits, summed over them; without it, all images end up with one mask."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Gradients longer than this are shortened to it."""
    own_weight: float = 0.0
    """Weight of the loss of the patch that a bit hid in the bit's advantage; with it, log-probabilities are of bits."""
    image_weight: float = 1.0
    """Weight of the image's advantage, which its bits share; without `own_weight` it is 1."""
    normalize_advantage: bool = True
    """Take the image's advantage minus the mean of all, over their std."""
    scale_reward: bool = True
    """Learn from the logarithm of the reward, standardised over the run; SB3 itself would learn from the reward."""
    bound: LinearSchedule | None = LinearSchedule(2, 2)
    """Policy logits lie within ±bound; null: unbounded."""
    temperature: LinearSchedule = LinearSchedule(1, 1)
    """Bounded logits are divided by it: below 1, masks come closer to the likeliest."""
    policy: str = "maps"
    """`maps` (feature extraction and map heads as in our A3C) or `cnn` (SB3's own CnnPolicy)."""
    backbone: str = "conv"
    """Feature extraction of `maps`: `conv` or `vgg16`."""
    backbone_weights: str | None = None
    """A file of torchvision's VGG16 weights."""

    def __post_init__(self) -> None:
        read_schedules(self)
        check_ranges(self)
        if self.policy not in POLICIES:
            raise SettingsError(f"policy {self.policy!r} is unknown; choose {' or '.join(POLICIES)}")
        for name in OF_MAPS:
            if self.policy != "maps" and getattr(self, name) != getattr(SB3Settings, name):
                raise SettingsError(f"{name} needs a policy with a logit for each patch: --set policy=maps")
        if self.own_weight == 0 and self.image_weight != 1:
            raise SettingsError(
                f"image_weight {self.image_weight:g} counts beside own_weight only; give that, too, or leave it at 1"
            )

    def check_rollout(self, images: int, horizon: int = 1) -> None:
        """Refuse rollouts of so many images side by side, in episodes of so many steps, that cannot be learned from.

        Raises:
            SettingsError: They hold too few images, or end within an episode where that cannot be.
        """
        if self.own_weight and self.n_steps % horizon:
            raise SettingsError(WHOLE.format(self.n_steps))


@dataclass(frozen=True)
class A2CSettings(SB3Settings):
    """What can be set of A2C."""

    n_steps: int = 1
    gae_lambda: float = 1.0

    def check_rollout(self, images: int, horizon: int = 1) -> None:
        """Refuse a single image, too, whose advantage is always the mean."""
        super().check_rollout(images, horizon)
        if self.normalize_advantage and self.image_weight and self.n_steps * images < 2:
            raise SettingsError("a2c needs 2 images or more an update to normalise advantages; raise --batch-size")


@dataclass(frozen=True)
class PPOSettings(SB3Settings):
    """What can be set of PPO."""

    n_epochs: int = 3
    """Passes over the images of an update."""
    minibatches: int = 4
    """Gradient steps a pass; divides `n_steps`."""
    clip_range: float = 0.2
    """How far the probability ratio of a mask may move before its gradient is cut; with `own_weight`, that of a bit."""
    target_kl: float | None = 0.03
    """An update ends early where the policy has moved further than this, in a mask or a bit; None: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_steps % self.minibatches:
            raise SettingsError(f"minibatches {self.minibatches} must divide n_steps {self.n_steps}")

    def check_rollout(self, images: int, horizon: int = 1) -> None:
        """Refuse minibatches of a single image, too."""
        super().check_rollout(images, horizon)
        if self.n_steps * images // self.minibatches < 2:
            raise SettingsError("ppo needs 2 images or more a minibatch; raise --batch-size")
