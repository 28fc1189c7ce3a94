"""The border between too little and enough."""

import pytest

from obsdiff.allocation.bisection import bisect


def test_the_interval_closes_in_on_the_border():
    low, high = bisect(lambda x: x < 0.3, 0.0, 1.0, 40)
    assert low < 0.3 <= high
    assert high - low == pytest.approx(2.0**-40)


def test_middles_are_rounded():
    tried = []
    bisect(lambda x: tried.append(x) or x < 0.3, 0.0, 0.9, 5, digits=2)
    assert tried == [round(x, 2) for x in tried]
    assert tried[:2] == [0.45, 0.23]


@pytest.mark.parametrize(("enough", "end"), [(0.0, "high"), (2.0, "low")])
def test_ends_that_are_the_border_stay(enough, end):
    low, high = bisect(lambda x: x < enough, 0.0, 1.0, 10)
    assert (high if end == "low" else low) == (1.0 if end == "low" else 0.0)
