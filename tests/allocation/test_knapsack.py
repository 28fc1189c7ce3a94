"""Steps that save enough for the least error."""

import itertools

import pytest
import torch

from obsdiff.allocation import knapsack
from obsdiff.allocation.knapsack import cheapest_saving, total


def some(
    seed: int, groups: int, steps: int, whole: bool
) -> tuple[list[list[float]], list[list[float]]]:
    """Errors and savings that grow; the steps of a group save equally, or each its own amount."""
    g = torch.Generator().manual_seed(seed)
    errors = [
        [0.0, *torch.rand(steps, generator=g, dtype=torch.float64).cumsum(0).tolist()]
        for _ in range(groups)
    ]
    if whole:
        each = torch.randint(1, 9, (groups,), generator=g).tolist()
        return errors, [[float(12 * size * k) for k in range(steps + 1)] for size in each]
    return errors, [
        [0.0, *torch.rand(steps, generator=g, dtype=torch.float64).cumsum(0).tolist()]
        for _ in range(groups)
    ]


def least(errors: list[list[float]], savings: list[list[float]], wanted: float) -> float:
    ways = itertools.product(*(range(len(row)) for row in errors))
    return min(total(errors, way) for way in ways if total(savings, way) >= wanted)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("part", [0.01, 0.2, 0.5, 0.77, 1.0])
def test_no_other_way_that_saves_enough_is_cheaper(seed, part):
    errors, savings = some(seed, 4, 5, whole=True)
    wanted = part * sum(row[-1] for row in savings)
    found = cheapest_saving(errors, savings, wanted)
    assert total(savings, found) >= wanted
    assert total(errors, found) == pytest.approx(least(errors, savings, wanted), rel=1e-12)


@pytest.mark.parametrize("cells", [knapsack.CELLS, 40])
@pytest.mark.parametrize("seed", range(5))
def test_savings_that_fit_no_cell_are_saved_in_full(seed, cells, monkeypatch):
    monkeypatch.setattr(knapsack, "CELLS", cells)
    errors, savings = some(seed, 4, 5, whole=False)
    for part in (0.1, 0.4, 0.9):
        wanted = part * sum(row[-1] for row in savings)
        found = cheapest_saving(errors, savings, wanted)
        assert total(savings, found) >= wanted
        assert total(errors, found) <= least(errors, savings, wanted) * (
            1.0 + 1e-9 if cells > 40 else 1.35
        )


@pytest.mark.parametrize("whole", [True, False])
def test_no_step_could_be_given_back(whole):
    errors, savings = some(7, 12, 6, whole)
    wanted = 0.37 * sum(row[-1] for row in savings)
    found = cheapest_saving(errors, savings, wanted)
    for i, k in enumerate(found):
        assert k == 0 or total(savings, [*found[:i], k - 1, *found[i + 1 :]]) < wanted


def test_steps_that_save_nothing_are_passed_over_and_rows_may_be_short():
    errors, savings = (
        [[0.0, 1.0, 2.0, 3.0], [0.0], [0.0, 9.0]],
        [[0.0, 0.0, 0.0, 5.0], [0.0], [0.0, 5.0]],
    )
    assert cheapest_saving(errors, savings, 5.0) == [3, 0, 0]
    assert cheapest_saving(errors, savings, 10.0) == [3, 0, 1]
    assert cheapest_saving(errors, savings, 0.0) == [0, 0, 0]


def test_what_can_not_be_saved_is_refused():
    with pytest.raises(ValueError, match="all steps together save 5, less than 6"):
        cheapest_saving([[0.0, 1.0]], [[0.0, 5.0]], 6.0)
