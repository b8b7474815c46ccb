"""Agents that follow a rule, against which a claim must stand: they score patches, and hide what scores highest."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.a3c import A3C
from agents.agent import Agent, Callback, Env, Infos, Update, begin, hide_highest, play
from ahm_env import Reconstructor, SettingsError
from ahm_env.images.pixels.opencv import cv2
from ahm_env.masks import random_subsets

Pixels = npt.NDArray[np.uint8]
Scores = npt.NDArray[np.float32]


class ScoringAgent(Agent):
    """Hides the patches that score highest; of a ratio range, a uniformly random number of them."""

    parallel = True

    def scores(self, observations: Pixels, generator: torch.Generator) -> Scores:
        """Scores `(B, N)` of the patches of images `(B, C, S, S)`."""
        raise NotImplementedError

    def learn(self, env: Env, images: int, callback: Callback | None = None) -> None:
        """Play; there is nothing to learn."""
        self.attach(env)
        play(self, env, images, callback)

    def predict(
        self,
        observations: Pixels,
        deterministic: bool = False,
        infos: Infos | None = None,
        generator: torch.Generator | None = None,
    ) -> npt.NDArray[np.int8]:
        """Masks `(B, N)`: see the Agent protocol."""
        generator = generator or self.generator
        low, high = self.problem.quotas
        counts = torch.randint(low, high + 1, (len(observations),), generator=generator).numpy()
        return hide_highest(self.scores(observations, generator), self.problem, infos, counts)

    def maps(self, observations: Pixels) -> tuple[Scores, Scores | None]:
        """Return the scores as the policy map, and no value map."""
        return self.scores(observations, torch.Generator().manual_seed(0)), None

    def _noise(self, count: int, generator: torch.Generator) -> Scores:
        return torch.rand((count, self.problem.patches), generator=generator).numpy()


class RandomAgent(ScoringAgent):
    """Hides uniformly random patches."""

    name = "random"

    def scores(self, observations: Pixels, generator: torch.Generator) -> Scores:
        """Noise."""
        return self._noise(len(observations), generator)

    def maps(self, observations: Pixels) -> tuple[Scores, None]:
        """Return a flat policy map, and no value map."""
        return np.zeros((len(observations), self.problem.patches), np.float32), None


class BlocksAgent(RandomAgent):
    """Hides random rectangles of patches, one after the other, until the quota is full (as BEiT does, ICLR 2022)."""

    name = "blocks"

    def scores(self, observations: Pixels, generator: torch.Generator) -> Scores:
        """Score a patch the higher the earlier a rectangle covers it; the last rectangle fills up row by row."""
        count, side = len(observations), self.problem.side
        place = torch.arange(side)
        scores = -torch.arange(side**2).expand(count, -1) / side**2 - BLOCKS
        for number in reversed(range(BLOCKS)):
            area, aspect, row, column = torch.rand((4, count), generator=generator)
            cells = (0.08 + 0.17 * area) * side**2
            shape = ((2 * aspect - 1) * np.log(2)).exp()  # between 1:2 and 2:1
            covered = torch.ones((count, side, side), dtype=torch.bool)
            lengths = (cells * shape).sqrt(), (cells / shape).sqrt()
            for axis, (length, corner) in enumerate(zip(lengths, (row, column), strict=True)):
                length = length.round().clamp(1, side)
                start = (corner * (side + length - 1)).floor() - length + 1  # over the border too: no cell is preferred
                within = (place >= start[:, None]) & (place < (start + length)[:, None])
                covered &= within[:, :, None] if axis == 0 else within[:, None, :]
            inside = -torch.arange(side**2) / side**2 - number
            scores = torch.where(covered.flatten(1), inside, scores)
        return scores.numpy().astype(np.float32)


BLOCKS = 64  # rectangles, enough to cover every quota


class ForegroundAgent(ScoringAgent):
    """Hides random patches of the foreground, and only where they do not suffice, others.

    Foreground is, of the two classes that Otsu's threshold tells apart, the one that touches the border less.
    """

    name = "foreground"

    def scores(self, observations: Pixels, generator: torch.Generator) -> Scores:
        """Noise, and 1 for foreground."""
        inside = self.problem.grid.patch_means(np.stack([foreground(image) for image in grey(observations)]))
        return np.asarray((inside > 0.5) + self._noise(len(observations), generator), np.float32)


class EdgesAgent(ScoringAgent):
    """Hides the patches with the steepest edges: largest mean length of the Sobel gradient."""

    name = "edges"

    def scores(self, observations: Pixels, generator: torch.Generator) -> Scores:
        """Mean length of the gradient."""
        slopes = [
            np.hypot(cv2.Sobel(image, cv2.CV_32F, 1, 0), cv2.Sobel(image, cv2.CV_32F, 0, 1))
            for image in grey(observations)
        ]
        return self.problem.grid.patch_means(np.stack(slopes))


class OracleAgent(ScoringAgent):
    """Cheats: hides the patches whose true loss was largest when random halves of the image were hidden."""

    name = "oracle"
    _reconstructor: Reconstructor | None = None

    def attach(self, env: Env) -> None:
        """Look at the U-Net of this environment."""
        self._reconstructor = unet_of(env)

    def scores(self, observations: Pixels, generator: torch.Generator) -> Scores:
        """Mean patch loss over a few pairs of complementary random masks."""
        if self._reconstructor is None:
            raise SettingsError("the oracle has to see a U-Net; call attach(env) first")
        total = np.zeros((len(observations), self.problem.patches), np.float32)
        for _ in range(ORACLE_PAIRS):
            noise = self._noise(len(observations), generator)
            halves = np.full(len(noise), self.problem.patches // 2)
            mask = random_subsets(np.ones(noise.shape, bool), halves, noise)
            for hidden in (mask, ~mask):
                total += self._reconstructor.patch_losses(observations, hidden) * hidden
        return np.asarray(total / ORACLE_PAIRS, np.float32)


ORACLE_PAIRS = 2


class AutoencoderAgent(RandomAgent):
    """No masking: the U-Net reconstructs images in which nothing is hidden, and the environment is never stepped."""

    name = "autoencoder"

    def learn(self, env: Env, images: int, callback: Callback | None = None) -> None:
        """Train the U-Net of the environment on its images, as they are."""
        inner: Any = env.unwrapped
        reconstructor, learns = unet_of(env), inner.episodes.co_train
        observations, _ = begin(env)
        nothing = np.zeros((env.num_envs, self.problem.patches), bool)
        for _ in range(0, images, env.num_envs):
            losses = (reconstructor.learn if learns else reconstructor.patch_losses)(observations, nothing)
            observations, _ = env.reset()
            update = Update(env.num_envs, float("nan"), float(losses.mean()))
            if callback is not None and not callback(update):
                return


class UntrainedAgent(A3C):
    """A3C's networks as they were drawn, sampled from but never trained: what learning must beat."""

    name = "untrained"

    def learn(self, env: Env, images: int, callback: Callback | None = None) -> None:
        """Play; nothing is learned."""
        play(self, env, images, callback)


def unet_of(env: Env) -> Reconstructor:
    """Return the U-Net of a vector environment.

    Raises:
        SettingsError: The environment has no U-Net of its own.
    """
    episodes = getattr(env.unwrapped, "episodes", None)
    if episodes is None:
        raise SettingsError("this agent looks at the U-Net itself, and needs the native PatchMaskVectorEnv")
    return episodes.reconstructor  # type: ignore[no-any-return]


def grey(images: Pixels) -> Pixels:
    """Images `(B, 1 or 3, S, S)` to `(B, S, S)`."""
    return np.asarray(images.mean(1).round(), np.uint8)


def foreground(image: Pixels) -> npt.NDArray[np.bool_]:
    """Foreground `(S, S)` of a grey image: of Otsu's two classes, the one that touches the border less."""
    _, bright = cv2.threshold(image, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return np.asarray(bright == (0 if border.mean() > 0.5 else 1))
