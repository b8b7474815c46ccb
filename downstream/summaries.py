"""What a comparison came to: means, intervals and paired differences over seeds and images."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ahm_env.files import write_text
from downstream.comparison import Plan

Floats = npt.NDArray[np.float64]

DRAWS = 10_000  # of the bootstrap
CHUNK = 1000  # resamples at once


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """What the cells of one agent came to.

    Attributes:
        label: The agent.
        seeds: How many cells are done.
        hardness: On the reference U-Net, over seeds and images.
        difference: Of the hardness, paired by seed and image, to that of the first baseline; None for itself.
        loss: Mean hidden-patch loss on the reference U-Net.
        own_hardness: On the run's own U-Net, mean over seeds.
        lesion: Share of the lesion that is hidden, mean over seeds; NaN without masks.
        background: Share of the rest that is hidden.
        images_per_second: Mean over seeds.
    """

    label: str
    seeds: int
    hardness: Interval
    difference: Interval | None
    loss: Interval
    own_hardness: float
    lesion: float
    background: float
    images_per_second: float


def summarise(plan: Plan, draws: int = DRAWS) -> list[Summary]:
    """Summaries of the agents of which a cell is done, in the order of the plan."""
    verdicts: dict[str, dict[int, dict[str, Any]]] = {}
    for cell in plan.cells:
        if (verdict := cell.verdict) is not None:
            verdicts.setdefault(cell.variant.label, {})[cell.seed] = verdict
    if not verdicts:
        return []
    base = baseline(list(verdicts))
    summaries = []
    for label, cells in verdicts.items():
        both = [seed for seed in cells if seed in verdicts[base]]
        difference = None
        if label != base and both:
            pairs = [_arrays([one[seed] for seed in both]) for one in (cells, verdicts[base])]
            difference = bootstrap(pairs, lambda parts: parts[0][0] / parts[0][1] - parts[1][0] / parts[1][1], draws)
        own, ones = [_arrays(cells.values())], list(cells.values())
        summaries.append(
            Summary(
                label,
                seeds=len(ones),
                hardness=bootstrap(own, lambda parts: parts[0][0] / parts[0][1], draws),
                difference=difference,
                loss=bootstrap(own, lambda parts: parts[0][0], draws),
                own_hardness=_mean(one["hardness"] for one in ones),
                lesion=_mean(one["lesion"] for one in ones),
                background=_mean(one["background"] for one in ones),
                images_per_second=_mean(one["images"] / max(1e-9, one["seconds"]) for one in ones),
            )
        )
    return summaries


def baseline(labels: Sequence[str]) -> str:
    """The agent to which others are compared: `random` where it is there, else the first."""
    return "random" if "random" in labels else labels[0]


def bootstrap(agents: Sequence[Floats], statistic: Any, draws: int = DRAWS, seed: int = 0) -> Interval:
    """A statistic of means over seeds and images, with its 95 % interval by a hierarchical bootstrap.

    Seeds are drawn with replacement, and images, the same for all seeds and agents, so that pairs stay pairs.

    Args:
        agents: For each agent `(2, seeds, images)`: losses, and losses under random masks.
        statistic: Maps a list of `(2, …)` mean losses, one an agent, to numbers.
        draws: Number of resamples.
        seed: Of the resamples.
    """
    _, seeds, images = agents[0].shape
    generator = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, CHUNK):
        count = min(CHUNK, draws - start)
        of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), count) / seeds
        of_images = generator.multinomial(images, np.full(images, 1 / images), count) / images
        means = [np.einsum("psi,ds,di->pd", agent, of_seeds, of_images, optimize=True) for agent in agents]
        found.append(statistic(means))
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return Interval(float(statistic([agent.mean((1, 2)) for agent in agents])), float(low), float(high))


def unlike(plan: Plan) -> list[str]:
    """In what the runs that are done differ although they must not: images, U-Net updates, final chosen share."""
    done = [(cell, verdict) for cell in plan.cells if (verdict := cell.verdict) is not None]
    free = {"share", "schedule", "batch_size", "images"}  # whoever compares these says so
    complaints = []
    for key in ("images", "unet_updates", "chosen_share"):
        values: dict[float, list[str]] = {}
        for cell, verdict in done:
            if not free & cell.variant.settings.keys():
                values.setdefault(verdict[key], []).append(cell.path.name)
        if len(values) > 1:
            complaints.append(f"{key}: " + ", ".join(f"{value:g} in {names[0]}" for value, names in values.items()))
    return complaints


COLUMNS = (
    "agent",
    "seed",
    "hardness",
    "loss",
    "random_loss",
    "own_hardness",
    "unet_loss",
    "lesion_hidden",
    "background_hidden",
    "images",
    "unet_updates",
    "seconds",
    "images_per_second",
)


def write_csv(plan: Plan) -> Path:
    """Write `comparison.csv`, a row for each cell that is done."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in plan.cells:
        if (one := cell.verdict) is None:
            continue
        loss, random_loss = float(np.mean(one["losses"])), float(np.mean(one["random_losses"]))
        numbers = [loss / random_loss, loss, random_loss, one["hardness"], one["unet_loss"], one["lesion"]]
        numbers += [one["background"], one["images"], one["unet_updates"], one["seconds"]]
        numbers += [one["images"] / max(1e-9, one["seconds"])]
        writer.writerow([cell.variant.label, cell.seed, *(f"{number:.6g}" for number in numbers)])
    path = plan.out / "comparison.csv"
    write_text(path, text.getvalue())
    return path


def _arrays(verdicts: Iterable[dict[str, Any]]) -> Floats:
    """Losses and random losses `(2, seeds, images)`."""
    cells = list(verdicts)
    return np.array([[one[key] for one in cells] for key in ("losses", "random_losses")])


def _mean(numbers: Iterable[float]) -> float:
    return float(np.mean(list(numbers)))
