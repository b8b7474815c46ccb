"""The example that the README quotes."""

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "random_and_oracle.py"


@pytest.mark.slow
def test_the_oracle_earns_more_than_random_masks():
    random, oracle = runpy.run_path(str(EXAMPLE))["main"](20)
    assert 0 < random < oracle
