"""Measure what the environment, the agent, the workers and the command line cost: `python -m benchmarks`.

64 px, patch 8, ratio 0.5, U-Net of width 16, batches of 12, on phantom images. Each figure is a ratio of two things
timed in turn, A B A B …, and the median over the pairs, so that it holds where the machine's speed drifts.
"""

import csv
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from agents import A3C, Agent, make_agent
from ahm_env import PatchGrid, PatchMaskVectorEnv, Reconstructor, Standardisation, load_images
from ahm_env.masks import random_masks
from ahm_env.model.devices import describe_precision, has_bf16

BATCH, WIDTH, GRID = 12, 16, PatchGrid(64, 8)
PAIRS, STEPS = 7, 12  # pairs of timings, and batches in each
AHM = [sys.executable, "-m", "ahm"]


def main() -> None:
    """Measure and print."""
    images = load_images("phantom:500", GRID.image_size)
    train = images.split("train")
    mean, std = images.standardisation(train)
    standardisation = Standardisation(tuple(mean.tolist()), tuple(std.tolist()))

    def make(co_train: bool) -> tuple[PatchMaskVectorEnv, Reconstructor]:
        reconstructor = Reconstructor.create(GRID, standardisation, WIDTH, precision="fp32")
        env = PatchMaskVectorEnv(BATCH, data=images, unet=reconstructor, co_train=co_train)
        env.reset(seed=0)
        return env, reconstructor

    torch.set_num_threads(1)
    table = Table(title="A / B, median (least – most)")
    for heading in ("A", "B", "ratio", "goal"):
        table.add_column(heading, justify="right" if heading in ("ratio", "goal") else "left")

    env, reconstructor = make(co_train=False)
    action = random_masks(BATCH, GRID.patches, 32, np.random.default_rng(0)).astype(np.int8)
    batch = reconstructor.standardise(images.images(train[:BATCH]))
    reconstructor.unet.eval()

    def steps() -> None:
        for _ in range(STEPS):
            env.step(action)

    @torch.inference_mode()
    def forward() -> None:
        for _ in range(STEPS):
            reconstructor.unet(batch)

    add(table, "environment step, frozen", "bare U-Net forward", steps, forward, "≤ 1.10")

    joint, _ = make(co_train=True)
    agent = A3C(joint)
    plain = bare_training(images.images(train), Reconstructor.create(GRID, standardisation, WIDTH))

    def learn() -> None:
        agent.learn(joint, BATCH * STEPS)

    add(table, "joint training, per image", "bare random-mask training", learn, plain, "≤ 1.15")

    for name in ("ppo", "a2c"):
        other_env, _ = make(co_train=True)
        other = make_agent(name, other_env)

        def learn_both(who: Agent = other, where: PatchMaskVectorEnv = other_env) -> None:
            who.learn(where, 2 * BATCH * STEPS)  # three rollouts of PPO

        add(
            table,
            "a3c, time for so many images",
            f"{name}, time for as many",
            lambda: (learn(), learn()),
            learn_both,
            "≥ 0.8",
        )

    cpu = torch.device("cpu")
    if has_bf16(cpu):
        fp32, bf16 = (
            learning(images.images(train), Reconstructor.create(GRID, standardisation, WIDTH, precision=precision))
            for precision in ("fp32", "bf16")
        )
        add(table, "U-Net training in fp32", "in bf16", fp32, bf16, "≥ 1.4")
    else:
        table.add_row("U-Net training in fp32", "in bf16", describe_precision("fp32", cpu), "≥ 1.4")

    speeds = [[images_per_second(workers) for workers in (2, 1)] for _ in range(3)]
    ratios = sorted(two / one for two, one in speeds)
    table.add_row("two workers, images/s", "one worker with two threads", shown(ratios), "≥ 1.0")
    seconds = sorted(help_seconds() for _ in range(5))
    table.add_row("ahm --help, seconds", "", shown(seconds), "≤ 0.5")
    Console().print(table)


def learning(pixels: np.ndarray, reconstructor: Reconstructor) -> Callable[[], None]:
    """Return a function that trains a Reconstructor for `STEPS` steps with random masks."""
    generator = np.random.default_rng(0)

    def train() -> None:
        for _ in range(STEPS):
            shown = pixels[generator.integers(len(pixels), size=BATCH)]
            reconstructor.learn(shown, random_masks(BATCH, GRID.patches, 32, generator))

    return train


def bare_training(pixels: np.ndarray, reconstructor: Reconstructor) -> Callable[[], None]:
    """Return a plain training loop with random masks, written without the environment."""
    unet, optimiser = reconstructor.unet.train(), torch.optim.Adam(reconstructor.unet.parameters(), 5e-4, fused=True)
    generator = np.random.default_rng(0)

    def step() -> None:
        shown = torch.from_numpy(pixels[generator.integers(len(pixels), size=BATCH)]).float()
        targets = (shown - reconstructor.mean) / reconstructor.std
        targets = targets.contiguous(memory_format=torch.channels_last)
        masks = torch.from_numpy(random_masks(BATCH, GRID.patches, 32, generator)).float()
        hidden: Tensor = GRID.to_pixels(masks)
        output = unet(targets * (1 - hidden))
        loss = ((output - targets).square() * hidden).sum() / hidden.sum() / 3
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    def train() -> None:
        for _ in range(STEPS):
            step()

    return train


def add(table: Table, name: str, other: str, a: Callable[[], object], b: Callable[[], object], goal: str) -> None:
    """Time A and B in turn, and add the ratio of their times."""
    a(), b()
    ratios = []
    for _ in range(PAIRS):
        times = []
        for function in (a, b):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        ratios.append(times[0] / times[1])
    table.add_row(name, other, shown(sorted(ratios)), goal)


def shown(ordered: list[float]) -> str:
    """Median (least – most)."""
    return f"{statistics.median(ordered):.2f} ({ordered[0]:.2f} – {ordered[-1]:.2f})"


def images_per_second(workers: int) -> float:
    """Speed of a run as users start it, without its start."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [*AHM, "train-agent", "--workers", str(workers), "--total-images", "4000", "--out", str(out)]
        subprocess.run(command, check=True, capture_output=True)
        with (out / "metrics.csv").open() as file:
            speeds = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    return statistics.median(speeds[len(speeds) // 3 :])


def help_seconds() -> float:
    """Time of `ahm --help`, as a whole process."""
    start = time.perf_counter()
    subprocess.run([*AHM, "--help"], check=True, capture_output=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
