"""The factor of the inverse Hessian."""

import pytest
import torch

from obsdiff.solvers.cholesky import (
    MAX_ERROR,
    factor_of_inverse,
    inverse_factor,
    narrow_,
    probe_error,
)
from tests.solvers.problems import problem
from tests.support.pretend_gpu import NAME, pretend_gpu


def ill_conditioned(size: int) -> torch.Tensor:
    """A Hessian in float64 with eigenvalues from 1 to 1e-6."""
    basis = torch.linalg.qr(problem(size, size)[0].double()).Q
    found = (basis * torch.logspace(0, -6, size, dtype=torch.float64)) @ basis.T
    return (found + found.T) / 2


def test_the_factor_is_that_of_the_inverse():
    _, h = problem(1, 50)
    factor, dead, used = inverse_factor(h, 0.0)
    assert not dead.any()
    assert used == 0
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(h))
    assert torch.equal(factor, factor.triu())


@pytest.mark.parametrize("double", [False, True])
def test_on_a_device_it_is_the_same_in_few_launches(double):
    """A device without float64 leaves such a factor to the CPU."""
    h = torch.zeros(300, 300)
    h[40:, 40:] = ill_conditioned(260).float()
    h.diagonal()[:40] = 1e-5
    expected, _, used = inverse_factor(h, 0.0)
    with pretend_gpu(double=double) as counts:
        factor, dead, there = inverse_factor(h.to(NAME), 0.0)
        assert (factor.device.type, factor.dtype, there) == (NAME, torch.float32, used)
        torch.testing.assert_close(factor.cpu(), expected, rtol=1e-4, atol=1e-2)
        assert not dead.any()
        assert counts.own_launches < 120
        assert bool(counts.own_products) == (not double)


def test_a_wide_well_conditioned_hessian_is_factored_in_its_own_format():
    h = problem(1, 300)[1].float()
    factor, _, _ = inverse_factor(h, 0.01)
    damped = h.diagonal() + 0.01 * h.diagonal().mean()
    assert torch.equal(factor, factor_of_inverse(h, damped, torch.float32))
    assert probe_error(h, damped, factor) < 1e-4


def test_dead_inputs_leave_the_callers_hessian_alone():
    h = torch.zeros(4, 4)
    factor, dead, _ = inverse_factor(h, 0.0)
    assert dead.all()
    assert torch.equal(factor, torch.eye(4))
    assert (h == 0).all()


@pytest.mark.parametrize("size", [1, 5, 300])
def test_narrowed_in_its_own_memory_it_is_the_same(size):
    matrix = torch.randn(size, size, dtype=torch.float64)
    expected, where = matrix.float(), matrix.data_ptr()
    found = narrow_(matrix, torch.float32)
    assert torch.equal(found, expected)
    assert found.data_ptr() == where
    assert torch.equal(narrow_(found, torch.float64), expected.double())


def test_a_badly_conditioned_float32_hessian_is_factored_in_float64():
    h = ill_conditioned(320).float()
    factor, _, used = inverse_factor(h, 1e-6)
    damped = h.diagonal() + 1e-6 * h.diagonal().mean()
    exact = factor_of_inverse(h, damped, torch.float64)
    narrow = factor_of_inverse(h, damped, torch.float32)
    assert narrow is None or probe_error(h, damped, narrow) > MAX_ERROR
    assert (used, factor.dtype) == (1e-6, torch.float32)
    torch.testing.assert_close(
        factor, exact.float(), rtol=1e-5, atol=1e-7 * exact.abs().max().item()
    )
