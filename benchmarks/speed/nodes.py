"""What workers on a cluster cost, and how many a parameter server can serve.

Called by `python -m benchmarks.speed.nodes [PART …]`. Parts are `speed`, `server`, `hardness`; by default the first
two. All of it runs on this machine, patch 8, a3c.

`speed`: images a second of two workers on a cluster (`--cluster auto`) over those of two processes, in turn, in the
second half of their runs, and images a second of CPU, which other processes disturb less; medians over three pairs,
the least and the most.
`server`: of U-Nets of several widths, the bytes that a worker hands over after a batch, and as many come back; the CPU
time of that, Ray's part included, for the server and for the worker, and of the batch itself. A server with a CPU of
its own is full with so many workers as its time goes into one's batch, if the network carries it.
`hardness`: of the masks after as many images by 1, 2 and 4 workers on a cluster.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from agents import make_agent
from agents.pretraining.nodes import learners
from agents.pretraining.schedule import make_env, make_reconstructor, split_held_out
from agents.pretraining.settings import RunSettings
from agents.pretraining.workers import Work
from ahm_env.files import read_rows
from ahm_env.model.parameter_server import Link, ParameterServer
from ahm_env.runs.cluster import AUTO, connected
from benchmarks.speed.memory import family

AHM = [sys.executable, "-m", "ahm", "train-agent", "--device", "cpu"]
PAIRS, IMAGES = 3, 1_000  # of `speed`
SIZES = ((16, 64), (32, 64), (64, 64), (16, 256), (32, 256), (64, 256))
PUSHES, BATCHES = 40, 3
SEEDS, HARDNESS_IMAGES = 5, 4_000


def main(parts: list[str]) -> None:
    """Measure and print."""
    console = Console(width=120)
    for part in parts or ["speed", "server"]:
        console.print({"speed": speed, "server": server, "hardness": hardness}[part]())


def speed() -> Table:
    """Two workers on a cluster over two processes."""
    table = Table("cluster / processes", "median", "least – most")
    pairs = []
    for _ in range(PAIRS):
        there, here = (speeds("--workers", "2", *words) for words in (("--cluster", AUTO), ()))
        print(*(f"{one:.1f}" for one in (*there, *here)), flush=True)
        pairs.append([one / other for one, other in zip(there, here, strict=True)])
    for name, ratios in zip(("images a second", "images a second of CPU"), zip(*pairs, strict=True), strict=True):
        table.add_row(name, f"{np.median(ratios):.2f}", f"{min(ratios):.2f} – {max(ratios):.2f}")
    return table


def speeds(*words: str) -> tuple[float, float]:
    """Images a second, and a second of CPU of all processes, in the second half of a run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        table = path / "metrics.csv"
        marks = list[tuple[int, float, float]]()
        with subprocess.Popen([*AHM, *words, "--total-images", str(IMAGES), "--out", str(path)], stdout=DEVNULL) as run:
            while run.poll() is None:
                rows = read_rows(table) if table.exists() else []
                if len(rows) > len(marks) and int(rows[-1]["images"]) < IMAGES:  # of the last, all others have ended
                    marks += [(int(rows[-1]["images"]), time.monotonic(), cpu_seconds(run.pid))]
                time.sleep(0.05)
        assert run.returncode == 0
        half = len(marks) // 2
        assert "--cluster" not in words or float(read_rows(table)[half]["staleness"]) > 0, "too short: one was alone"
        images, seconds, cpu = np.subtract(marks[-1], marks[half])
    return images / seconds, images / cpu


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, and of all that it has started and that has not ended."""
    ticks = 0
    for one in family(pid):
        with suppress(OSError):
            words = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def hardness() -> Table:
    """Hardness, and the U-Net's loss, with several workers."""
    measured = {"hardness_sampled": "sampled, each seed", "hardness_likeliest": "likeliest", "unet_loss": "loss"}
    table = Table("workers", *measured.values(), "mean staleness")
    for workers in (1, 2, 4):
        last = list[dict[str, str]]()
        stale = list[float]()
        for seed in range(SEEDS):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "run"
                words = ["--workers", str(workers), "--cluster", AUTO, "--seed", str(seed), "--out", str(path)]
                subprocess.run([*AHM, *words, "--total-images", str(HARDNESS_IMAGES)], check=True, stdout=DEVNULL)
                rows = read_rows(path / "metrics.csv")
            last.append(rows[-1])
            stale += [float(row["staleness"]) for row in rows]
        found = (", ".join(f"{float(row[name]):.3f}" for row in last) for name in measured)
        table.add_row(str(workers), *found, f"{statistics.mean(stale):.1f}")
    return table


class Measured(ParameterServer):
    """A server that tells what it has cost, and foresees weights as if it had several workers."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.totals[:2] = 1, 1

    def seconds(self) -> float:
        """CPU time of its process so far, all threads."""
        return time.process_time()


def server() -> Table:
    """Measure what a push costs, and how many workers can be served."""
    table = Table(
        "width", "pixels", "MB a push", "server, ms", "pushes/s", "worker, ms", "batch, ms", "workers until full"
    )
    with connected(AUTO, 2) as ray:
        for width, pixels in SIZES:
            size, served, push, batch = cost(ray, width, pixels)
            times = f"{served * 1e3:.1f}", f"{1 / served:.0f}", f"{push * 1e3:.1f}", f"{batch * 1e3:.0f}"
            numbers = f"{size / 1e6:.1f}", *times, f"{(batch + push) / served:.0f}"
            table.add_row(str(width), str(pixels), *numbers)
            print(width, pixels, *numbers, flush=True)
    return table


def cost(ray: Any, width: int, pixels: int) -> tuple[int, float, float, float]:
    """Bytes of a push; CPU seconds of it for the server and for the worker, and of a batch."""
    torch.set_num_threads(1)
    settings = RunSettings(data="phantom:100", image_size=pixels, width=width, device="cpu", workers=1)
    images = settings.load_images()
    shown, _ = split_held_out(images)
    reconstructor = make_reconstructor(settings, *images.standardisation(shown))
    env = make_env(settings, images, shown, reconstructor)
    env.reset(seed=0)
    agent = make_agent(settings.algo, env)
    networks = learners(Work(settings, images, shown, reconstructor, agent))
    batches = list[float]()
    for _ in range(BATCHES + 1):  # the first is slower
        start = time.process_time()
        agent.learn(env, settings.batch_size)
        batches.append(time.process_time() - start)
    actor = ray.remote(Measured).options(num_cpus=0).remote(networks, 0, 0)
    link = Link(ray, actor, networks)

    def push() -> None:
        for _, optimiser in networks:
            optimiser.step()  # which hands over the gradients that are there
        link.add(settings.batch_size)

    push()
    served, start = ray.get(actor.seconds.remote()), time.process_time()
    for _ in range(PUSHES):
        push()
    pushed = (time.process_time() - start) / PUSHES
    served = (ray.get(actor.seconds.remote()) - served) / PUSHES
    size = sum(weight.nbytes for _, optimiser in networks for weight in optimiser.weights)
    ray.kill(actor)
    return size, served, pushed, statistics.median(batches[1:])


if __name__ == "__main__":
    main(sys.argv[1:])
