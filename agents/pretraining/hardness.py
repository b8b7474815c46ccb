"""How hard are an agent's masks? Measured on held-out images, without touching the run's randomness or statistics."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from agents.agent import Agent
from ahm_env import ImageSet, MaskRatio, PatchMaskVectorEnv, Reconstructor
from ahm_env.masks import Bools, Ints, mean_over, random_subsets

Floats = npt.NDArray[np.float64]
BATCH = 32  # as many as are held out of the smallest set: more would take memory with the number of images
ENOUGH = 64  # times that a patch should have been hidden, and shown, to speak of collapse


@dataclass(frozen=True)
class Measurement:
    """Masks of one kind, and what they cost the U-Net.

    Attributes:
        masks: `(draws, images, N)` bool, the agent's masks.
        losses: `(draws, images)` mean hidden-patch loss under them.
        random_losses: `(random draws, images)` the same under random masks of the same sizes.
    """

    masks: Bools
    losses: Floats
    random_losses: Floats

    @property
    def hardness(self) -> float:
        """Mean hidden-patch loss under the agent's masks / the same under random masks; random = 1."""
        return float(self.losses.mean() / self.random_losses.mean())

    @property
    def frequencies(self) -> npt.NDArray[np.float64]:
        """`(N,)` share of the masks that hide each patch."""
        return np.asarray(self.masks.mean((0, 1)), np.float64)

    @property
    def patch_use(self) -> float:
        """How evenly patches are hidden: entropy of `frequencies` over the largest possible; 1: all equally often."""
        shares = self.frequencies / self.frequencies.sum()
        return float(-(shares * np.log(np.maximum(shares, 1e-12))).sum() / np.log(len(shares)))

    @property
    def between_images(self) -> float:
        """Share of patches in which masks of two different images differ, on average."""
        return float(np.mean([_differences(masks) for masks in self.masks]))

    @property
    def within_images(self) -> float:
        """Share of patches in which two masks of the same image differ, on average; NaN with one draw."""
        return float(np.mean([_differences(self.masks[:, i]) for i in range(self.masks.shape[1])]))

    @property
    def collapse(self) -> str | None:
        """What is wrong with the masks where the policy has collapsed, None where it has not, or too few were seen."""
        ratio = self.masks.mean()
        if self.masks.shape[0] * self.masks.shape[1] * min(ratio, 1 - ratio) < ENOUGH:
            return None
        if self.frequencies.min() < 0.01 or self.frequencies.max() > 0.99:
            return "some patches are almost always or never hidden"
        # a policy that prefers some patches, but the same ones in every image
        if self.frequencies.std() > 0.15 and self.between_images < 1.05 * self.within_images:
            return "all images get the same mask"
        return None


@dataclass(frozen=True)
class Hardness:
    """Both kinds of masks on the same images: neither alone describes a policy.

    Attributes:
        sampled: Masks as the agent draws them.
        likeliest: The likeliest masks, which an agent that explores hides at its best.
    """

    sampled: Measurement
    likeliest: Measurement

    def as_dict(self, name: str = "hardness") -> dict[str, float]:
        """Hardness of both, as columns are called."""
        return {f"{name}_{kind}": getattr(self, kind).hardness for kind in KINDS}


KINDS = ("sampled", "likeliest")


def measure(
    agent: Agent,
    reconstructor: Reconstructor,
    images: ImageSet,
    indices: Ints,
    ratio: MaskRatio,
    horizon: int = 1,
    draws: int = 2,
    seed: int = 0,
    random_draws: int = 16,
) -> Hardness:
    """Let the agent choose the whole quota of images that it does not learn from.

    Args:
        agent: The agent; its own randomness is not touched.
        reconstructor: The U-Net; not trained.
        images: The images.
        indices: Which of them.
        ratio: Share of the patches to hide.
        horizon: Steps an image.
        draws: Masks an image.
        seed: The same seed gives the same masks of an agent, and the same random masks for all agents.
        random_draws: Random masks an image.
    """
    batch = min(BATCH, len(indices))
    env = PatchMaskVectorEnv(batch, data=images, indices=indices, unet=reconstructor, mask_ratio=ratio, horizon=horizon)
    agent.attach(env)

    def batches() -> Iterator[tuple[int, int]]:
        return ((start, min(start + batch, len(indices))) for start in range(0, len(indices), batch))

    def play(deterministic: bool) -> tuple[Bools, Floats]:
        """Masks `(draws, images, N)` and their losses `(draws, images)`."""
        generator = torch.Generator().manual_seed(seed)
        masks = np.zeros((draws, len(indices), reconstructor.grid.patches), bool)
        losses = np.zeros(masks.shape[:2])
        for draw in range(draws):
            for start, end in batches():
                # a last batch that is not full repeats its images, to be cut off below
                fill = np.resize(indices[start:end], batch)
                observations, infos = env.reset(seed=seed, options={"image_index": fill.tolist()})
                for _ in range(horizon):
                    action = agent.predict(observations, deterministic, infos, generator)
                    observations, rewards, _, _, infos = env.step(action)
                masks[draw, start:end] = infos["final_info"]["mask"].reshape(batch, -1)[: end - start]
                losses[draw, start:end] = rewards[: end - start]
            if deterministic and draw == 1 and (masks[0] == masks[1]).all():
                return masks[:2], losses[:2]  # nothing is drawn: further masks would be the same
        return masks, losses

    def play_at_random(counts: Ints) -> Floats:
        """Losses under random masks of these sizes, both `(random_draws, images)`."""
        generator, losses = np.random.default_rng(seed), np.zeros(counts.shape)
        for draw, sizes in enumerate(counts):
            noise = generator.random((len(indices), reconstructor.grid.patches))
            masks = random_subsets(np.ones(noise.shape, bool), sizes, noise)
            for start, end in batches():
                found = reconstructor.patch_losses(images.images(indices[start:end]), masks[start:end])
                losses[draw, start:end] = mean_over(found, masks[start:end])
        return losses

    found = [play(deterministic) for deterministic in (False, True)]
    counts = [np.resize(masks.sum(2), (random_draws, len(indices))) for masks, _ in found]
    random = [play_at_random(counts[0])]
    random.append(random[0] if (counts[0] == counts[1]).all() else play_at_random(counts[1]))
    return Hardness(*(Measurement(*one, losses) for one, losses in zip(found, random, strict=True)))


def _differences(masks: Bools) -> float:
    """Mean share of patches in which two of the masks `(n, N)` differ, over all pairs."""
    count = len(masks)
    ones = masks.sum(0)
    pairs = count * (count - 1) / 2
    return float((ones * (count - ones)).sum() / masks.shape[1] / pairs) if pairs else float("nan")
