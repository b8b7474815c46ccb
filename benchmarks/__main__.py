"""Measure what the environment, the agent, the workers and the command line cost: `python -m benchmarks [PART …]`.

64 px, patch 8, ratio 0.5, U-Net of width 16, batches of 12, one thread, on phantom images. Each figure is a ratio of
the CPU time of two things that are timed in turn, A B A B …: the median over 20 pairs, and its 95 % interval. Parts:
start, environment, training, agents, precision, workers; by default all.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agents import A3C, Agent, make_agent
from ahm_env import PatchMaskVectorEnv
from ahm_env.files import read_rows
from ahm_env.model.devices import describe_precision, has_bf16
from benchmarks.speed.loops import (
    BATCH,
    WIDTH,
    bare_training,
    draw_masks,
    joint_training,
    learning,
    make_env,
    make_reconstructor,
    random_steps,
    times,
    train_images,
)
from benchmarks.speed.timing import commands_in_turn, in_turn, shown

ROLLOUTS = 288  # images: three rollouts of PPO
AHM = [sys.executable, "-m", "ahm"]


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    table = Table(title="A / B, median (95 % interval; of workers, least – most of three pairs)")
    for heading in ("A", "B", "ratio", "goal"):
        table.add_column(heading, justify="right" if heading in ("ratio", "goal") else "left")
    parts = {
        "start": start,
        "environment": environment,
        "training": training,
        "agents": agents,
        "precision": precision,
        "workers": workers,
    }
    for name in sys.argv[1:] or parts:
        parts[name](table)
    Console().print(table)


def start(table: Table) -> None:
    """Time what a user waits for before anything happens."""
    imports = commands_in_turn(*([sys.executable, "-c", f"import {name}"] for name in ("ahm_env", "torch")))
    table.add_row("import ahm_env", "import torch", shown(imports[:, 0] / imports[:, 1]), "≤ 2.0")
    table.add_row("ahm --help, seconds", "", shown(commands_in_turn([*AHM, "--help"])[:, 0]), "≤ 0.5")


def environment(table: Table) -> None:
    """Time a step, and what it computes with the U-Net, against the forward pass alone."""
    env = make_env(co_train=False)
    reconstructor = env.reconstructor
    masks = draw_masks(reconstructor.grid, np.random.default_rng(0))
    action = masks.astype(np.int8)
    pixels = train_images()[:BATCH]
    batch = reconstructor.standardise(pixels)

    @torch.inference_mode()
    def forward() -> None:
        reconstructor.unet(batch)

    bare = times(forward)
    add(
        table,
        "environment step, frozen U-Net",
        "bare forward pass",
        times(lambda: env.step(action)),
        bare,
        "≤ 1.05",
    )
    losses = times(lambda: reconstructor.patch_losses(pixels, masks))
    add(table, "  of which: patch losses", "bare forward pass", losses, bare)


def training(table: Table) -> None:
    """Time training with a3c's masks, and its parts, against a plain training loop with random masks."""
    other, bare = "bare random-mask training", bare_training()
    env = make_env(co_train=True)
    add(table, "joint training", other, joint_training(env), bare, "≤ 1.10")
    add(table, "  of which: environment, random masks", other, random_steps(env), bare)
    add(table, "  of which: U-Net", other, learning(env.reconstructor), bare)
    wide = make_env(co_train=True, width=2 * WIDTH)
    add(table, "joint training, width 32", other, joint_training(wide), bare_training(2 * WIDTH), "≤ 1.10")


def agents(table: Table) -> None:
    """Time a3c against other agents."""
    env = make_env(co_train=True)
    agent = A3C(env)
    for name in ("ppo", "a2c"):
        other_env = make_env(co_train=True)
        other = make_agent(name, other_env)

        def learn(who: Agent = other, where: PatchMaskVectorEnv = other_env) -> None:
            who.learn(where, ROLLOUTS)

        row = "a3c, time for so many images", f"{name}, time for as many"
        add(table, *row, lambda: agent.learn(env, ROLLOUTS), learn, "≤ 1.25")


def precision(table: Table) -> None:
    """Time the training of the U-Net in fp32 against that in bf16."""
    cpu = torch.device("cpu")
    row = "U-Net training in fp32", "in bf16"
    if has_bf16(cpu):
        fp32, bf16 = (learning(make_reconstructor(precision=name)) for name in ("fp32", "bf16"))
        add(table, *row, fp32, bf16, "≥ 1.4")
    else:
        table.add_row(*row, describe_precision("fp32", cpu), "≥ 1.4")


def workers(table: Table) -> None:
    """Compare the speed of whole runs, by the clock: other cores have to be free."""
    speeds = np.array([[images_per_second(count) for count in (2, 1)] for _ in range(3)])
    table.add_row("two workers, images/s", "one worker with two threads", shown(speeds[:, 0] / speeds[:, 1]), "≥ 1.0")


def add(table: Table, name: str, other: str, a: Callable[[], object], b: Callable[[], object], goal: str = "") -> None:
    """Time A and B in turn, and add the ratio of their times."""
    seconds = in_turn(a, b)
    table.add_row(name, other, shown(seconds[:, 0] / seconds[:, 1]), goal)


def images_per_second(workers: int) -> float:
    """Speed of a run as users start it, without its start."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run = ["train-agent", "--workers", str(workers), "--total-images", "4000", "--device", "cpu", "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}  # of one worker; several take one each
        subprocess.run([*AHM, *run], check=True, capture_output=True, env=environment)
        speeds = [float(row["images_per_second"]) for row in read_rows(out / "metrics.csv")]
    return statistics.median(speeds[len(speeds) // 3 :])


if __name__ == "__main__":
    main()
