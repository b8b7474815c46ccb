"""Private memory of training, predicting, checking.

Called by `python -m benchmarks.speed.memory [million|predict|check]` (Linux). Training: writes two `.npz` files of
1,000 and 100,000 images of noise at 64 px into a temporary folder (0.4 GB), trains on each, and prints the largest
private memory (RssAnon) of the process, once while the images are decoded and once from the cache; `million`: of 1,000
and 1,000,000 (4 GB, and as much for the cache). Predicting: 1,000 and 10,000 files, with overlays. Checking: 1,000 and
100,000 files with masks and splits.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.speed.timing import cpu_of_children


def main() -> None:
    """Measure and print."""
    kinds: dict[str, Callable[[], None]] = {
        "predict": predicting,
        "check": checking,
        "million": partial(training, 1_000_000),
    }
    kinds.get("".join(sys.argv[1:]), training)()


def predicting() -> None:
    """Segment 1,000 and 10,000 files with a small model."""
    from ahm_env.images.pixels.opencv import cv2
    from benchmarks.speed.prediction import SPEC
    from downstream.models.model import MODEL_FILE, Model

    table = Table("files", "RssAnon, MB")
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = replace(SPEC, image_size=32, channels=1, mean=(127.0,), std=(60.0,), width=4)
        Model.create(spec, 0).save(folder / "tuned" / MODEL_FILE)
        generator = np.random.default_rng(0)
        for count in (1_000, 10_000):
            images = folder / f"scans-{count}"
            images.mkdir()
            for number in range(count):
                cv2.imwrite(str(images / f"{number:05d}.png"), generator.integers(0, 256, (64, 64), dtype=np.uint8))
            command = ["predict", str(images), "--from", str(folder / "tuned"), "--out", str(folder / f"found-{count}")]
            figures.append(largest_memory(command, folder))
            table.add_row(f"{count:,}", f"{figures[-1]:.0f}")
        table.add_row("ratio", f"{figures[1] / figures[0]:.3f}")
    Console().print(table)


def training(most: int = 100_000) -> None:
    """Train on 1,000 and on many more images."""
    table = Table("images", "RssAnon while decoding, MB", "RssAnon from the cache, MB")
    figures: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (1_000, most):
            source = Path(folder) / f"{count}.npz"
            pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64), dtype=np.uint8)
            np.savez(source, train_images=pixels)
            del pixels
            figures.append([private_memory(source, Path(folder), turn) for turn in range(2)])
            table.add_row(f"{count:,}", *(f"{figure:.0f}" for figure in figures[-1]))
        few, many = figures
        table.add_row("ratio", *(f"{b / a:.3f}" for a, b in zip(few, many, strict=True)))
    Console().print(table)


def checking() -> None:
    """Check folders of 1,000 and 100,000 images of 32 x 32 pixels, with masks, labels and splits."""
    from ahm_env.images.pixels.opencv import cv2

    table = Table("images", "RssAnon, MB", "CPU, s")
    figures = []
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        for count in (1_000, 100_000):
            folder = Path(name) / str(count)
            rows = ["image,label,split,patient"]
            for part in ("images", "masks"):
                (folder / part).mkdir(parents=True)
            for number in range(count):
                image = cv2.GaussianBlur(generator.integers(0, 256, (32, 32), dtype=np.uint8), (0, 0), 1)
                cv2.imwrite(str(folder / "images" / f"{number:06d}.png"), image)
                cv2.imwrite(str(folder / "masks" / f"{number:06d}.png"), (image > 128) * np.uint8(255))
                rows.append(f"{number:06d},{number % 3},{('train', 'train', 'val', 'test')[number % 4]},")
            (folder / "labels.csv").write_text("\n".join(rows) + "\n")
            before = cpu_of_children()
            figures.append(largest_memory(["data", "check", str(folder)], Path(name)))
            table.add_row(f"{count:,}", f"{figures[-1]:.0f}", f"{cpu_of_children() - before:.0f}")
    table.add_row("ratio", f"{figures[1] / figures[0]:.3f}")
    Console().print(table)


def private_memory(source: Path, folder: Path, turn: int) -> float:
    """Largest RssAnon in MB of a short run with one worker."""
    out = folder / f"run-{source.stem}-{turn}"
    command = ["train-agent", "--data", str(source), "--out", str(out), "--total-images", "480", "--workers", "1"]
    return largest_memory(command, folder)


def largest_memory(arguments: list[str], folder: Path) -> float:
    """Largest RssAnon in MB of `ahm` with these arguments."""
    command = [sys.executable, "-m", "ahm", *arguments]
    environment = {**os.environ, "AHM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    largest = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        while process.poll() is None:
            largest = max(largest, in_use("RssAnon", process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return largest


def in_use(kind: str, process: int | str = "self") -> float:
    """MB of memory of a kind that /proc counts; 0 where the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(kind)), 0.0)


def family(process: int) -> list[int]:
    """List a process and all processes that it began."""
    children: list[str] = []
    for thread in Path(f"/proc/{process}/task").glob("*"):
        with suppress(OSError):
            children += (thread / "children").read_text().split()
    return [process, *(one for child in children for one in family(int(child)))]


if __name__ == "__main__":
    main()
