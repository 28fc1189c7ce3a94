"""Rounded plus low rank: turns never raise the error, zeros stay, the branch lowers the error."""

import pytest
import torch

from obsdiff.solvers.low_rank import correction
from obsdiff.solvers.problem import squared_error
from obsdiff.solvers.rounded_low_rank import rounded_low_rank
from obsdiff.solvers.rounding import Grid, gptq

from .problems import problem

RANK, GROUP, DAMPING = 3, 16, 0.01


def rounding(kept, hessian):
    """A way to round to 4 bits."""

    def rounded(rest, aim):
        grid = Grid.full(rest, 4, GROUP)
        return gptq(rest, kept, hessian, DAMPING, grid, aim)[0], grid

    return rounded


def found_by(weight, rest, kept, low_rank, hessian, turns):
    """The result and its squared error."""
    how = rounding(kept, hessian)
    found = rounded_low_rank(weight, rest, kept, low_rank, hessian, DAMPING, how, turns)
    whole = found.weight + found.low_rank[0] @ found.low_rank[1]
    return found, squared_error(weight, whole, hessian)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("removed", [False, True])
def test_turns_lower_the_error_and_keep_zeros_and_grids(removed, seed):
    weight, hessian = problem(12, 48, 200, seed)
    kept = torch.ones_like(weight, dtype=torch.bool)
    if removed:
        kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    up, down, _ = correction(weight * ~kept if removed else weight, hessian, RANK)
    rest = (weight - up @ down) * kept
    before = [part.clone() for part in (weight, rest, up, down, hessian)]
    errors = [found_by(weight, rest, kept, (up, down), hessian, turns)[1] for turns in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < errors[0]
    found, _ = found_by(weight, rest, kept, (up, down), hessian, 4)
    assert not found.weight[~kept].any()
    assert torch.equal(found.grid.values(found.grid.codes(found.weight), weight), found.weight)
    assert found.low_rank[0].shape == (12, RANK)
    after = (weight, rest, up, down, hessian)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_the_branch_lowers_the_error_more_than_a_correction_of_the_rounded_weight():
    weight, hessian = problem(12, 48, 200)
    weight = weight + 8 * torch.outer(weight[:, 0], weight[0])
    kept = torch.ones_like(weight, dtype=torch.bool)
    values, _ = rounding(kept, hessian)(weight, weight)
    up, down, _ = correction(weight - values, hessian, RANK)
    after = squared_error(weight, values + up @ down, hessian)
    up, down, _ = correction(weight, hessian, RANK)
    assert found_by(weight, weight - up @ down, kept, (up, down), hessian, 4)[1] < after / 2
