"""Hessians of the benchmarks, kept in a file: what is read is what was summed."""

import pytest
import torch

from benchmarks.paper.hessians import Sums, read, write
from obsdiff.models.structure import Tap


@pytest.mark.parametrize("columns", [6, 700])
def test_read_hessians_are_those_written(columns, tmp_path):
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 5, columns, generator=generator)
    sums = Sums.zeros(columns)
    sums.update(tokens, weight=0.7)
    write(tmp_path / "sums.safetensors", {Tap(("q", "k"), "attention"): sums})
    found = read(tmp_path / "sums.safetensors")
    assert list(found) == ["q", "k"]
    for hessian in found.values():
        assert (hessian.samples, hessian.alpha) == (sums.samples, pytest.approx(7.0))
        assert torch.allclose(hessian.matrix(), sums.matrix(), rtol=1e-5, atol=1e-6)
        assert torch.allclose(hessian.variance(), sums.variance(), rtol=1e-5, atol=1e-6)
    rows = tokens.reshape(10, columns).double()
    assert torch.allclose(found["q"].matrix().double(), 2 * 0.7 * rows.T @ rows / 10, atol=1e-5)
