"""Everything that has to be saved is saved, at hardly more than the least error."""

import pytest
import torch

from obsdiff.allocation.prices import cheapest_steps


@pytest.mark.slow
def test_near_the_best_of_all_ways():
    g = torch.Generator().manual_seed(0)
    ratios, ways = [], torch.cartesian_prod(*[torch.arange(6)] * 4)
    for _ in range(30):
        errors = [[0.0, *torch.rand(5, generator=g).cumsum(0).tolist()] for _ in range(4)]
        savings = torch.rand(4, 2, generator=g, dtype=torch.float64) + 0.1
        wanted = 0.4 * 5 * savings.sum(0)
        found = torch.tensor(cheapest_steps(errors, savings, wanted))
        assert bool((savings.T @ found.double() >= wanted * (1 - 1e-9)).all())
        enough = ways[(ways.double() @ savings >= wanted).all(1)]
        best = torch.tensor(errors)[torch.arange(4), enough].sum(1).min().item()
        ratios.append(sum(errors[i][k] for i, k in enumerate(found.tolist())) / best)
    assert min(ratios) >= 1 - 1e-6  # the best is summed in float32
    assert (
        sum(ratios) / len(ratios) < 1.1
    )  # in steps this coarse; the more groups, the less is lost


def test_convex_errors_and_one_resource_are_solved_exactly():
    errors = [[a * k * k for k in range(8)] for a in (1.0, 2.0, 4.0)]
    found = cheapest_steps(errors, torch.ones(3, 1), torch.tensor([7.0]))
    assert found == [4, 2, 1]


def test_no_step_is_taken_that_could_stay():
    found = cheapest_steps(
        [[0.0, 1.0, 2.0], [0.0, 0.5, 9.0]], torch.tensor([[1.0], [1.0]]), torch.tensor([2.0])
    )
    assert found == [1, 1]


def test_too_much_to_save_is_none():
    assert cheapest_steps([[0.0, 1.0]], torch.tensor([[1.0]]), torch.tensor([2.0])) is None


def test_nothing_to_save_takes_nothing():
    assert cheapest_steps(
        [[0.0, 1.0, 3.0], [0.0, 0.1, 0.2]], torch.tensor([[1.0], [2.0]]), torch.tensor([0.0])
    ) == [0, 0]


def test_a_resource_that_nobody_wants_has_no_price():
    savings = torch.tensor([[1e9, 1.0], [1.0, 1.0]], dtype=torch.float64)
    assert cheapest_steps([[0.0, 2.0], [0.0, 1.0]], savings, torch.tensor([0.0, 1.0])) == [0, 1]


def test_a_group_ends_where_its_errors_end():
    found = cheapest_steps(
        [[0.0, 0.0], [0.0, 5.0, 9.0, 20.0]], torch.tensor([[1.0], [1.0]]), torch.tensor([3.0])
    )
    assert found == [1, 2]
