"""Private memory of a run on 1,000 and on 100,000 images: `python -m benchmarks.memory` (Linux).

Writes two `.npz` files of noise at 64 px into a temporary folder (0.4 GB), trains on each, and prints the largest
private memory (RssAnon) of the training process, once while the images are decoded and once from the cache.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table


def main() -> None:
    """Measure and print."""
    table = Table("images", "RssAnon while decoding, MB", "RssAnon from the cache, MB")
    figures: list[list[float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in (1_000, 100_000):
            source = Path(folder) / f"{count}.npz"
            pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64), dtype=np.uint8)
            np.savez(source, train_images=pixels)
            del pixels
            figures.append([private_memory(source, Path(folder), turn) for turn in range(2)])
            table.add_row(f"{count:,}", *(f"{figure:.0f}" for figure in figures[-1]))
        few, many = figures
        table.add_row("ratio", *(f"{b / a:.3f}" for a, b in zip(few, many, strict=True)))
    Console().print(table)


def private_memory(source: Path, folder: Path, turn: int) -> float:
    """Largest RssAnon in MB of a short run with one worker."""
    out = folder / f"run-{source.stem}-{turn}"
    command = [sys.executable, "-m", "ahm", "train-agent", "--data", str(source), "--out", str(out)]
    command += ["--images", "480", "--workers", "1"]
    environment = {**os.environ, "AHM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    largest = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        while process.poll() is None:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    largest = max(largest, int(line.split()[1]) / 1024)
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return largest


if __name__ == "__main__":
    main()
