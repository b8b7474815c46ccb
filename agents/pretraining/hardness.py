"""How hard are an agent's masks? Measured on held-out images, without touching the run's randomness or statistics."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from agents.agent import Agent
from ahm_env import ImageSet, MaskRatio, PatchMaskVectorEnv, Reconstructor
from ahm_env.masks import Bools, Ints, mean_over, random_subsets

BATCH = 64
ENOUGH = 64  # times that a patch should have been hidden, and shown, to speak of collapse


@dataclass(frozen=True)
class Measurement:
    """What `measure` found.

    Attributes:
        masks: `(draws, images, N)` bool, the agent's masks.
        losses: `(draws, images)` mean hidden-patch loss under them.
        random_losses: The same under random masks of the same quotas.
    """

    masks: Bools
    losses: npt.NDArray[np.float64]
    random_losses: npt.NDArray[np.float64]

    @property
    def hardness(self) -> float:
        """Mean hidden-patch loss under the agent's masks / the same under random masks; random = 1."""
        return float(self.losses.mean() / self.random_losses.mean())

    @property
    def frequencies(self) -> npt.NDArray[np.float64]:
        """`(N,)` share of the masks that hide each patch."""
        return np.asarray(self.masks.mean((0, 1)), np.float64)

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


def measure(
    agent: Agent,
    reconstructor: Reconstructor,
    images: ImageSet,
    indices: Ints,
    ratio: MaskRatio,
    horizon: int = 1,
    draws: int = 2,
    seed: int = 0,
) -> Measurement:
    """Let the agent choose the whole quota of images that it does not learn from.

    Args:
        agent: Sampled, not at its likeliest.
        reconstructor: The U-Net; not trained.
        images: The images.
        indices: Which of them.
        ratio: Share of the patches to hide.
        horizon: Steps an image.
        draws: Masks an image.
        seed: The same seed gives the same random masks.
    """
    torch_generator = torch.Generator().manual_seed(seed)
    numpy_generator = np.random.default_rng(seed)
    batch = min(BATCH, len(indices))
    env = PatchMaskVectorEnv(batch, data=images, indices=indices, unet=reconstructor, mask_ratio=ratio, horizon=horizon)
    agent.attach(env)
    masks, losses, random_losses = list[Bools](), list[npt.NDArray[Any]](), list[npt.NDArray[Any]]()
    for _ in range(draws):
        for start in range(0, len(indices), batch):
            shown = indices[start : start + batch]
            fill = np.resize(shown, batch)  # a last batch that is not full repeats its images, to be cut off below
            observations, infos = env.reset(seed=seed, options={"image_index": fill.tolist()})
            for _ in range(horizon):
                action = agent.predict(observations, infos=infos, generator=torch_generator)
                observations, rewards, _, _, infos = env.step(action)
            mask = infos["final_info"]["mask"].reshape(batch, -1)[: len(shown)]
            anywhere = random_subsets(np.ones_like(mask), mask.sum(1), numpy_generator.random(mask.shape))
            random_loss = reconstructor.patch_losses(images.images(shown), anywhere)
            masks.append(mask)
            losses.append(rewards[: len(shown)])
            random_losses.append(mean_over(random_loss, anywhere))

    def stacked(batches: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate(batches).reshape(draws, len(indices), *batches[0].shape[1:])

    return Measurement(stacked(masks), stacked(losses), stacked(random_losses))


def _differences(masks: Bools) -> float:
    """Mean share of patches in which two of the masks `(n, N)` differ, over all pairs."""
    count = len(masks)
    ones = masks.sum(0)
    pairs = count * (count - 1) / 2
    return float((ones * (count - ones)).sum() / masks.shape[1] / pairs) if pairs else float("nan")
