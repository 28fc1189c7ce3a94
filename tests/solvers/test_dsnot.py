"""Dynamic Sparse no Training, by hand and against its definition, in float64."""

import pytest
import torch

from obsdiff.calibration.hessian import Hessian
from obsdiff.solvers.dsnot import MAX_SWAPS, THRESHOLD, dsnot
from obsdiff.solvers.problem import Inputs, Target
from obsdiff.solvers.wanda import wanda
from tests.solvers.problems import problem, seen

from ..support.lanes import first_quick

HALF = Target(0.5)


def dsnot_of(
    row: list[float], mean: list[float], variance: list[float], target: Target = HALF
) -> list[float]:
    """The row after pruning by dsnot."""
    w, m, v = (torch.tensor(values, dtype=torch.float64) for values in (row, mean, variance))
    return (
        dsnot([w.unsqueeze(0)], Inputs(torch.diag(2 * (v + m**2)), m, v), target)[0]
        .weight[0]
        .tolist()
    )


def test_dsnot_by_hand():
    """One swap.

    Wanda's scores are 4 sqrt 2, sqrt 8, 2 sqrt 3, sqrt 5 / 2: it keeps 4 and -2. The removed
    weights have c = 2 and c = 1, so E = 3. Growing: 2 / 4 against 1 / 1, so 0.5 is restored.
    Pruning: of 4 (c = 4) and -2 (c = -2) only the latter reduces E. E = 3 - 1 - 2 = 0.
    """
    assert dsnot_of([4.0, 1.0, -2.0, 0.5], [1.0, 2.0, 1.0, 2.0], [1.0, 4.0, 2.0, 1.0]) == [
        4.0,
        0.0,
        0.0,
        0.5,
    ]


def test_dsnot_may_pass_zero_and_moves_a_weight_once():
    """Three swaps; all inputs have mean 1 and variance 1, so c is the weight.

    Wanda keeps 5, -4, -3; E = 2 + 1 - 0.5 = 2.5. 2 for -3: E = -2.5. -0.5 for 5 (2 would be
    cheaper, but was just restored): E = 3. 1 for -4: E = -2. All removed weights below zero have
    been swapped, so the row ends.
    """
    assert dsnot_of([5.0, -4.0, -3.0, 2.0, 1.0, -0.5], [1.0] * 6, [1.0] * 6) == [
        0.0,
        0.0,
        0.0,
        2.0,
        1.0,
        -0.5,
    ]


def test_dsnot_swaps_within_groups():
    """1:2, c is the weight. Wanda keeps 3 and -4, E = 3.5.

    Growing 2 would reduce E more, but only the 3 of its group could be removed, which (3) forbids.
    So 1.5 for -4: E = -2.
    """
    assert dsnot_of([3.0, 2.0, -4.0, 1.5], [1.0] * 4, [1.0] * 4, Target(0.5, (1, 2))) == [
        3.0,
        0.0,
        0.0,
        1.5,
    ]


@pytest.mark.parametrize("times", [1, 500])
def test_dsnots_threshold_is_a_mean_over_tokens(times):
    """The row of test_dsnot_by_hand, scaled to an E of 0.101, is swapped; at 0.099 it is not.

    Two tokens at mean +- the root of the variance have that mean and variance. 500 copies of them
    have the same.
    """
    assert (THRESHOLD, MAX_SWAPS) == (0.1, 50)
    spread = torch.tensor([1.0, 4.0, 2.0, 1.0], dtype=torch.float64).sqrt()
    tokens = torch.tensor([1.0, 2.0, 1.0, 2.0], dtype=torch.float64) + torch.stack(
        [spread, -spread]
    )
    seen_tokens = Hessian.zeros(4)
    seen_tokens.update(tokens.repeat(times, 1))
    inputs = Inputs(seen_tokens.matrix(), seen_tokens.mean(), seen_tokens.variance())
    row = torch.tensor([[4.0, 1.0, -2.0, 0.5]], dtype=torch.float64)
    for error, kept in ((0.101, [0, 3]), (0.099, [0, 2])):
        (s,) = dsnot([row * error / 3], inputs, HALF)
        assert s.kept[0].nonzero().flatten().tolist() == kept


def test_dsnot_grows_an_input_that_never_varies_first():
    assert dsnot_of([4.0, 1.0, -2.0, 0.5], [1.0, 2.0, 1.0, 2.0], [1.0, 0.0, 2.0, 1.0]) == [
        4.0,
        1.0,
        0.0,
        0.0,
    ]


def swapped_by_definition(
    row: torch.Tensor,
    kept: torch.Tensor,
    norm: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    m: int,
) -> torch.Tensor:
    """DSnoT's cycles, weight by weight: the mask (I,) of one row; swaps within m columns."""
    kept, moved = kept.clone(), set()
    for _ in range(MAX_SWAPS):
        error = sum((row[k] * mean[k]).item() for k in range(len(row)) if not kept[k])
        if abs(error) <= THRESHOLD:
            break
        sign = 1 if error > 0 else -1
        use = [(sign * row[k] * mean[k]).item() for k in range(len(row))]
        prunable = [k for k in range(len(row)) if kept[k] and k not in moved and use[k] < 0]
        growable = [
            k
            for k in range(len(row))
            if not kept[k]
            and k not in moved
            and use[k] > 0
            and any(j // m == k // m for j in prunable)
        ]
        if not growable:
            break
        grown = max(growable, key=lambda k: use[k] / variance[k])
        pruned = min(
            (k for k in prunable if k // m == grown // m), key=lambda k: abs(row[k]) * norm[k]
        )
        kept[grown], kept[pruned] = True, False
        moved |= {grown, pruned}
    return kept


@pytest.mark.parametrize("group", first_quick([None, *map(pytest.param, [(2, 4), (1, 4), (5, 8)])]))
@pytest.mark.slow
def test_dsnot_is_its_definition(group):
    w, h = problem(40, 96)  # more rows than are swapped at once
    target = Target(1 - group[0] / group[1], group) if group else HALF
    at_first, (s,) = wanda([w], seen(h), target)[0].kept, dsnot([w], seen(h), target)
    for row, before, after in zip(w, at_first, s.kept, strict=True):
        expected = swapped_by_definition(
            row,
            before,
            h.diagonal().sqrt(),
            seen(h).mean,
            seen(h).variance,
            group[1] if group else 96,
        )
        assert torch.equal(after, expected)


@pytest.mark.parametrize("group", [None, (2, 4), (5, 8)])
def test_dsnots_swaps_keep_each_rows_count_and_shrink_its_error(group):
    w, h = problem(64, 400)
    target = Target(1 - group[0] / group[1], group) if group else HALF
    at_first, at_last = (solver([w], seen(h), target)[0].kept for solver in (wanda, dsnot))
    assert torch.equal(at_first.sum(1), at_last.sum(1))
    first, last = ((w.masked_fill(kept, 0) @ seen(h).mean).abs() for kept in (at_first, at_last))
    assert last.mean() < 0.3 * first.mean()
