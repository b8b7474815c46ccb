"""Numbers in tables, for people."""

from math import nan

from downstream.evaluation.statistics import Interval
from downstream.evaluation.tables import interval


def test_an_interval_that_is_not_known_is_left_out():
    assert interval(Interval(0.5, nan, nan)) == "0.500"
    assert interval(Interval(0.02, -0.01, 0.05), sign=True) == "+0.020 (-0.010 to +0.050)"
