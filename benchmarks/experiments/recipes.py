"""Choosing how to fine-tune, without a test image: `python -m benchmarks.experiments.recipes DATA OUT [PATTERN]`.

DATA is a folder with the sets `isic2018` and `kvasir`. Of the train split of each, some images are set aside by a seed
(320 and 150); they are neither labelled nor unlabelled nor pretrained on here, and recipes are compared by the Dice on
them. The sets' own `val` and `test` images are not even copied. A cell is one recipe on one set with one draw of the
labelled images; each is a run of fine-tuning in a directory of its own, so that the same command goes on where it was
stopped. What is done is a line of `docs/results/recipes.csv`. PATTERN, a regular expression, chooses cells by their
names, SET/RECIPE/DRAW; several processes may share the work.
"""

import json
import re
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from ahm_env import ImageSet, load_images
from ahm_env.errors import InterruptionError
from ahm_env.files import read_rows, write_rows, write_text
from ahm_env.images.formats.labels import NO_IMAGE, table_lines
from ahm_env.images.pixels.png import save_picture
from ahm_env.runs.observer import Silent
from downstream import predict
from downstream.finetuning.labelled import only_labelled
from downstream.finetuning.run import FinetuneDirectory, Finetuning
from downstream.finetuning.settings import FinetuneSettings
from downstream.models.pretrained import PretrainedWeights

SETS = {"isic2018": 320, "kvasir": 150}
SEED = 2026  # of what is set aside
LABELS = 25
RESULTS = Path(__file__).parents[2] / "docs" / "results" / "recipes.csv"
COLUMNS = ("set", "recipe", "draw", "labels", "set_aside", "dice", "loss", "unlabelled_loss", "confident", "seconds")

# What is tried, most wanted first
RECIPES: dict[str, dict[str, Any]] = {
    **{f"supervised-{steps}": {"steps": steps} for steps in (800, 1600, 2800, 4800, 9600)},
    **{f"box-{steps}": {"steps": steps, "unlabelled": "auto"} for steps in (2800, 4800)},
    **{f"box-{steps}-early": {"steps": steps, "unlabelled": "auto", "join": 0.17} for steps in (2800, 4800)},
    "box-2800-heavy": {"steps": 2800, "unlabelled": "auto", "join": 0.17, "unlabelled_weight": 3.0},
    "box-2800-wide": {"steps": 2800, "unlabelled": "auto", "join": 0.17, "unlabelled_batch": 16},
    **{f"box-strong-{steps}": {"steps": steps, "unlabelled": "auto", "augment": "strong"} for steps in (2800, 4800)},
    "box-4800-tta": {"steps": 4800, "unlabelled": "auto", "teacher_tta": True},
    "none-4800": {"steps": 4800, "unlabelled": "auto", "mix": "none"},
    "patches-4800": {"steps": 4800, "unlabelled": "auto", "mix": "patches"},
    **{f"strong-{steps}": {"steps": steps, "augment": "strong"} for steps in (1600, 2800, 4800)},
    **{f"batch16-{steps}": {"steps": steps, "batch_size": 16} for steps in (1600, 2800, 4800)},
    **{f"strong16-{steps}": {"steps": steps, "augment": "strong", "batch_size": 16} for steps in (1600, 2800)},
    **{
        f"box-strong-2800-{name}": {"steps": 2800, "unlabelled": "auto", "augment": "strong", **more}
        for name, more in (
            ("early", {"join": 0.17}),
            ("wide", {"unlabelled_batch": 16}),
            ("heavy", {"unlabelled_weight": 3.0}),
            ("none", {"mix": "none"}),
        )
    },
    **{
        f"box-2800-{name}": {"steps": 2800, "unlabelled": "auto", **more}
        for name, more in (
            ("slow", {"ema_decay": 0.999}),
            ("unsure", {"confidence": 0.7}),
            ("wide-late", {"unlabelled_batch": 16}),
        )
    },
    "all-2800": {"steps": 2800, "augment": "strong", "labels": "all"},  # what more labels would bring
    "rounds-2800": {"steps": 2800, "unlabelled": "auto", "rounds": 2},
    "round-2800": {"steps": 2800, "labels": "all"},
    "round-2800-strong": {"steps": 2800, "labels": "all", "augment": "strong"},
}
# A second round: a U-Net from scratch learns from the masks that another found in the unlabelled images
TEACHERS = {recipe: "box-2800" for recipe in RECIPES if recipe.startswith("round-")}


def set_aside(source: Path, out: Path, count: int, seed: int = SEED) -> Path:
    """Copy the train split of a folder of images and masks, so many of its images as `val`, the rest as `train`."""
    if (out / "labels.csv").exists():
        return out
    rows = [cells for _, cells in table_lines(source / "labels.csv", ("image",), NO_IMAGE) if cells["split"] == "train"]
    chosen = set(np.random.default_rng(seed).permutation(len(rows))[:count].tolist())
    for folder in ("images", "masks"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    lines = ["image,label,split"]
    for position, row in enumerate(rows):
        shutil.copy(source / "images" / row["image"], out / "images")
        shutil.copy(source / "masks" / f"{Path(row['image']).stem}.png", out / "masks")
        lines.append(f"{row['image']},{row['label']},{'val' if position in chosen else 'train'}")
    write_text(out / "labels.csv", "\n".join(lines) + "\n")
    return out


def taught(source: Path, teacher: str, draw: int, runs: Path) -> Path:
    """Copy a source, with the masks that a teacher finds in place of those that it did not learn from."""
    out = runs.parent / "taught" / source.name / teacher / str(draw)
    if (out / "labels.csv").exists():
        return out
    settings, images = cell_images(source, teacher, draw)
    assert images.annotations is not None
    known = {images.names[index] for index in images.annotations.masked}
    shutil.copytree(source / "images", out / "images", dirs_exist_ok=True)
    (out / "masks").mkdir(exist_ok=True)
    for name in known:
        shutil.copy(source / "masks" / f"{Path(name).stem}.png", out / "masks")
    unknown = [source / "images" / name for name in images.names if name not in known]
    for one in predict(runs / source.name / teacher / str(draw), unknown, device=settings.device):
        assert one.mask is not None
        save_picture(out / "masks" / f"{Path(one.name).stem}.png", one.mask * np.uint8(255))
    shutil.copy(source / "labels.csv", out)
    return out


def cell_images(source: Path, recipe: str, draw: int) -> tuple[FinetuneSettings, ImageSet]:
    """Give the settings of a cell, and what it knows of the images."""
    common = {"data": str(source), "labels": LABELS, "seed": draw, "device": "cpu", "unlabelled": "none"}
    settings = FinetuneSettings.make(PretrainedWeights.find("scratch"), **{**common, **RECIPES[recipe]})
    return settings, only_labelled(settings, load_images(source, masks=False, **asdict(settings.pixels)))


def run_cell(source: Path, recipe: str, draw: int, path: Path) -> dict[str, Any]:
    """Fine-tune and test one cell, or go on with it."""
    if recipe in TEACHERS:
        source = taught(source, TEACHERS[recipe], draw, path.parents[2])
    settings, images = cell_images(source, recipe, draw)
    with FinetuneDirectory(path) as directory:
        if directory.settings() is None:
            directory.write_config(settings, {"content_key": images.content_key})
        result = Finetuning(settings, images, directory, PretrainedWeights.find("scratch")).run(Silent())
    return {**result, **directory.rows[-1]}


def add_row(row: dict[str, Any]) -> None:
    """Append a line to the results, in one piece though several processes write."""
    with FileLock(f"{RESULTS}.lock"):
        known = read_rows(RESULTS) if RESULTS.exists() else []
        write_rows(RESULTS, [*known, row], COLUMNS)


def main(data: Path, out: Path, pattern: str = "") -> int:
    """Run the cells that are not done; the status is 1 where one was interrupted."""
    torch.set_num_threads(1)
    sources = {name: set_aside(data / name, out / "data" / name, count) for name, count in SETS.items()}
    for draw in range(3):
        for recipe in RECIPES:
            for name, source in sources.items():
                cell = f"{name}/{recipe}/{draw}"
                path = out / "runs" / cell
                if (path / "test.json").exists() or not re.search(pattern, cell):
                    continue
                if recipe in TEACHERS and not (path.parents[1] / TEACHERS[recipe] / str(draw) / "test.json").exists():
                    continue
                path.mkdir(parents=True, exist_ok=True)
                try:
                    with FileLock(path.with_name(f"{draw}.lock"), timeout=0):
                        found = run_cell(source, recipe, draw, path)
                except Timeout:
                    continue
                except InterruptionError:
                    return 1
                row = {"set": name, "recipe": recipe, "draw": draw, "labels": found["labels"]}
                numbers = {key: f"{found[key]:.4f}" for key in ("dice", "loss", "unlabelled_loss", "confident")}
                test = json.loads((path / "test.json").read_text(encoding="utf-8"))
                add_row({**row, **numbers, "set_aside": test["images"], "seconds": round(found["seconds"])})
                print(time.strftime("%H:%M"), cell, numbers, f"{found['seconds']:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:4]))
