"""Comparisons: what is asked for, and what is resumed."""

from pathlib import Path

import pytest

from agents.settings import RunSettings
from ahm_env import RunError, SettingsError
from downstream.comparison import Plan, Variant


def test_a_variant_is_a_name_and_settings_of_its_own():
    variant = Variant.parse("a3c+image_weight=2+horizon=4+mask-ratio=0.3:0.7+bound=null")
    assert (variant.algo, variant.settings) == (
        "a3c",
        {"image_weight": 2, "horizon": 4, "mask_ratio": "0.3:0.7", "bound": None},
    )
    given = variant.given({"images": 7})
    assert given == {
        "images": 7,
        "algo": "a3c",
        "horizon": 4,
        "mask_ratio": "0.3:0.7",
        "agent": {"image_weight": 2, "bound": None},
    }
    assert RunSettings.make(**given).horizon == 4


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (("a4c",), "unknown"),
        (("a3c+fast",), "KEY=VALUE"),
        (("a3c+=2",), "KEY=VALUE"),
        (("a3c", "a3c"), "twice"),
        ((), "one agent"),
        (("a3c+horizon=0",), "horizon"),
    ],
)
def test_bad_agents_are_refused_before_anything_runs(labels: tuple[str, ...], text: str, tmp_path: Path):
    with pytest.raises(SettingsError, match=text):
        Plan(tmp_path / "out", labels, 1, {})
    assert not (tmp_path / "out").exists()


def test_cells_pair_seeds_and_share_the_curriculum(tmp_path: Path):
    plan = Plan(tmp_path, ("a3c", "loss"), 2, {"images": 50})
    assert [(cell.variant.label, cell.seed) for cell in plan.cells] == [
        ("a3c", 0),
        ("loss", 0),
        ("a3c", 1),
        ("loss", 1),
    ]
    made = [RunSettings.make(**cell.variant.given(plan.shared)) for cell in plan.cells]
    assert {(one.share, one.images, one.workers) for one in made} == {(RunSettings().share, 50, 1)}
    assert len({cell.path for cell in plan.cells}) == 4
    assert plan.reference.seed not in range(1000)


def test_a_comparison_may_grow_but_not_change(tmp_path: Path):
    Plan(tmp_path / "out", ("random",), 1, {"images": 50}).begin()
    Plan(tmp_path / "out", ("random", "a3c"), 3, {"images": 50}).begin()
    with pytest.raises(RunError, match="--images"):
        Plan(tmp_path / "out", ("random",), 1, {"images": 60}).begin()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match="not empty"):
        Plan(tmp_path / "other", ("random",), 1, {}).begin()
    with pytest.raises(RunError, match="is a file"):
        Plan(tmp_path / "other" / "thesis.txt", ("random",), 1, {}).begin()
    (tmp_path / "out" / "comparison.json").write_text("{")
    with pytest.raises(RunError, match="damaged"):
        Plan(tmp_path / "out", ("random",), 1, {"images": 50}).begin()


def test_a_damaged_verdict_is_none(tmp_path: Path):
    cell = Plan(tmp_path, ("a3c",), 1, {}).cells[0]
    assert cell.verdict is None
    cell.path.mkdir(parents=True)
    (cell.path / "judgement.json").write_text('{"loss')
    assert cell.verdict is None
