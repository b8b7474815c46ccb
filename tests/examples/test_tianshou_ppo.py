"""The environment in Tianshou, whose policies send zeros and ones as floats."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("tianshou")

EXAMPLE = Path(__file__).parents[2] / "examples" / "tianshou_ppo.py"


@pytest.mark.slow
def test_the_example_runs():
    assert runpy.run_path(str(EXAMPLE))["main"](epochs=1, steps=64, tests=8) > 0
