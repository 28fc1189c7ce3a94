"""The upper factor of the damped Hessian, in the upper triangle of its own memory."""

import pytest
import torch

from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers.upper_factor import PANEL, upper_factor
from tests.solvers.problems import problem


def symmetric(columns: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    h = problem(1, columns)[1].to(dtype)
    return (h.tril() + h.tril(-1).T).contiguous()


@pytest.mark.parametrize("columns", [1, 5, 128, 131, PANEL + 200])
def test_it_is_a_factor_in_the_hessians_memory_which_is_restored(columns):
    h = symmetric(columns)
    before = h.clone()
    mean = h.diagonal().mean()
    with upper_factor(h, 0.1, h.dtype) as factor:
        assert factor.matrix.data_ptr() == h.data_ptr()
        assert torch.equal(h.tril(-1), before.tril(-1))
        u = factor.matrix.triu()
        damped = before + 0.1 * mean * torch.eye(columns)
        torch.testing.assert_close(u @ u.T, damped)
        assert factor.damping == 0.1
        assert factor.added == pytest.approx(0.1 * mean.item())
    assert torch.equal(h, before)


def test_always_zero_inputs_count_with_one():
    h = torch.zeros(4, 4)
    with upper_factor(h, 0.0) as factor:
        assert factor.dead.all()
        assert torch.equal(factor.matrix.triu(), torch.eye(4))
    assert (h == 0).all()


def test_the_hessian_is_restored_after_an_error_in_the_block():
    h = symmetric(9)
    before = h.clone()
    with pytest.raises(KeyError), upper_factor(h, 0.1, h.dtype):
        raise KeyError
    assert torch.equal(h, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_damping_is_raised_and_the_hessian_restored_when_it_cannot_be_factored(dtype):
    h = symmetric(64, dtype)
    h -= 2 * h.diagonal().mean() * torch.eye(64)
    before = h.clone()
    with pytest.raises(NotPositiveDefinite, match=r"0\.01 to 10"), upper_factor(h, 0.01, dtype):
        pass
    assert torch.equal(h, before)


def test_a_badly_conditioned_float32_hessian_is_factored_in_float64():
    h = symmetric(320)
    scale = torch.logspace(0, -4, 320, dtype=torch.float64)
    shared = torch.randn(320, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = (h * scale * scale.unsqueeze(1) + 1e3 * shared * shared.unsqueeze(1)).float()
    h = h.tril() + h.tril(-1).T
    with upper_factor(h.double(), 1e-5, torch.float64) as exact, upper_factor(h, 1e-5) as quick:
        assert (quick.damping, quick.matrix.dtype) == (exact.damping, torch.float32)
        assert quick.matrix.data_ptr() != h.data_ptr()
        u = exact.matrix.triu()
        found = quick.matrix.triu().double()
        assert (found - u).norm() < 1e-4 * u.norm()
        identity = torch.linalg.solve_triangular(u, found, upper=True)
        assert (identity - torch.eye(320)).norm() < 0.05
