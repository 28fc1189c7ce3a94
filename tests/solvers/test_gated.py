"""Least squares behind a gate: exact where all tokens of a row have one gate, better elsewhere."""

import pytest
import torch

from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers.gated import LEAST_ENERGY, GatedSums

T, I, O = 60, 7, 5  # noqa: E741 - tokens, inputs, outputs


def problem(seed=0):
    source = torch.Generator().manual_seed(seed)
    return torch.randn(T, I, generator=source), torch.randn(T, O, generator=source)


def summed(x, gate, missing, pieces=1):
    sums = GatedSums.of(O, I, x.device)
    for part in zip(*(t.chunk(pieces) for t in (x, gate, missing)), strict=True):
        sums.add_(*part)
    return sums


def error(x, gate, missing, change):
    return (missing - gate * (x @ change.T)).square().sum().item()


@pytest.mark.parametrize("gates", [1.0, "of a row"])
def test_one_gate_a_row_gives_the_least_squares_optimum(gates):
    x, missing = problem()
    row = torch.linspace(0.2, 3, O) if gates == "of a row" else torch.ones(O)
    gate = row.expand(T, O)
    found = summed(x, gate, missing, pieces=3).change(1e-7)
    best = torch.linalg.lstsq(x, missing / row).solution.T
    torch.testing.assert_close(found, best, rtol=1e-3, atol=1e-4)


def test_gates_that_differ_by_token_still_lower_the_error():
    x, noise = problem(1)
    gate = 0.5 + torch.rand(T, O, generator=torch.Generator().manual_seed(2))
    missing = gate * (x @ torch.ones(O, I).T) + 0.1 * noise
    found = summed(x, gate, missing).change(1e-3)
    assert error(x, gate, missing, found) < 0.1 * error(x, gate, missing, torch.zeros(O, I))


def test_a_closed_gate_changes_nothing_and_damping_shrinks():
    x, missing = problem(3)
    gate = torch.ones(T, O)
    gate[:, 1] = 0
    sums = summed(x, gate, missing)
    found, less = sums.change(0.1), sums.change(10.0)
    assert (found[1] == 0).all()
    assert less.norm() < found.norm()


def test_inputs_that_are_not_finite_are_refused():
    x, missing = problem()
    x[0, 0] = torch.inf
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        summed(x, torch.ones(T, O), missing).change(0.1)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_stream_that_is_not_finite_is_refused(value):
    x, missing = problem()
    missing[3, 1] = value
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        summed(x, torch.ones(T, O), missing).change(0.1)


def test_rows_whose_energy_overflows_are_refused():
    x, missing = problem()
    gate = torch.zeros(T, O)
    gate[:, 1] = 1.2e18
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        summed(x, gate, missing).change(0.1)


def test_nothing_changes_where_all_gates_are_closed():
    x, missing = problem()
    assert torch.equal(summed(x, torch.zeros(T, O), missing).change(0.1), torch.zeros(O, I))


@pytest.mark.parametrize("gate_of_row", [1e-2, 1e-4, 1e-6, 1e-12])
def test_the_change_of_a_nearly_closed_row_is_bounded_and_lowers_the_error(gate_of_row):
    x, missing = problem(4)
    row = torch.ones(O)
    row[2] = gate_of_row
    change = summed(x, row.expand(T, O), missing).change(1e-3)
    bound = LEAST_ENERGY**-0.5 * change[[0, 1, 3, 4]].norm(dim=1).max()
    assert change[2].norm() < 2 * bound
    left = (missing - row * (x @ change.T)).double().square().sum(0)
    assert (left <= missing.double().square().sum(0)).all()


def test_rows_above_the_least_energy_are_the_solution_as_it_is():
    x, missing = problem(5)
    row = torch.linspace(0.05, 3, O)
    sums = summed(x, row.expand(T, O), missing)
    square = sums.hessian + 0.1 * sums.hessian.diagonal().mean() * torch.eye(I)
    plain = torch.cholesky_solve(sums.cross.T, torch.linalg.cholesky(square)).T
    scale = sums.rows / sums.hessian.diagonal().sum()
    assert scale.min() > LEAST_ENERGY
    assert torch.equal(sums.change(0.1), plain / scale[:, None])
