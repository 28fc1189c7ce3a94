"""The layer error against its definition, in float64."""

import pytest
import torch

from obsdiff.solvers.problem import layer_error


@pytest.mark.parametrize(("rows", "columns"), [(3, 5), (300, 700)])
def test_the_layer_error_is_its_definition(rows, columns):
    g = torch.Generator().manual_seed(rows)
    w, x, d = (
        torch.randn(n, columns, dtype=torch.float64, generator=g) for n in (rows, 2000, rows)
    )
    error = ((x @ d.T).square().sum() / (x @ w.T).square().sum()).item()
    assert layer_error(w, w + d, x.T @ x) == pytest.approx(error, rel=1e-9)
