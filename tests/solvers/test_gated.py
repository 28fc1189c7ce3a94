"""Least squares behind a gate: exact where all tokens of a row have one gate, better elsewhere."""

import pytest
import torch

from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers.gated import GatedSums

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
