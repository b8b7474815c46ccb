"""Asynchronous advantage actor-critic (A3C) for adaptive hard masking. Read from top to bottom.

Sources: Mnih et al., "Asynchronous methods for deep reinforcement learning", ICML 2016 (Algorithm S3: asynchronous
workers, shared optimiser); Xu et al., adaptive hard masking, IEEE TMI 44(1), 2025 (the masking problem, the networks);
Furuta et al., PixelRL, AAAI 2019 (rewards, returns and values as maps).

Symbols: N patches; m the mask, 1 hides; ℓ_i the patch loss; φ, π, V the feature, policy and value networks;
θ the shared weights, θ' a worker's copy; r the reward, R the return, A the advantage; β, λ as in A3CSettings.
An update follows a whole episode, and there is no discount γ: nothing is paid before the last step, so that the return
of every step is the loss, and γ would only make earlier steps count for less.
"""

from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agents.agent import Callback, Env, Infos, begin, summary
from agents.policy.mask_size import SizeChoice
from agents.policy.networks import Maps, MaskingNetwork, NetworkAgent
from agents.policy.subsets import OrderedSubset
from agents.settings import LinearSchedule, check_ranges, read_schedules
from ahm_env.masks import mean_over
from ahm_env.model.devices import as_tensor
from ahm_env.model.optimiser import SharedAdam

Pixels = npt.NDArray[np.uint8]
Actions = npt.NDArray[np.int8]
Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class A3CSettings:
    """What can be set, each with a sentence; a LinearSchedule is given as 0.02, or as 0.02:0.002 from start to end."""

    learning_rate: float = 1e-3
    """Step size of Adam for φ, π and V."""
    own_weight: float = 1.0
    """Weight in the advantage of a drawn patch's own loss: dense, but blind to what the draw takes from others."""
    to_go_weight: float = 0.0
    """Weight of the losses of all that is hidden from a draw on: unbiased where patches do not affect each other."""
    image_weight: float = 2.0
    """λ, weight of the image's reward, which all of its draws share: the exact gradient, but noisy."""
    ent_coef: LinearSchedule = LinearSchedule(0.02, 0.02)
    """β, what a nat of entropy in every draw is worth, in units of a draw's advantage: keeps masks varied."""
    vf_coef: float = 0.5
    """Weight of the value loss (R − V)²."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    bound: LinearSchedule | None = LinearSchedule(2, 2)
    """Policy logits lie within ±bound; null: unbounded, which collapses."""
    temperature: LinearSchedule = LinearSchedule(1, 1)
    """Bounded logits are divided by it: below 1, masks come closer to the likeliest."""
    sizes: int = 5
    """Mask sizes to choose from where the mask ratio is a range."""
    explore: float = 0.125
    """With a ratio range: share of images hidden at random, to know what random masks of each size earn."""
    backbone: str = "conv"
    """φ: `conv` (small) or `vgg16` (its first three blocks)."""
    backbone_weights: str | None = None
    """A file of torchvision's VGG16 weights."""

    def __post_init__(self) -> None:
        read_schedules(self)
        check_ranges(self)


@dataclass(frozen=True)
class Step:
    """What a worker remembers of one step; `maps` and `policy` carry gradients."""

    maps: Maps
    policy: OrderedSubset
    ranking: Tensor  # (B, N) the draw
    hidden: Tensor  # (B, N) hidden before this step
    chosen: Tensor  # (B, N) hidden in this step by the agent's choice
    size: SizeChoice | None  # where the mask ratio is a range


class A3C(NetworkAgent):
    """The agent. Several processes may call `learn` at once, after `share_memory`."""

    name = "a3c"
    temperature = 1.0
    settings_class = A3CSettings
    settings: A3CSettings

    def build(self) -> None:
        """Make θ and its optimiser."""
        settings, (low, high) = self.settings, self.problem.quotas
        quotas = torch.linspace(low, high, settings.sizes).round().long() if low < high and settings.sizes > 1 else None
        self.network = self.make_network(quotas)
        self.optimiser = SharedAdam(self.network.parameters(), settings.learning_rate)

    def learn(self, env: Env, images: int, callback: Callback | None = None) -> None:
        """Play `images` episodes (rounded up to whole batches) and learn from them: one worker of Algorithm S3.

        Raises:
            SettingsError: The environment does not start again in the same step.
            TrainingError: The loss is no longer finite; the shared weights are left as they were.
        """
        worker = deepcopy(self.network)
        observations, infos = begin(env)
        played = 0
        while played < images:
            worker.load_state_dict(self.network.state_dict())  # θ' ← θ
            steps: list[Step] = []
            ended = False
            while not ended:
                step, action = self._propose(worker, observations, infos, steps[0] if steps else None)
                observations, _, terminated, truncated, infos = env.step(action)
                ended = bool((terminated | truncated).all())
                last = infos["final_info"] if ended else infos
                steps.append(replace(step, chosen=self._flat(last["chosen"]) & ~step.hidden))
            played += env.num_envs
            if not terminated.all():
                continue  # cut off before anything was reconstructed: nothing to learn from
            losses = self._losses(steps, last)
            self._apply(worker, sum(losses.values(), torch.zeros(())))
            entropy = torch.stack([one.policy.entropy(one.ranking) / one.policy.largest_entropy() for one in steps])
            numbers = {"policy_loss": losses["policy"], "value_loss": losses["value"], "entropy": entropy.nanmean()}
            update = summary(last, **{name: number.item() for name, number in numbers.items()})
            if callback is not None and not callback(update):
                return

    def _propose(
        self, network: MaskingNetwork, observations: Pixels, infos: Infos, first: Step | None
    ) -> tuple[Step, Actions]:
        """Draw a mask of exactly the size that the environment will hide by choice, and remember how likely it was."""
        maps = self._look(network, observations)
        hidden, count = self._flat(infos["mask"]), torch.as_tensor(infos["choosable"], device=self.device)
        size, head = first.size if first is not None else None, network.size
        if first is None and head is not None and maps.sizes is not None:  # an episode's first action decides its size
            size = head.explore(maps.sizes, self.settings.explore, self.generator)
            count = head.quotas[size.size]
        if size is not None:
            maps = replace(maps, logits=torch.where(size.explores[:, None], 0.0, maps.logits))
        policy = OrderedSubset(maps.logits, count, excluded=hidden)
        ranking = policy.sample(generator=self.generator)
        action = policy.subset(ranking).cpu().numpy().astype(np.int8)
        return Step(maps, policy, ranking, hidden, hidden, size), action

    def _losses(self, steps: list[Step], last: Infos) -> dict[str, Tensor]:
        """Policy, value, entropy and size losses of an episode, each weighted.

        Args:
            steps: s_t and a_t.
            last: Infos after the last of them.
        """
        settings, network, first = self.settings, self.network, steps[0]
        hidden = self._flat(last["mask"])  # m
        losses = as_tensor(last["patch_loss"], self.device).flatten(1)  # ℓ
        self._observe(losses, hidden, first)
        returns = losses / network.mean_loss  # R of every step, a map
        policy_loss = value_loss = size_loss = entropy = torch.zeros((), device=self.device)
        learns = torch.ones(len(hidden), device=self.device) if first.size is None else (~first.size.explores).float()
        for step in steps:
            values, policy = step.maps.values, step.policy
            advantages = self._advantages(step, returns, hidden)
            log_pi = policy.patch_log_prob(step.ranking)
            policy_loss = policy_loss - (learns * mean_over(advantages * log_pi, step.chosen)).mean()
            value_loss = value_loss + mean_over((returns - values).square(), hidden).mean()
            entropy = entropy + (learns * policy.entropy(step.ranking) / policy.count.clamp(min=1)).mean()
        if network.size is not None and first.size is not None:
            size_loss = network.size.loss(first.size, mean_over(losses, hidden))
            entropy = entropy + first.size.entropy()
        return {
            "policy": policy_loss / len(steps),
            "value": settings.vf_coef * value_loss / len(steps),
            "entropy": -settings.ent_coef.at(self.progress) * entropy / len(steps),
            "size": size_loss,
        }

    def _advantages(self, step: Step, returns: Tensor, hidden: Tensor) -> Tensor:
        """Tell how much better than expected each draw of a step turned out: A, `(B, N)`, of three kinds of credit.

        What is expected depends on what was drawn before and never on the draw itself, so that it adds no bias.
        """
        settings, network, policy = self.settings, self.network, step.policy
        values = step.maps.values.detach()
        baseline = policy.patch_expectation(values, step.ranking)  # b, of one patch
        reward = mean_over(returns, hidden)
        spread = mean_over((returns - reward[:, None]).square(), hidden).sqrt()[:, None]
        own = (returns - baseline) / spread.clamp(min=0.25)  # r̂_i − b

        new = hidden & ~step.hidden  # of which each draw is credited with what was not chosen before it
        loss_left = (returns * new).sum(1, keepdim=True) - policy.sum_before(returns * step.chosen, step.ranking)
        left = new.sum(1, keepdim=True) - policy.sum_before(step.chosen.float(), step.ranking)
        to_go = network.to_go.standardise(loss_left - left * baseline, step.chosen)

        state_value = (policy.first_draw().detach() * values).sum(1)  # V̄ = Σ π_j V_j
        shared = network.surprise.standardise(reward - state_value)[:, None]
        return settings.own_weight * own + settings.to_go_weight * to_go + settings.image_weight * shared

    def _observe(self, losses: Tensor, hidden: Tensor, first: Step) -> None:
        """Keep the running means by which losses stay comparable while the U-Net improves."""
        network = self.network
        rewards = mean_over(losses, hidden)
        if not torch.isfinite(rewards).all():
            return  # the loss is not finite either, and is refused
        network.mean_loss.lerp_(rewards.mean(), 1.0 if network.mean_loss == 0 else 0.02)
        if network.size is not None and first.size is not None:
            network.size.observe(first.size, rewards)

    def _apply(self, worker: MaskingNetwork, loss: Tensor) -> None:
        """Gradients with respect to θ', applied to θ with the shared moments."""
        self.backward(loss, worker.parameters(), self.settings.max_grad_norm)
        for shared, own in zip(self.network.parameters(), worker.parameters(), strict=True):
            shared.grad = own.grad
        self.optimiser.step()

    def _look(self, network: MaskingNetwork, observations: Pixels) -> Maps:
        """Compute the maps of images, with the bound and the temperature of this part of the run."""
        return network.look(as_tensor(observations, self.device), self.settings, self.progress)

    def _flat(self, grids: npt.NDArray[np.bool_]) -> Tensor:
        return torch.as_tensor(grids, device=self.device).flatten(1)

    @torch.no_grad()
    def predict(
        self,
        observations: Pixels,
        deterministic: bool = False,
        infos: Infos | None = None,
        generator: torch.Generator | None = None,
    ) -> Actions:
        """Masks `(B, N)` for images `(B, C, S, S)`: see the Agent protocol."""
        maps, generator = self._look(self.network, observations), generator or self.generator
        hidden = torch.zeros_like(maps.logits, dtype=torch.bool) if infos is None else self._flat(infos["mask"])
        whole = np.full(len(hidden), self.problem.quotas[1])
        count = torch.as_tensor(whole if infos is None else infos["choosable"], device=self.device)
        if maps.sizes is not None and (head := self.network.size) is not None:
            count = torch.where(hidden.any(1), count, head.quotas[head.draw(maps.sizes, generator, deterministic)])
        policy = OrderedSubset(maps.logits / self.temperature, count, excluded=hidden)
        ranking = policy.mode if deterministic else policy.sample(generator=generator)
        return policy.subset(ranking).cpu().numpy().astype(np.int8)

    @torch.no_grad()
    def maps(self, observations: Pixels) -> tuple[Map, Map]:
        """Policy map (logits) and value map, `(B, N)` each, of images `(B, C, S, S)`."""
        maps = self._look(self.network, observations)
        return maps.logits.cpu().numpy(), maps.values.cpu().numpy()
