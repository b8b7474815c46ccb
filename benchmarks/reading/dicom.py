"""Reading DICOM: `python -m benchmarks.reading.dicom` (Linux; needs the extra `medical`).

Writes trees of 1,000 and 20,000 CT slices of 256 x 256 into a temporary folder (2.8 GB), half of them compressed (RLE),
and loads each twice, in new processes: images/s and the largest private memory (RssAnon) of all processes while
decoding; then how long the images take from the cache, and that process as a whole, which is mostly `import torch`.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid
from rich.console import Console
from rich.table import Table

from benchmarks.speed.memory import family, in_use

SIDE = 256
LOAD = """
import sys, time
from ahm_env.images.dataset.loader import load_images
begin = time.perf_counter()
load_images(sys.argv[1], 64)
print(time.perf_counter() - begin)
"""


def main() -> None:
    """Measure and print."""
    table = Table("slices", "images/s", "RssAnon of all processes, MB", "from the cache, s", "that process, s")
    figures = []
    with tempfile.TemporaryDirectory() as name:
        for count in (1_000, 20_000):
            tree = Path(name) / f"{count}"
            write(tree, count)
            first, second = (load(tree, Path(name)) for _ in range(2))
            figures.append(first.memory)
            speed = f"{count / first.seconds:.0f}"
            table.add_row(f"{count:,}", speed, f"{first.memory:.0f}", f"{second.seconds:.2f}", f"{second.process:.1f}")
    table.add_row("ratio", "", f"{figures[1] / figures[0]:.3f}", "", "")
    Console().print(table)


def write(tree: Path, count: int) -> None:
    """Series of 100 slices, a patient each."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(900, 1300, (SIDE // 8, SIDE // 8), dtype=np.uint16)
        pixels = np.kron(coarse, np.ones((8, 8), np.uint16))
        one = slice_of(pixels, generate_uid(), PatientID=f"{number // 100}", InstanceNumber=number % 100)
        if number % 2:
            one.compress(RLELossless, generate_instance_uid=False)
        path = tree / f"patient-{number // 100}" / f"{number % 100:03d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        one.save_as(path, enforce_file_format=True)


def slice_of(pixels: NDArray[np.uint16], uid: str, **elements: Any) -> FileDataset:
    """Make a CT slice of 12 bits, with further elements of its header."""
    one = new_file(CTImageStorage, uid, "CT")
    one.RescaleSlope, one.RescaleIntercept, one.WindowCenter, one.WindowWidth = 1, -1024, 40, 400
    one.set_pixel_data(pixels, "MONOCHROME2", 12, generate_instance_uid=False)
    for name, value in elements.items():
        setattr(one, name, value)
    return one


def new_file(kind: UID, uid: str, modality: str) -> FileDataset:
    """Begin a file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, UID(uid)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID, one.Modality = kind, uid, modality
    return one


class Loaded(NamedTuple):
    """Of a new process: seconds until it has its images, its own, and the largest RssAnon in MB with its children."""

    seconds: float
    process: float
    memory: float


def load(tree: Path, folder: Path) -> Loaded:
    """Load a tree in a new process."""
    environment = {**os.environ, "AHM_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    largest, begin = 0.0, time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", LOAD, str(tree)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        while process.poll() is None:
            largest = max(largest, sum(in_use("RssAnon", one) for one in family(process.pid)))
            time.sleep(0.05)
        took = time.perf_counter() - begin
        assert process.stdout is not None
        seconds = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"loading {tree} ended with status {process.returncode}")
    return Loaded(float(seconds), took, largest)


if __name__ == "__main__":
    main()
