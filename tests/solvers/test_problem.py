"""The layer error against its definition, in float64."""

import pytest
import torch

from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers.problem import layer_error


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (300, 700)])
def test_the_layer_error_is_its_definition(rows, columns):
    g = torch.Generator().manual_seed(rows)
    w, x, d = (
        torch.randn(n, columns, dtype=torch.float64, generator=g) for n in (rows, 2000, rows)
    )
    error = ((x @ d.T).square().sum() / (x @ w.T).square().sum()).item()
    assert layer_error(w, w + d, x.T @ x) == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["weight", "hessian"])
def test_an_energy_that_is_no_number_is_raised(value, where):
    w, h = torch.ones(3, 4), torch.eye(4)
    {"weight": w, "hessian": h}[where][1, 1] = value
    with pytest.raises(NotPositiveDefinite, match="has inf or NaN"):
        layer_error(w, torch.zeros(3, 4), h)
    assert layer_error(torch.zeros(3, 4), torch.ones(3, 4), torch.eye(4)) == 0.0
