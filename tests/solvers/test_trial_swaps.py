"""Sets of swaps against re-solved rows, in float64."""

from dataclasses import replace

import pytest
import torch

from obsdiff.solvers import SOLVERS
from obsdiff.solvers.lstsq import damped, lstsq
from obsdiff.solvers.mask_search import MaskSearch
from obsdiff.solvers.problem import Target
from obsdiff.solvers.trial_swaps import Trials, exchanged, gradient_of, spread_candidates, try_
from tests.solvers.problems import best_kept, problem, seen

GROUPS = [None, 4]


def resolved(m: int | None) -> MaskSearch:
    """A search that starts from magnitude's mask and the best weights under it."""
    w, h = problem(24, 60)
    (s,) = SOLVERS["magnitude"]([w], seen(h), Target(0.5, (2, m) if m else None))
    live = torch.ones(60, dtype=torch.bool)
    return MaskSearch(w, lstsq(w, s.kept, h, 0.01), s.kept, damped(h, 0.01), live, m)


def copied(search: MaskSearch) -> MaskSearch:
    return replace(search, found=search.found.clone(), kept=search.kept.clone())


def errors(search: MaskSearch) -> torch.Tensor:
    """The squared error of each row (O,)."""
    return gradient_of(search.found, search.weights, search.hessian)[1]


@pytest.mark.parametrize("m", GROUPS)
def test_a_row_changes_only_if_its_error_decreases(m):
    before = resolved(m)
    after = copied(before)
    try_(after)
    changed = (after.kept != before.kept).any(1)
    assert changed.float().mean() > 0.5
    assert (errors(after)[changed] < errors(before)[changed]).all()
    assert torch.equal(after.found[~changed], before.found[~changed])
    width = m or 60
    assert torch.equal(*(one.kept.unflatten(1, (-1, width)).sum(2) for one in (after, before)))


@pytest.mark.parametrize("m", GROUPS)
def test_inputs_that_are_always_zero_are_not_restored(m):
    before = resolved(m)
    after = replace(copied(before), live=torch.zeros(60, dtype=torch.bool))
    try_(after)
    assert torch.equal(after.kept, before.kept)
    assert torch.equal(after.found, before.found)


@pytest.mark.parametrize("share", [1e-6, 0.5, 1.0])
@pytest.mark.parametrize("m", GROUPS)
def test_a_share_of_the_promising_swaps_is_made(m, share):
    search = resolved(m)
    scale = spread_candidates(search.hessian, 0.5)
    gradient, error = gradient_of(search.found, search.weights, search.hessian)
    trials, before = Trials(search, scale, gradient, error), search.kept.clone()
    rows, shares = torch.arange(24), torch.ones(24, 1, dtype=torch.float64)
    most = exchanged(trials, rows, shares)[1]
    kept, swaps = exchanged(trials, rows, share * shares)
    assert torch.equal(search.kept, before)
    assert torch.equal(swaps, (most * share).ceil())
    assert torch.equal((before & ~kept).sum(1), swaps.long())
    assert torch.equal((kept & ~before).sum(1), swaps.long())
    assert most.double().mean() > 2


def test_the_estimates_of_one_removal_and_one_restoration_are_exact():
    """With (3) of the row's own mask: in half of the squared error, after the re-solve."""
    w, h = problem(1, 8)
    row, nothing, inside = w[0], torch.zeros(8, dtype=w.dtype), [0, 2, 3, 6]
    best = best_kept(row, h, nothing, inside)
    gradient = (best - row) @ h

    def error(free: list[int]) -> float:
        change = best_kept(row, h, nothing, free) - row
        return (change @ h @ change).item() / 2

    block = h[inside][:, inside].inverse()
    for place, i in enumerate(inside):
        rest = [k for k in inside if k != i]
        increase = (best[i] ** 2 / block[place, place] / 2).item()  # (1)
        assert error(rest) - error(inside) == pytest.approx(increase)
    for j in (1, 4, 5, 7):
        c = h[j, j] - h[j, inside] @ block @ h[inside, j]
        decrease = (gradient[j] ** 2 / c / 2).item()  # (2)
        assert error(inside) - error([*inside, j]) == pytest.approx(decrease)


def test_the_spread_is_the_part_of_an_input_that_the_others_do_not_explain():
    _, h = problem(1, 40)
    found, alone = spread_candidates(h, 0.5), 1 / h.inverse().diagonal()
    assert (found < h.diagonal()).all()
    assert (found > alone).all()
    torch.testing.assert_close(spread_candidates(h, 2.0), alone)
    torch.testing.assert_close(spread_candidates(h, -1.0), h.diagonal())
