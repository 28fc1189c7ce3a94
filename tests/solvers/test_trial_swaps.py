"""Sets of swaps against re-solved rows, in float64."""

import pytest
import torch

from obsdiff.solvers import SOLVERS
from obsdiff.solvers.lstsq import damped, lstsq
from obsdiff.solvers.problem import Target
from obsdiff.solvers.trial_swaps import exchanged, gradient_of, spread_candidates, tried
from tests.solvers.test_obs import best_kept, problem, seen

GROUPS = [None, 4]
ALL = torch.ones(60, dtype=torch.bool)


def resolved(m: int | None) -> tuple[torch.Tensor, ...]:
    """A weight, A, a mask and the best weights under it."""
    w, h = problem(24, 60)
    (s,) = SOLVERS["magnitude"]([w], seen(h), Target(0.5, (2, m) if m else None))
    return w, damped(h, 0.01), s.kept, lstsq(w, s.kept, h, 0.01)


@pytest.mark.parametrize("m", GROUPS)
def test_a_row_changes_only_for_the_better(m):
    w, square, kept, before = resolved(m)
    after, mask = tried(w, before, kept, square, ALL, m)
    errors = [gradient_of(one, w, square)[1] for one in (before, after)]
    changed = (mask != kept).any(1)
    assert changed.float().mean() > 0.5
    assert (errors[1][changed] < errors[0][changed]).all()
    assert torch.equal(after[~changed], before[~changed])
    assert torch.equal(*(one.unflatten(1, (-1, m or 60)).sum(2) for one in (mask, kept)))
    again, last = tried(w, after, mask, square, ~ALL, m)
    assert torch.equal(last, mask)
    assert torch.equal(again, after)


@pytest.mark.parametrize("share", [1e-6, 0.5, 1.0])
@pytest.mark.parametrize("m", GROUPS)
def test_a_share_of_the_promising_swaps_is_made(m, share):
    w, square, kept, before = resolved(m)
    gradient, scale = gradient_of(before, w, square)[0], spread_candidates(square, 0.5)
    most = exchanged(before, kept, gradient, scale, ALL, torch.ones(24, 1, dtype=w.dtype), m)[1]
    mask, swaps = exchanged(
        before, kept, gradient, scale, ALL, torch.full((24, 1), share, dtype=w.dtype), m
    )
    assert torch.equal(swaps, (most * share).ceil())
    assert torch.equal((kept & ~mask).sum(1), swaps.long())
    assert torch.equal((mask & ~kept).sum(1), swaps.long())
    assert most.double().mean() > 2


def test_what_one_removal_and_one_return_promise_is_exact():
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
        assert error(rest) - error(inside) == pytest.approx(
            (best[i] ** 2 / block[place, place] / 2).item()
        )  # (1)
    for j in (1, 4, 5, 7):
        c = h[j, j] - h[j, inside] @ block @ h[inside, j]
        assert error(inside) - error([*inside, j]) == pytest.approx(
            (gradient[j] ** 2 / c / 2).item()
        )  # (2)


def test_the_spread_is_what_is_left_of_an_input_by_the_others():
    _, h = problem(1, 40)
    found, alone = spread_candidates(h, 0.5), 1 / h.inverse().diagonal()
    assert (found < h.diagonal()).all()
    assert (found > alone).all()
    torch.testing.assert_close(spread_candidates(h, 2.0), alone)
    torch.testing.assert_close(spread_candidates(h, -1.0), h.diagonal())
