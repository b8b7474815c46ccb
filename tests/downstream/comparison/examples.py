"""Experiments of few small images, and of a few steps."""

from pathlib import Path
from typing import Any

from downstream.comparison.experiment import Experiment
from downstream.comparison.options import Downstream

COMMON = {"data": "phantom:40:0", "image_size": 16, "patch_size": 4, "width": 2, "total_images": 24, "device": "cpu"}
QUICK = "steps=2,batch_size=2,augment=none"
ALGOS = ("scratch", "random", "a3c")


def make(out: Path, algos: tuple[str, ...] = ALGOS, runs: int = 2, **changes: Any) -> Experiment:
    given = {"tasks": "segmentation,classification", "labels": "8,all", "settings": QUICK, **changes}
    return Experiment(out, algos, runs, COMMON, Downstream(**given))
