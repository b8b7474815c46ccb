"""Stable-Baselines3's A2C and PPO behind the Agent protocol.

SB3 takes a mask for N independent bits, whose number the environment brings to the quota, and sees the scalar reward
only, unless `own_weight` is set. Nothing is pickled: weights and moments are tensors, and the model is rebuilt from its
settings.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import log, nan
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium.spaces import Box, MultiBinary
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from agents.agent import Agent, Callback, Env, Infos, hide_highest, summary
from agents.moments import RunningMoments
from agents.sb3.patch_credit import PatchRolloutBuffer
from agents.sb3.policy import MapsPolicy
from agents.sb3.settings import A2CSettings, PPOSettings, SB3Settings
from agents.sb3.vec_env import Returns, SB3VecEnv
from ahm_env import SettingsError, TrainingError
from ahm_env.model.devices import as_tensor
from ahm_env.model.weights import copy_state

SMALLEST_CNN = 36  # pixels, of which NatureCNN leaves one cell
SMALLEST_REWARD = 1e-6  # whose logarithm is taken
NEVER = 10**9  # rollouts between two lines of SB3's own log


class SB3Agent(Agent):
    """An SB3 policy, trained by the SB3 algorithm that a subclass names.

    Learning draws from the agent's own generator alone; on the CPU it repeats bit for bit, and so it does when it
    goes on from the end of a rollout, where `Update.resumable` is true.
    """

    parallel = False
    temperature = 1.0
    algorithm: type[OnPolicyAlgorithm]
    optimiser: ClassVar[dict[str, Any]] = {}  # what SB3 would make the policy's optimiser of; by default Adam
    settings: SB3Settings

    def build(self) -> None:
        """Make the policy and its optimiser.

        Raises:
            SettingsError: Images that are too small for the policy.
        """
        problem, settings = self.problem, self.settings
        shape = (problem.channels, problem.image_size, problem.image_size)
        spaces = Box(0, 255, shape, np.uint8), MultiBinary(problem.patches)
        common = {"lr_schedule": lambda _: settings.learning_rate, **self.optimiser}
        self.policy: ActorCriticPolicy
        if settings.policy == "maps":
            special: dict[str, Any] = {"problem": problem, "settings": settings, "generator": self.generator}
            self.policy = MapsPolicy(*spaces, **special, **common)
        elif problem.image_size < SMALLEST_CNN:
            raise SettingsError(f"SB3's CnnPolicy needs images of {SMALLEST_CNN} px or more; use --set policy=maps")
        else:
            with self._randomness():
                self.policy = ActorCriticCnnPolicy(*spaces, **common)
        self.policy.to(self.device)
        self.rewards = RunningMoments()  # of the logarithms of rewards

    def _own_settings(self, images: int) -> dict[str, Any]:
        """Keyword arguments that only this algorithm has, for so many images side by side."""
        return {}

    def check_batches(self, images: int, horizon: int) -> None:
        """Refuse rollouts of which nothing can be learned: see the settings."""
        self.settings.check_rollout(images, horizon)

    def _model(self, env: SB3VecEnv) -> OnPolicyAlgorithm:
        """Build the algorithm around our policy."""
        settings = self.settings
        make: Any = self.algorithm
        buffer = {"infos": lambda: env.infos, "settings": settings}
        bits = {"rollout_buffer_class": PatchRolloutBuffer, "rollout_buffer_kwargs": buffer}
        model: OnPolicyAlgorithm = make(
            lambda *_, **__: self.policy,  # where SB3 would make one
            env,
            learning_rate=settings.learning_rate,
            n_steps=settings.n_steps,
            gamma=settings.gamma,
            gae_lambda=settings.gae_lambda,
            vf_coef=settings.vf_coef,
            max_grad_norm=settings.max_grad_norm,
            device=self.device,
            normalize_advantage=settings.normalize_advantage and settings.own_weight == 0,  # which the buffer does
            **(bits if settings.own_weight else {}),
            **self._own_settings(env.num_envs),
        )
        return model

    def learn(self, env: Env, images: int, callback: Callback | None = None) -> None:
        """Play `images` episodes (rounded up to whole batches), and learn after every full rollout.

        Where `callback` returns False, the rollout that is under way is the last, though it may end within an episode.

        Raises:
            SettingsError: The environment does not start again in the same step, or rollouts are too small.
            TrainingError: The policy is no longer finite.
        """
        self.settings.check_rollout(env.num_envs)  # of the horizon nothing is known here
        vec_env = SB3VecEnv(env, self._pay if self.settings.scale_reward else None)
        model = self._model(vec_env)
        model.set_logger(Logger(None, []))
        played = steps = 0
        going, held = True, None  # the last update of a rollout waits until the policy has learned

        def on_step(rollout: dict[str, Any], _: dict[str, Any]) -> bool:
            nonlocal played, steps, going, held
            steps += 1
            held = summary(vec_env.infos["final_info"]) if rollout["dones"].all() else None
            played += held.images if held else 0
            if steps % self.settings.n_steps and held:
                going &= callback is None or callback(replace(held, resumable=False))
            return played < images or steps % self.settings.n_steps == 0  # a full rollout is learned from

        while played < images:
            with self._randomness():
                self._learn_rollout(model, on_step)
            if steps % self.settings.n_steps:
                return  # all images were shown before the rollout was full
            if held is not None:
                update = replace(held, **self._numbers(model.logger.name_to_value))
                going &= callback is None or callback(update)
            if not going:
                return

    def _pay(self, earned: Returns) -> Returns:
        """Images differ in difficulty by factors, and the U-Net improves: logarithms, standardised, stay comparable.

        Raises:
            SettingsError: A reward below 0, as a wrapper may pay it.
        """
        if (earned < 0).any():
            raise SettingsError(f"the reward {earned.min():.3g} has no logarithm: --set scale_reward=false")
        logs = torch.from_numpy(np.log(np.maximum(earned, SMALLEST_REWARD))).float()
        return np.asarray(self.rewards.standardise(logs), np.float64)

    def _learn_rollout(self, model: OnPolicyAlgorithm, on_step: MaybeCallback) -> None:
        count = model.n_steps * model.n_envs
        model.ent_coef = self.settings.ent_coef.at(self.progress)
        if isinstance(self.policy, MapsPolicy):
            self.policy.progress = self.progress
        try:
            model.learn(count, on_step, log_interval=NEVER, reset_num_timesteps=False)
        except (ValueError, RuntimeError):  # how PyTorch refuses to draw from what is not a number
            if self._finite(model._last_obs):
                raise
        else:
            if self._finite():
                return
        raise TrainingError(
            f"the policy of {self.name} is no longer finite; its step size is probably too large: "
            f"lower --agent-learning-rate"
        )

    def _finite(self, observations: Any = None) -> bool:
        """Whether the weights are numbers, and what they make of these observations."""
        if not all(bool(torch.isfinite(weight).all()) for weight in self.policy.parameters()):
            return False
        try:
            return observations is None or bool(torch.isfinite(self._logits(observations)).all())
        except ValueError:  # refused by PyTorch before we can look
            return False

    def _numbers(self, logged: dict[str, float]) -> dict[str, Any]:
        """SB3's log in our words; what we have no word for goes to TensorBoard under its own name."""
        numbers = {key: float(value) for key, value in logged.items() if key.startswith("train/")}
        policy_loss = numbers.pop("train/policy_loss", numbers.pop("train/policy_gradient_loss", nan))
        entropy = -numbers.pop("train/entropy_loss", nan) / (self.problem.patches * log(2))
        value_loss = numbers.pop("train/value_loss", nan)
        return {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy, "extras": numbers}

    @contextmanager
    def _randomness(self) -> Iterator[None]:
        """SB3 draws from the global generators: lend them our state, and give them back theirs."""
        others, device = np.random.get_state(), self.device
        elsewhere = [] if device.type == "cpu" else [device]  # it has a generator of its own, which masks are drawn by
        with torch.random.fork_rng(elsewhere, device_type=device.type):
            torch.set_rng_state(self.generator.get_state())
            np.random.seed(int(torch.randint(2**31, ())))
            for one in elsewhere:
                own = torch.Generator(one).manual_seed(int(torch.randint(2**31, ())))
                torch.get_device_module(one).set_rng_state(own.get_state(), one)
            try:
                yield
            finally:
                self.generator.set_state(torch.get_rng_state())
                np.random.set_state(others)

    @torch.no_grad()
    def _logits(self, observations: npt.NDArray[np.uint8]) -> Tensor:
        shown = as_tensor(observations, self.device)
        if isinstance(self.policy, MapsPolicy):
            return self.policy.network.look(shown, self.policy.settings, self.progress).logits.cpu()
        distribution: Any = self.policy.get_distribution(shown).distribution
        return distribution.logits.cpu()  # type: ignore[no-any-return]

    def predict(
        self,
        observations: npt.NDArray[np.uint8],
        deterministic: bool = False,
        infos: Infos | None = None,
        generator: torch.Generator | None = None,
    ) -> npt.NDArray[np.int8]:
        """Masks `(B, N)` for images `(B, C, S, S)`: see the Agent protocol.

        Of too many ones a random subset is kept, too few are filled up at random, as the environment would do it. The
        likeliest mask hides what scores highest: of a ratio range, as many as bits are likelier 1 than 0.
        """
        logits, generator = self._logits(observations), generator or self.generator
        if deterministic:
            bits, scores = logits > 0, logits
        else:
            bits = torch.bernoulli((logits / self.temperature).sigmoid(), generator=generator)
            scores = bits + torch.rand(bits.shape, generator=generator)
        counts = bits.sum(1).clamp(*self.problem.quotas).long()
        return hide_highest(scores.numpy(), self.problem, infos, counts.numpy())

    def maps(
        self, observations: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """Policy map (logits) and value map, `(B, N)` each; only the mean of the value map has a meaning."""
        values = None
        if isinstance(self.policy, MapsPolicy):
            with torch.no_grad():
                values = self.policy.network(as_tensor(observations, self.device)).values.cpu().numpy()
        return self._logits(observations).numpy(), values

    def state(self) -> dict[str, Tensor]:
        """Every tensor that learning changes; tensors that SB3's policies share are there once."""
        named = dict(self.policy.named_parameters()) | dict(self.policy.named_buffers())
        moments = {
            f"optimiser.{number}.{name}": torch.as_tensor(value)
            for number, one in self.policy.optimizer.state_dict()["state"].items()
            for name, value in one.items()
        }
        weights = {f"policy.{name}": tensor.detach() for name, tensor in named.items()}
        rewards = {f"reward.{name}": tensor for name, tensor in self.rewards.state_dict().items()}
        return weights | moments | rewards | super().state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to what `state` returned."""
        learned = {name: one for name, one in self.state().items() if name.startswith(("policy.", "reward."))}
        copy_state(learned, state)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in state.items():
            if name.startswith("optimiser."):
                _, number, moment = name.split(".")
                moments.setdefault(int(number), {})[moment] = tensor.clone()
        optimiser = self.policy.optimizer
        optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
        super().restore(state)


class A2CAgent(SB3Agent):
    """Stable-Baselines3's A2C (Mnih et al., ICML 2016, without the asynchrony)."""

    name = "a2c"
    algorithm = A2C
    optimiser: ClassVar = {
        "optimizer_class": torch.optim.RMSprop,
        "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0},
    }
    settings_class = A2CSettings
    settings: A2CSettings


class PPOAgent(SB3Agent):
    """Stable-Baselines3's PPO (Schulman et al., 2017)."""

    name = "ppo"
    algorithm = PPO
    settings_class = PPOSettings
    settings: PPOSettings

    def _own_settings(self, images: int) -> dict[str, Any]:
        settings = self.settings
        minibatch = settings.n_steps * images // settings.minibatches
        clip = {"clip_range": settings.clip_range, "target_kl": settings.target_kl}
        return {"batch_size": minibatch, "n_epochs": settings.n_epochs, **clip}
