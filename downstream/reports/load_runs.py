"""What a report reads: run directories, grouped by algorithm, and their curves over seeds."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.pretraining.run_directory import COLUMNS, RunDirectory
from agents.pretraining.settings import RunSettings
from agents.pretraining.snapshots import Frame
from ahm_env import RunError
from ahm_env.files import read_rows
from ahm_env.runs.directory import Row
from downstream.evaluation.page import source_name
from downstream.reports.charts import COLOURS, Chart
from downstream.reports.curves import Curve, Points, over_seeds

# An agent looks the same on every page.
STYLES = (
    *("a3c", "ppo", "a2c", "hard-patches", "learning-progress", "oracle", "random"),
    *("edges", "foreground", "blocks", "easy-patches", "autoencoder", "untrained", "scratch"),
)
# Settings that do not make another agent; an agent's own settings are compared one by one.
_NO_LABEL = {"algo", "agent", "seed", "workers", "device", "reference_unet", "total_images", "skip_bad"}


@dataclass(frozen=True)
class Run:
    """What a report reads of a run directory.

    Attributes:
        path: The directory.
        settings: What it computed.
        rows: Its `metrics.csv`.
        frames: Its history.
        count: Images in its source.
        content_key: Of these images.
        versions: Of what it ran on.
        commit: Of the code, None outside a checkout.
    """

    path: Path
    settings: RunSettings
    rows: tuple[Row, ...]
    frames: tuple[Frame, ...]
    count: int
    content_key: str
    versions: dict[str, str]
    commit: str | None

    @property
    def pictures(self) -> tuple[Any, ...]:
        """What the frames of two runs must have in common to be shown side by side."""
        settings = self.settings
        return self.content_key, settings.image_size, settings.patch_size, tuple(self.frames[0].shown.tolist())

    def points(self, column: str) -> Points:
        """Return a column of `metrics.csv` against images shown."""
        return np.array([row["images"] for row in self.rows]), np.array([row[column] for row in self.rows])

    def history(self, of: Callable[[Frame], float]) -> Points:
        """Compute a number from each frame, against images shown."""
        return np.array([float(frame.images) for frame in self.frames]), np.array([of(one) for one in self.frames])


@dataclass(frozen=True)
class Algorithm:
    """An agent on the page: its name, its number, its line style, its runs, and what they hid in the course of time."""

    name: str
    number: int
    style: int
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> str:
        """Its seeds, rising."""
        return ", ".join(str(seed) for seed in sorted({run.settings.seed for run in self.runs}))

    def curve(self, column: str) -> Curve | None:
        """Average a column of `metrics.csv` over the agent's seeds."""
        return over_seeds(self.name, self.style, self.number, [run.points(column) for run in self.runs])

    def hidden(self) -> Chart | None:
        """How often the most and the least hidden patch are hidden, in the course of training."""
        most = self._history("most", self.style, lambda frame: float(frame.frequencies.max()))
        least = self._history("least", self.style, lambda frame: float(frame.frequencies.min()))
        if most and least:
            most = replace(most, low=least.mean, high=most.mean)
        return self._small(f"{self.name}: how often the most and the least hidden patch is hidden", (most, least))

    def variation(self) -> Chart | None:
        """How much masks of two images differ, and two masks of one image, in the course of training."""
        between = self._history("two images", self.style, lambda frame: frame.between_images)
        within = self._history("one image", self.style + COLOURS, lambda frame: frame.within_images)
        return self._small(f"{self.name}: patches in which two masks differ", (between, within))

    def _history(self, name: str, style: int, of: Callable[[Frame], float]) -> Curve | None:
        """Average a number of the frames over seeds, without a band."""
        curve = over_seeds(name, style, self.number, [run.history(of) for run in self.runs])
        return curve and replace(curve, low=None, high=None)

    def _small(self, title: str, curves: Sequence[Curve | None]) -> Chart | None:
        known = [curve for curve in curves if curve]
        return Chart(title, known, share=True) if known else None


def read_run(path: Path) -> Run:
    """Read a run directory.

    Raises:
        RunError: It holds no run, a damaged one, or one that has measured nothing yet.
        CheckpointError: A frame is damaged.
    """
    directory, settings = RunDirectory.open(path)
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        count, key = int(config["images"]["count"]), str(config["images"]["content_key"])
        versions = {str(name): str(version) for name, version in config["versions"].items()}
        commit = config.get("git_commit")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{path / 'config.json'}: damaged ({error}); restore it, or leave this run out") from None
    rows, frames = _read_rows(path / "metrics.csv"), tuple(directory.frames())
    return Run(path, settings, rows, frames, count, key, versions, None if commit is None else str(commit))


def by_algorithm(runs: Sequence[Run], names: Sequence[str] = ()) -> list[Algorithm]:
    """Group runs by agent, in the order in which they come; the seeds of each rise.

    Args:
        runs: The runs.
        names: What the agent of each is called; by default as in `labelled`.
    """
    found: dict[str, list[Run]] = {}
    for run, name in zip(runs, names or labelled(runs), strict=True):
        found.setdefault(name, []).append(run)
    return [
        Algorithm(name, number, style, tuple(sorted(found[name], key=lambda run: run.settings.seed)))
        for number, (name, style) in enumerate(styles_of(found).items())
    ]


def styles_of(names: Iterable[str]) -> dict[str, int]:
    """Assign a line style to each name, in the order in which they come."""
    order = dict.fromkeys(names)
    strangers = [name for name in order if name not in STYLES]
    return {name: STYLES.index(name) if name in STYLES else len(STYLES) + strangers.index(name) for name in order}


def labelled(runs: Sequence[Run]) -> list[str]:
    """Name each run's agent, with the settings in which runs of one algorithm differ: `a3c`, `a3c+image_weight=0`."""
    common = {field.name for field in fields(RunSettings)} - _NO_LABEL
    labels = []
    for run in runs:
        alike = [other.settings for other in runs if other.settings.algo == run.settings.algo]
        odd = [name for name in sorted(common) if any(getattr(one, name) != getattr(alike[0], name) for one in alike)]
        own = {
            name: value
            for name, value in run.settings.agent.items()
            if any(one.agent != run.settings.agent for one in alike)
        }
        pairs = {name: getattr(run.settings, name) for name in odd} | own
        labels.append("+".join([run.settings.algo, *(f"{name}={value}" for name, value in pairs.items())]))
    shown = without_paths(labels)
    return [shown[label] for label in labels]


def without_paths(labels: Iterable[str]) -> dict[str, str]:
    """Map each label of an agent, `NAME+KEY=VALUE+…`, to one that tells of a path its last part only.

    Those that would then be the same are numbered, so that they stay different agents.
    """
    found, counts = dict[str, str](), Counter[str]()
    for label in dict.fromkeys(labels):
        algo, *settings = re.split(r"\+(?=\w+=)", label)  # a path may hold a plus
        pairs = (setting.partition("=") for setting in settings)
        short = "+".join([algo, *(f"{name}={value and source_name(value)}" for name, _, value in pairs)])
        counts[short] += 1
        found[label] = short if counts[short] == 1 else f"{short} ({counts[short]})"
    return found


def _read_rows(path: Path) -> tuple[Row, ...]:
    try:
        rows = [{name: float(row.get(name) or "nan") for name in COLUMNS} for row in read_rows(path)]
    except FileNotFoundError:
        rows = []
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        raise RunError(f"{path}: damaged ({error}); `ahm train-agent --resume` writes it again") from None
    if not rows:
        raise RunError(f"{path}: nothing has been measured yet; wait for the first row, or leave this run out")
    images = np.array([row["images"] for row in rows])
    if not (np.isfinite(images).all() and (np.diff(images) > 0).all() and images[0] >= 0):
        raise RunError(f"{path}: damaged (`images` does not rise); `ahm train-agent --resume` writes it again")
    return tuple(rows)
