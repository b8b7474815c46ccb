"""How close prediction comes to what its slowest part takes alone: `python -m benchmarks.speed.prediction [COUNT]`.

COUNT (64) PNGs of 512 px are predicted by a segmenter of width 32 at 128 px, in one thread, while threads of its own
decode and write. In turn, by the clock, which needs free cores; and by CPU of the main thread, where the network
computes: nothing can be faster than that, however many cores are free.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ahm_env import load_images
from ahm_env.images.dataset.builder import in_order
from ahm_env.images.pixels.png import save_picture
from ahm_env.images.source import Sample
from benchmarks.speed.timing import shown
from downstream import predict
from downstream.evaluation.segmentation import BATCH
from downstream.models.model import MODEL_FILE, Model, ModelSpec
from downstream.models.resizing import to_square
from downstream.prediction.inputs import find_images

ROUNDS = 5
SPEC = ModelSpec(
    task="segmentation",
    model="unet",
    classes=("background", "foreground"),
    values=(0, 1),
    image_size=128,
    channels=3,
    fit="stretch",
    mean=(127.0,) * 3,
    std=(60.0,) * 3,
    width=32,
    norm="batch",
    bilinear=False,
)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    count = int("".join(sys.argv[1:]) or 64)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "scans", count)
        model = Model.create(SPEC, 0, precision="fp32")
        model.save(folder / "tuned" / MODEL_FILE)
        found = find_images([folder / "scans"], SPEC.pixels)
        loaded = (one.found for one in in_order(found.loads(()), BATCH))
        some = [sample for sample in loaded if isinstance(sample, Sample)][:BATCH]
        squares = np.stack([to_square(sample.image, SPEC) for sample in some])

        def predicting(overlays: bool = False) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                drain(predict(folder / "tuned", [folder / "scans"], out, overlays=overlays, precision="fp32"))

        parts = {
            "decoding alone": lambda: drain(in_order(found.loads(()), BATCH)),
            "forward pass alone": lambda: drain(
                model.probabilities(squares[: count - start]) for start in range(0, count, BATCH)
            ),
            "predict": lambda: predicting(overlays=True),
            "predict --no-overlays": predicting,
        }
        seconds = np.array([[timed(part) for part in parts.values()] for _ in range(ROUNDS)])
    table = Table("", "images/s by the clock", "over the slower alone", "CPU of the main thread over the forward pass")
    clock, main_thread = seconds[..., 0], seconds[..., 1]
    slower = clock[:, :2].max(1)
    for column, name in enumerate(parts):
        row, busy = clock[:, column], main_thread[:, column] / main_thread[:, 1]
        table.add_row(name, f"{count / np.median(row):.1f}", shown(slower / row), shown(busy))
    Console().print(table)


def write_images(folder: Path, count: int) -> None:
    """Write phantoms with noise, which makes files as large as those of photographs, as PNGs of 512 px."""
    images, generator = load_images(f"phantom:{count}", 512), np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        pixels = images.images(np.array([number]))[0].transpose(1, 2, 0)
        noisy = pixels + generator.normal(0, 3, pixels.shape)
        save_picture(folder / f"{number:04d}.png", noisy.clip(0, 255).astype(np.uint8))


def drain(results: Iterable[object]) -> None:
    """Go through all of them."""
    for _ in results:
        pass


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a call by the clock, and CPU seconds of this thread."""
    clock, thread = time.perf_counter(), time.thread_time()
    function()
    return time.perf_counter() - clock, time.thread_time() - thread


if __name__ == "__main__":
    main()
