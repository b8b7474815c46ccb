"""Statistics of a comparison, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from downstream.comparison import Cell, Plan
from downstream.summaries import COLUMNS, baseline, bootstrap, summarise, unlike, write_csv


def hardness(parts: list[Any]) -> Any:
    return parts[0][0] / parts[0][1]


def difference(parts: list[Any]) -> Any:
    return parts[0][0] / parts[0][1] - parts[1][0] / parts[1][1]


def finish(cell: Cell, losses: list[float], random_losses: list[float], **numbers: Any) -> None:
    """Pretend that a cell is done."""
    verdict = {
        "images": 100.0,
        "unet_updates": 10.0,
        "seconds": 2.0,
        "hardness": 1.5,
        "unet_loss": 0.1,
        "chosen_share": 1.0,
        "lesion": 0.6,
        "background": 0.4,
        "losses": losses,
        "random_losses": random_losses,
    }
    cell.path.mkdir(parents=True)
    (cell.path / "judgement.json").write_text(json.dumps(verdict | numbers))


def test_the_mean_of_a_bootstrap_is_the_ratio_of_means():
    losses = np.array([[[2.0, 4.0], [4.0, 6.0]], [[1.0, 1.0], [2.0, 4.0]]])  # (2, seeds, images)
    found = bootstrap([losses], hardness, 500)
    assert found.mean == 16 / 8
    assert found.low < found.mean < found.high


def test_a_bootstrap_without_variation_has_no_width():
    found = bootstrap([np.stack([np.full((3, 5), 3.0), np.full((3, 5), 2.0)])], hardness, 200)
    assert (found.mean, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))


def test_bootstrap_intervals_cover_as_the_normal_distribution_says():
    generator = np.random.default_rng(0)
    images = 400
    losses = np.stack([5 + generator.normal(size=(1, images)), np.ones((1, images))])
    found = bootstrap([losses], hardness, 4000)
    half = 1.96 * losses[0].std() / np.sqrt(images)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)


def test_seeds_vary_too_where_there_are_several():
    generator = np.random.default_rng(0)
    seeds = generator.normal(5, 1, (20, 1))
    found = bootstrap([np.stack([np.broadcast_to(seeds, (20, 50)), np.ones((20, 50))])], hardness, 4000)
    # all images agree: the whole width is the seeds'
    assert found.high - found.low == pytest.approx(2 * 1.96 * seeds.std() / np.sqrt(20), rel=0.1)


def test_pairs_stay_pairs():
    generator = np.random.default_rng(0)
    difficult = generator.lognormal(0, 1, (4, 60))
    easier = np.stack([difficult, np.ones((4, 60))])
    harder = np.stack([difficult + 0.1, np.ones((4, 60))])
    found = bootstrap([harder, easier], difference, 500)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))  # images and seeds differ a lot, the pairs do not
    assert bootstrap([harder], hardness, 500).high - bootstrap([harder], hardness, 500).low > 0.5


def test_summaries_by_hand(tmp_path: Path):
    plan = Plan(tmp_path, ("a3c", "random", "ppo"), 2, {"images": 100})
    cells = {(cell.variant.label, cell.seed): cell for cell in plan.cells}
    finish(cells["a3c", 0], [2.0, 4.0], [1.0, 1.0])
    finish(cells["a3c", 1], [4.0, 6.0], [1.0, 1.0], lesion=0.8, seconds=4.0)
    finish(cells["random", 0], [1.0, 1.0], [1.0, 1.0])
    a3c, random = summarise(plan, 100)
    assert (a3c.label, random.label) == ("a3c", "random")
    assert (a3c.seeds, a3c.hardness.mean, a3c.loss.mean) == (2, 4.0, 4.0)
    assert (a3c.lesion, a3c.images_per_second) == (pytest.approx(0.7), pytest.approx((50 + 25) / 2))
    assert a3c.difference is not None
    assert a3c.difference.mean == 2.0  # of seed 0, the one that both have
    assert random.difference is None
    lines = write_csv(plan).read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[1].startswith("a3c,0,3,3,1,1.5,0.1,0.6,0.4,100,10,2,50")
    assert len(lines) == 4


def test_others_are_compared_to_random_or_to_the_first():
    assert baseline(["a3c", "random"]) == "random"
    assert baseline(["ppo", "a3c"]) == "ppo"


def test_runs_that_are_not_alike_are_told(tmp_path: Path):
    plan = Plan(tmp_path, ("a3c", "random", "ppo+images=200"), 1, {"images": 100})
    cells = {cell.variant.label: cell for cell in plan.cells}
    finish(cells["a3c"], [1.0], [1.0])
    finish(cells["ppo+images=200"], [1.0], [1.0], images=200.0)  # whoever asks for this knows
    assert unlike(plan) == []
    finish(cells["random"], [1.0], [1.0], unet_updates=11.0)
    assert unlike(plan) == ["unet_updates: 10 in a3c-0, 11 in random-0"]
