"""The original publication's table under its protocol.

Called by `python -m benchmarks.experiments.reproduction DATA OUT [PATTERN]`. DATA is a folder with the set `isic2018`.
A U-Net, directly or after pretraining on random or on the agent's masks, learns to segment; then VGG16 learns to
classify the lesions that this U-Net cuts out. Pretraining has `--preset paper` and the three stages of the published
code, both ways of fine-tuning have `--preset paper`. All labels of the train split are learned from, the last state is
kept, and it is tested once on `val`, of which training sees nothing.

Unlike the original: public images; 64 px and a U-Net of width 16 instead of 320 px and 64; patches of 4 px, which makes
a grid of 16 x 16 (there 20 x 20); crops of 32 px, and no published weights for VGG16. The original's numbers of images
and epochs are not known, nor what it transferred (here the encoder) and whether it balanced classes (here not).

A cell is one arm with one seed, in a directory of its own, SEED/ARM, so that the same command goes on where it was
stopped; PATTERN, a regular expression, chooses among SEED/ARM/segmentation and SEED/ARM/classification, and several
processes may share the work. What is done is in `docs/results/reproduction.csv`; the tables are printed at the end.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from agents.pretraining.console import train_agent
from agents.pretraining.run_directory import RunDirectory
from downstream.comparison.results.rows import Row, write_results
from downstream.comparison.results.tables import tables_of
from downstream.comparison.trials import FinetuneTrial
from downstream.finetuning.console import finetune
from downstream.reports.report import Table

SET = "isic2018"
SEEDS = 5
ARMS = {"scratch": "U-Net directly", "random": "random masks", "a3c": "AHM (a3c)"}
PUBLISHED = {"Dice": {"scratch": "0.6000", "a3c": "0.6345"}, "accuracy": {"scratch": "76.29 %", "a3c": "78.64 %"}}

# So that all takes two and a half hours of a quiet core, or more than three of a busy one, on which were measured: 36
# images a second of pretraining, 35 of segmentation, 12 of VGG16, which takes half of the time. An epoch is 1,599
# images, of pretraining 1,520; its three stages have two epochs each.
PRETRAINING: dict[str, Any] = {"image_size": 64, "patch_size": 4, "width": 16, "total_images": 9_000}
SEGMENTATION: dict[str, Any] = {"steps": 1_600}  # four epochs
CLASSIFICATION: dict[str, Any] = {"model": "vgg16", "image_size": 32, "class_weights": False, "steps": 1_200}  # three

RESULTS = Path(__file__).parents[2] / "docs" / "results" / "reproduction.csv"


def run_stage(stage: str, data: Path, path: Path, seed: int, arm: str) -> int:
    """Do one stage of a cell, or go on with it; the exit status is not 0 where it was interrupted."""
    directory = path / stage
    if (arm == "scratch" and stage == "pretraining") or is_done(directory):
        return 0
    begun = (directory / "config.json").exists()
    given: dict[str, Any] = {"data": str(data / SET), "seed": seed, "device": "cpu"}
    if stage == "pretraining":
        given |= {**PRETRAINING, "algo": arm, "schedule": "staged", "workers": 1}
        return train_agent({} if begun else given, None if begun else "paper", directory, begun)
    if stage == "segmentation":
        own = {name: PRETRAINING[name] for name in ("image_size", "width")} if arm == "scratch" else {}
        given |= {**SEGMENTATION, **own, "task": stage}
        given["start"] = "scratch" if arm == "scratch" else str(path / "pretraining")
    else:
        given |= {**CLASSIFICATION, "task": stage, "crop_with": str(path / "segmentation")}
    status = finetune({} if begun else given, None if begun else "paper", directory, begun)
    if not status:
        shutil.rmtree(directory / "checkpoints")  # VGG16's are large
    return status


def is_done(directory: Path) -> bool:
    """Whether a stage is done."""
    if directory.name != "pretraining":
        return (directory / "test.json").exists()
    saved = [int(one.stem) for one in (directory / "checkpoints").glob("[0-9]*.safetensors")]  # written last
    return max(saved, default=0) >= int(PRETRAINING["total_images"])


def results(out: Path) -> list[Row]:
    """All numbers of what is done."""
    rows = list[Row]()
    for task in ("segmentation", "classification"):
        for seed in range(SEEDS):
            for arm in ARMS:
                path, run = out / str(seed) / arm, None if arm == "scratch" else seed
                trial = FinetuneTrial(arm, run, seed, task, None, "none", arm, path / task, {}, 0)
                rows += trial.rows()
                if task == "segmentation" and arm != "scratch" and is_done(path / "pretraining"):
                    last = RunDirectory(path / "pretraining").last_row()
                    about = (arm, seed, None, "pretraining", "", "", "", "")
                    names = "hardness_sampled", "hardness_likeliest", "images", "unet_updates"
                    rows += [Row(*about, name, last[name]) for name in names]
    return rows


def as_markdown(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table as Markdown."""
    lines = (headings, ["---"] * len(headings), *rows)
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def markdown(table: Table) -> str:
    """Format a table as Markdown, with the published figures where there are any."""
    metric = next(heading for heading in table.headings if heading.endswith("(95 %)")).split(" (")[0]
    known = PUBLISHED.get(metric, {})
    rows = [(ARMS.get(row[0], row[0]), *row[1:], known.get(row[0], "–")) for row in table.rows]
    return as_markdown(table.title, (*table.headings, "published"), rows)


def main(data: Path, out: Path, pattern: str = "") -> int:
    """Do what is not done, segmentation of all seeds first; the status is not 0 where it was interrupted."""
    torch.set_num_threads(1)
    for stages in (("pretraining", "segmentation"), ("classification",)):
        for seed in range(SEEDS):
            for arm in ARMS:
                path = out / str(seed) / arm
                if not re.search(pattern, f"{seed}/{arm}/{stages[-1]}"):
                    continue
                path.mkdir(parents=True, exist_ok=True)
                try:
                    with FileLock(path.with_name(f"{arm}.lock"), timeout=0):
                        for stage in stages:
                            if status := run_stage(stage, data, path, seed, arm):
                                return status
                except Timeout:
                    continue
                write_results(RESULTS, [row for row in results(out) if not row.image])
    rows = [row for row in results(out) if row.task != "pretraining"]
    for table in tables_of(rows, SET):
        print(markdown(table))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4]))
