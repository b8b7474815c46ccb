"""What agents can learn on one frozen U-Net.

Called by `python -m benchmarks.experiments.studies STUDY UNET DATA [IMAGES [SEEDS [FIRST]]]`. IMAGES are shown to each
agent, with so many SEEDS from the FIRST on (0). Studies are `coordination`, `credit`, `exploration` and `size`.

Coordination: does hiding neighbours together pay? `hard-patches` regresses every patch's loss on its own, so it can
only rank patches (half of its masks are random in training, as in HPM, or it would never learn of patches that it does
not hide). a3c also hears what the image paid (lambda) and, with a horizon above 1, sees what it has hidden already.
All hide the same quota. Hardness is given for sampled masks and for the likeliest ones, which `hard-patches` always
hides. The bounds at the end cheat: they look at the losses of the image itself, `ranked` patch by patch under random
masks, `searched` by exchanging patches one after the other.

Credit: a3c that hears of a drawn patch's own loss alone, of the losses from that draw on, of the image's reward, and of
the mixture that is its default; and PPO and A2C that hear of the image's reward, of hidden patches, or of both.

Exploration: weights of the entropy, and what may change over a run.

Size: a3c with a range of mask ratios, within which it decides for each image, against fixed ratios. Hardness is
relative to random masks of the same sizes.
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agents import make_agent
from agents.agent import Agent, Callback, Update
from agents.pretraining.hardness import measure
from agents.pretraining.schedule import split_held_out
from ahm_env import ImageSet, MaskRatio, PatchGrid, PatchMaskVectorEnv, Reconstructor, load_images
from ahm_env.masks import Ints, highest, random_masks

IMAGES, BATCH, SEEDS = 8_000, 24, 2
DRAWS = 8  # masks an image, and random ones to compare with
HALF = MaskRatio.parse(0.5)
GRID = PatchGrid(64, 8)
RATIOS = ("0.3:0.7", "0.3", "0.5", "0.7")
Contestants = list[tuple[str, int, dict[str, Any]]]  # agent, horizon, settings
COORDINATION: Contestants = [
    ("hard-patches", 1, {}),
    *(("a3c", 1, {"image_weight": weight}) for weight in (0.0, 0.5, 2.0)),
    ("a3c", 2, {"image_weight": 2.0}),
    ("a3c", 4, {"image_weight": 2.0}),
    ("a3c", 4, {"image_weight": 0.0}),
]
OWN, MIXED = {"own_weight": 1.0, "image_weight": 0.0}, {"own_weight": 1.0, "image_weight": 2.0}
CREDIT: Contestants = [
    ("a3c", 1, OWN),
    ("a3c", 1, {"own_weight": 0.0, "image_weight": 0.0, "to_go_weight": 1.0}),
    ("a3c", 1, {"own_weight": 0.0, "image_weight": 1.0}),
    ("a3c", 1, {}),
    *((name, 1, weights) for name in ("ppo", "a2c") for weights in ({}, OWN, MIXED)),
]
EXPLORATION: Contestants = [
    *(("a3c", 1, {"ent_coef": weight}) for weight in (0.005, 0.02, 0.05, 0.1)),
    ("a3c", 1, {"ent_coef": 0.05, "temperature": "1:0.5"}),
    *(("a3c", 1, {"ent_coef": weight, "bound": "2:5"}) for weight in ("0.02:0.002", "0.05:0.002")),
    *(
        (name, 1, {**weights, "ent_coef": "0.02:0.002", "bound": "2:5"})
        for name in ("ppo", "a2c")
        for weights in (OWN, MIXED)
    ),
]


def coordination(source: ImageSet, reference: Reconstructor, images: int, seeds: range) -> Table:
    """Loss regression against a3c, by lambda and horizon."""
    table = contest(COORDINATION, source, reference, images, seeds)
    for name, hardness in bounds(reference, source, split_held_out(source)[1]).items():
        table.add_row(name, "–", "–", "–", f"{hardness:.2f}", "–")
    return table


def contest(studied: Contestants, source: ImageSet, reference: Reconstructor, images: int, seeds: range) -> Table:
    """Train agents, and measure their sampled and their likeliest masks."""
    shown, held_out = split_held_out(source)
    table = Table("agent", "horizon", "settings", "hardness, sampled", "hardness, likeliest", "images/s")
    for name, horizon, settings in studied:
        sampled, likeliest, speeds = [], [], []
        for seed in seeds:
            env = PatchMaskVectorEnv(BATCH, data=source, indices=shown, unet=reference, horizon=horizon)
            env.reset(seed=seed)
            agent = make_agent(name, env, seed, **settings)
            began = time.perf_counter()
            agent.learn(env, images, curriculum(agent, env, images))
            speeds.append(images / (time.perf_counter() - began))
            found = measure(agent, reference, source, held_out, HALF, horizon, DRAWS)
            sampled.append(found.sampled.hardness)
            likeliest.append(found.likeliest.hardness)
            print(name, horizon, settings, seed, f"{sampled[-1]:.3f} {likeliest[-1]:.3f}", flush=True)
        numbers = [f"{np.mean(kind):.2f} ({min(kind):.2f} – {max(kind):.2f})" for kind in (sampled, likeliest)]
        changed = " ".join(f"{key}={value}" for key, value in settings.items()) or "–"
        table.add_row(name, str(horizon), changed, *numbers, f"{np.mean(speeds):.0f}")
    return table


def size(source: ImageSet, reference: Reconstructor, images: int, seeds: range) -> Table:
    """Compare a range of mask ratios with fixed ones."""
    shown, held_out = split_held_out(source)
    table = Table(
        "mask ratio", "hardness", "hidden, mean", "hidden, least – most of an image", "loss of hidden patches"
    )
    for ratio in RATIOS:
        hardness, losses, masks = [], [], []
        for seed in seeds:
            env = PatchMaskVectorEnv(BATCH, data=source, indices=shown, unet=reference, mask_ratio=ratio)
            env.reset(seed=seed)
            agent = make_agent("a3c", env, seed)
            agent.learn(env, images, curriculum(agent, env, images))
            found = measure(agent, reference, source, held_out, MaskRatio.parse(ratio), 1, DRAWS).sampled
            hardness.append(found.hardness)
            losses.append(found.losses.mean())
            masks.append(found.masks.mean((0, 2)))  # share of each image that is hidden, over its masks
            print(ratio, seed, f"{hardness[-1]:.3f} {masks[-1].mean():.3f}", flush=True)
        shares = np.concatenate(masks)
        table.add_row(
            ratio,
            f"{np.mean(hardness):.2f} ({min(hardness):.2f} – {max(hardness):.2f})",
            f"{shares.mean():.2f}",
            f"{shares.min():.2f} – {shares.max():.2f}",
            f"{np.mean(losses):.3f}",
        )
    return table


STUDIES: dict[str, Callable[[ImageSet, Reconstructor, int, range], Table]] = {
    "coordination": coordination,
    "credit": partial(contest, CREDIT),
    "exploration": partial(contest, EXPLORATION),
    "size": size,
}


def main(study: str, unet: Path, data: str, images: int = IMAGES, seeds: int = SEEDS, first: int = 0) -> None:
    """Train, measure and print."""
    torch.set_num_threads(1)
    source, reference = load_images(data, GRID.image_size), Reconstructor.load(unet, GRID)
    table = STUDIES[study](source, reference, images, range(first, first + seeds))
    Console(width=110).print(table)


def curriculum(agent: Agent, env: PatchMaskVectorEnv, images: int) -> Callback:
    """Tell the agent how far it is. `hard-patches` chooses half of the mask at the end, as HPM does."""
    seen, env.agent_share = 0, 0.0 if agent.name == "hard-patches" else 1.0

    def after(update: Update) -> bool:
        nonlocal seen
        seen += update.images
        agent.progress = min(1.0, seen / images)
        env.agent_share = 0.5 * agent.progress if agent.name == "hard-patches" else 1.0
        return True

    return after


def bounds(reference: Reconstructor, source: ImageSet, indices: Ints, looks: int = 128, exchanges: int = 400) -> Any:
    """Hardness of masks that cheat."""
    generator = np.random.default_rng(0)
    images, count, quota = source.images(indices), len(indices), GRID.patches // 2

    def earned(masks: Any) -> Any:
        return (reference.patch_losses(images, masks) * masks).sum(1) / quota

    total, times, anywhere = np.zeros((count, GRID.patches)), np.zeros((count, GRID.patches)), []
    for _ in range(looks):
        masks = random_masks(count, GRID.patches, quota, generator)
        losses = reference.patch_losses(images, masks) * masks
        total, times = total + losses, times + masks
        anywhere.append(losses.sum(1) / quota)
    best = highest(total / times, np.full(count, quota), np.zeros(total.shape, bool))
    ranked = worth = earned(best)
    for _ in range(exchanges):
        proposed = best.copy()
        for row in range(count):
            proposed[row, generator.choice(np.flatnonzero(best[row]))] = False
            proposed[row, generator.choice(np.flatnonzero(~best[row]))] = True
        better = (now := earned(proposed)) > worth
        best[better], worth = proposed[better], np.where(better, now, worth)
    random = np.mean(anywhere)
    return {"ranked": ranked.mean() / random, f"searched, {exchanges} exchanges": worth.mean() / random}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
