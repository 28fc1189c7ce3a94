"""The frontier of quality against cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from obsdiff.evaluation.report.tradeoff import frontier, time_of

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12)


def test_a_frontier_by_hand():
    points = [(10.0, 1.0), (8.0, 0.9), (8.0, 0.7), (9.0, 0.8), (5.0, 0.4)]
    assert frontier(points, True) == [(5.0, 0.4), (8.0, 0.9), (10.0, 1.0)]
    assert frontier([(1.0, 0.2), (2.0, 0.2), (3.0, 0.1)], False) == [(1.0, 0.2), (3.0, 0.1)]


@given(POINTS, st.booleans())
@pytest.mark.slow
def test_nothing_beats_the_frontier(points, higher):
    edge = frontier(points, higher)
    sign = 1 if higher else -1
    beaten = [
        p
        for p in points
        if any(q[0] <= p[0] and sign * q[1] >= sign * p[1] and q != p for q in points)
    ]
    assert set(edge) == set(points) - set(beaten)


def test_a_speed_is_a_time():
    assert time_of({"speedup": 2.0, "low": 1.0, "high": 4.0}) == (0.5, 0.25, 1.0)
    assert time_of({"speedup": 0.0, "low": 0.0, "high": 1.0}) is None
    assert time_of(None) is None
