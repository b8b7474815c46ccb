"""Agents that regress the loss of patches on the image, and hide what they expect to be hard, easy or instructive."""

from copy import copy, deepcopy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.agent import Callback, Env, batches, summary
from agents.baselines import Pixels, Scores, ScoringAgent, unet_of
from agents.policy.networks import NetworkAgent
from agents.settings import check_ranges
from ahm_env import Reconstructor
from ahm_env.masks import mean_over
from ahm_env.model.devices import as_tensor
from ahm_env.model.optimiser import SharedAdam


@dataclass(frozen=True)
class HardPatchesSettings:
    """What can be set of the agents that regress the loss."""

    learning_rate: float = 1e-3
    """Step size of Adam."""
    backbone: str = "conv"
    """Feature extraction: `conv` (small) or `vgg16` (its first three blocks)."""
    backbone_weights: str | None = None
    """A file of torchvision's VGG16 weights."""

    def __post_init__(self) -> None:
        check_ranges(self)


class HardPatchesAgent(NetworkAgent, ScoringAgent):
    """Regresses the loss of every hidden patch on the image, and hides those of which it expects most.

    In the manner of HPM (Wang et al., "Hard patches mining for masked image modeling", CVPR 2023), with its
    easy-to-hard schedule as the run's share, 0:0.5 by default. Losses are standardised within the
    image: the order is what counts, and images differ in difficulty by factors.
    """

    name = "hard-patches"
    settings_class = HardPatchesSettings
    sign = 1

    def build(self) -> None:
        """Make the network and its optimiser."""
        self.network = self.make_network()
        self.network.policy.requires_grad_(False)  # of the two maps, only the value map is used
        self._weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimiser = SharedAdam(self._weights, self.settings.learning_rate)

    @torch.no_grad()
    def scores(self, observations: Pixels, generator: torch.Generator) -> Scores:
        """Return the standardised loss expected of each patch, with the sign reversed to hide the easiest."""
        values = self.network(as_tensor(observations, self.device)).values.cpu().numpy()
        return np.asarray(self.sign * values, np.float32)

    def maps(self, observations: Pixels) -> tuple[Scores, Scores]:
        """Scores as policy map, and the expected loss as value map."""
        scores = self.scores(observations, self.generator)
        return scores, self.sign * scores

    def learn(self, env: Env, images: int, callback: Callback | None = None) -> None:
        """Play, and after each batch take a step towards the losses that were found.

        Raises:
            TrainingError: The loss is no longer finite.
        """
        self.attach(env)
        for shown, final, whole in batches(self, env, images):
            if whole:  # else there is nothing to learn from
                hidden = final["mask"].reshape(env.num_envs, -1)
                targets = self.targets(shown, hidden, final["patch_loss"].reshape(hidden.shape))
                loss = self._regress(shown, hidden, targets)
                if callback is not None and not callback(summary(final, value_loss=loss)):
                    return

    def targets(self, images: Pixels, hidden: npt.NDArray[np.bool_], losses: Scores) -> Scores:
        """Return the values to regress: the patch losses `(B, N)`."""
        return losses

    def _regress(self, images: Pixels, hidden: npt.NDArray[np.bool_], targets: Scores) -> float:
        mask, wanted = torch.as_tensor(hidden, device=self.device), torch.as_tensor(targets, device=self.device)
        # only the order within an image decides what is hidden, and a few hard images would outweigh all others
        centred = wanted - mean_over(wanted, mask)[:, None]
        spread = mean_over(centred.square(), mask).sqrt()[:, None]
        values = self.network(as_tensor(images, self.device)).values
        loss: Tensor = mean_over((centred / spread.clamp(min=1e-8) - values).square(), mask).mean()
        self.backward(loss, self._weights, 1.0)
        self.optimiser.step()
        return loss.item()


class EasyPatchesAgent(HardPatchesAgent):
    """Regress the loss like `hard-patches`, and hides the patches of which it expects least."""

    name = "easy-patches"
    sign = -1


class LearningProgressAgent(HardPatchesAgent):
    """Regresses learning progress: the loss of a slow copy of the U-Net minus that of the U-Net.

    What stays hard for ever, such as hair and speckle, shows no progress.
    """

    name = "learning-progress"
    parallel = False  # each process would have a slow copy of its own
    _slow: Reconstructor | None = None

    def attach(self, env: Env) -> None:
        """Follow the U-Net of this environment."""
        self._fast = unet_of(env)
        if self._slow is None:
            self._slow = copy(self._fast)
            self._slow.unet = deepcopy(self._fast.unet)

    @torch.no_grad()
    def targets(self, images: Pixels, hidden: npt.NDArray[np.bool_], losses: Scores) -> Scores:
        """How much better the U-Net reconstructs these patches `(B, N)` than its slow copy; then moves the copy on."""
        assert self._slow is not None
        # in the mode in which the U-Net was just scored, or what is found is how the modes differ
        progress = self._slow.patch_losses(images, hidden, self._fast.unet.training) - losses
        fast = self._fast.unet.state_dict()
        for name, slow in self._slow.unet.state_dict().items():
            if slow.is_floating_point():
                slow.lerp_(fast[name], SLOWNESS)
        return np.asarray(progress, np.float32)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that learning changes, the slow U-Net among them where there is one."""
        slow = {} if self._slow is None else self._slow.unet.state_dict()
        # like an optimiser's moments: needed to go on, not to act
        return super().state() | {f"optimiser.slow.{name}": tensor for name, tensor in slow.items()}


SLOWNESS = 0.01  # share of the way that the slow U-Net goes with each batch
