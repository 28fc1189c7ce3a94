"""Masks of the smallest scores."""

import pytest
import torch

from obsdiff.solvers.masks import kth_smallest, lowest, lowest_in_groups, lowest_in_rows

from ..support.pretend_gpu import NAME, pretend_gpu


def test_rows_differ_by_one_where_the_share_is_no_whole_number_of_weights():
    drop = lowest_in_rows(torch.ones(4, 5), 0.5)
    assert drop.sum(1).tolist() == [2, 3, 2, 3]
    assert drop[0].tolist() == [True, True, False, False, False]  # ties are broken by position
    assert not lowest_in_rows(torch.ones(4, 5), 0.0).any()


def test_ties_are_broken_by_position():
    assert lowest(torch.ones(2, 4), 3).flatten().tolist() == [True] * 3 + [False] * 5
    assert lowest_in_groups(torch.ones(1, 4), 1, 2).tolist() == [[True, False, True, False]]
    assert not lowest(torch.ones(2, 4), 0).any()


@pytest.mark.parametrize("k", [1, 2, 5_000, 50_000, 99_999, 100_000])
@pytest.mark.parametrize("kind", ["random", "sorted", "ties"])
def test_the_kth_smallest_is_exact(k, kind):
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    x = {"random": x, "sorted": x.sort().values, "ties": x.round()}[kind]
    assert kth_smallest(x, k) == x.sort().values[k - 1]


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (3, 4), (4, 8), (5, 16)])
def test_groups_on_a_device_are_those_of_a_cpu_in_few_launches(n, m):
    scores = torch.randn(50, 4 * m, generator=torch.Generator().manual_seed(0))
    scores[:25] = scores[:25].round()  # with ties
    with pretend_gpu() as counts:
        there = scores.to(NAME)
        counts.clear()
        found = lowest_in_groups(there, n, m)
        assert counts.launches.total() <= 8
        assert torch.equal(found.cpu(), lowest_in_groups(scores, n, m))
