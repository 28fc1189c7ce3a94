"""Sparse plus low rank: the correction is the best of its rank, and turns never raise the error."""

import pytest
import torch

from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.low_rank import correction, rank_of, with_low_rank
from obsdiff.solvers.problem import Solution, Target, squared_error

from .problems import problem, seen

RANK = 3


def decaying(outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A gap and a Hessian, float64, whose product with the factor has a decaying spectrum."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(inputs, 4 * inputs, generator=generator, dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(outputs, outputs, generator=generator).double()).Q
    right = torch.linalg.qr(torch.randn(inputs, inputs, generator=generator).double()).Q
    size = min(outputs, inputs)
    return (left[:, :size] * 0.5 ** torch.arange(size)) @ right[:size], x @ x.T


@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_the_correction_is_the_truncated_decomposition_in_the_metric_of_the_hessian(shape):
    gap, square = decaying(*shape)
    up, down, _ = correction(gap, square, RANK)
    values = torch.linalg.svdvals(gap @ torch.linalg.cholesky(square))
    left = squared_error(gap, up @ down, square)
    assert left == pytest.approx(values[RANK:].square().sum().item(), rel=1e-6)
    torch.testing.assert_close(up.T @ up, torch.eye(RANK, dtype=torch.float64))


def test_all_dimensions_leave_no_error():
    gap, square = decaying(6, 9)
    up, down, _ = correction(gap, square, 6)
    torch.testing.assert_close(up @ down, gap)


@pytest.mark.parametrize(("method", "group"), [("obs", (2, 4)), ("obs", None), ("alps", (2, 4))])
@pytest.mark.slow
def test_turns_keep_the_mask_and_lower_the_error(method, group):
    weight, hessian = problem(16, 24, 200, seed=3)
    target = Target(0.5, group)

    def solve(rest):
        return SOLVERS[method]([rest], seen(hessian), target)[0]

    plain = solve(weight)
    up, down, _ = correction(weight - plain.weight, hessian, RANK)
    once = squared_error(weight, plain.weight + up @ down, hessian)
    found = with_low_rank(weight, solve, hessian, 0.01, RANK)
    error = squared_error(weight, found.whole, hessian)
    assert error < once < squared_error(weight, plain.weight, hessian)
    assert found.loss == pytest.approx(error / 2)
    assert not found.weight[~found.kept].any()
    assert found.kept.sum() == plain.kept.sum()
    if group:
        assert int((found.weight.unflatten(1, (-1, 4)) != 0).sum(2).max()) <= 2
    again = with_low_rank(weight, solve, hessian, 0.01, RANK)
    assert all(map(torch.equal, (found.weight, *found.low_rank), (again.weight, *again.low_rank)))


def test_the_rank_of_a_share_costs_at_most_that_share():
    assert rank_of((320, 1280), 0.1) == 25
    assert 25 * 1600 <= 0.1 * 320 * 1280 < 26 * 1600
    assert rank_of((4, 4), 0.01) == 1
    assert rank_of((4, 400), 0.99) == 3


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("where", ["gap", "square"])
def test_inf_and_nan_have_no_correction(where, value):
    gap, square = decaying(12, 20)
    {"gap": gap, "square": square}[where][0, 0] = value
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        correction(gap, square, RANK)


def test_a_hessian_that_is_not_finite_is_refused_where_the_solver_does_not_read_it():
    weight, hessian = problem(16, 24, 200)
    hessian[3, 3] = torch.nan
    bare = Solution(weight / 2, weight > 0, 0.0, 0.0)
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        with_low_rank(weight, lambda _: bare, hessian, 0.01, RANK)


def test_a_whole_number_is_the_rank_as_long_as_it_saves_weights():
    assert rank_of((320, 1280), 64) == 64
    assert rank_of((320, 1280), 256) == 256
    assert rank_of((320, 1280), 257) == 256  # 256 (320 + 1280) = 320 * 1280
    assert rank_of((4, 4), 64) == 2
    assert rank_of((1, 4), 64) == 1
