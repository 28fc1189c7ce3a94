"""The factor of the inverse Hessian."""

from dataclasses import replace

import pytest
import torch

from obsdiff.solvers.cholesky import MAX_FLOAT32_ERROR, condition, inverse_factor, narrow_
from obsdiff.solvers.obs import obs
from obsdiff.solvers.problem import Target
from tests.solvers.problems import problem, seen
from tests.support.pretend_gpu import NAME, pretend_gpu


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
    h = problem(1, 300)[1].float()
    h[:40] = h[:, :40] = 0
    h += 1e-5 * torch.eye(300)
    expected, _, used = inverse_factor(h, 0.0)
    with pretend_gpu(double=double) as counts:
        factor, dead, there = inverse_factor(h.to(NAME), 0.0)
        assert (factor.device.type, factor.dtype, there) == (NAME, torch.float32, used)
        torch.testing.assert_close(factor.cpu(), expected, rtol=1e-3, atol=1e-2)
        assert not dead.any()
        assert counts.own_launches < 120
        assert bool(counts.own_products) == (not double)


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
    """Then the mask is that of a float64 run, up to the rounding of H itself."""
    w, h = problem(64, 320)
    scale = torch.logspace(0, -3, 320, dtype=torch.float64)
    h = (h * scale * scale.unsqueeze(1)).float()
    target = replace(Target(0.5), damping=1e-5)
    factor, _, used = inverse_factor(h, 1e-5)
    exact, _, _ = inverse_factor(h.double(), 1e-5)
    assert 320 * condition(h, factor) > MAX_FLOAT32_ERROR
    assert (used, factor.dtype) == (1e-5, torch.float32)
    torch.testing.assert_close(
        factor, exact.float(), rtol=1e-5, atol=1e-7 * exact.abs().max().item()
    )
    quick, slow = obs([w.float()], seen(h), target)[0], obs([w], seen(h.double()), target)[0]
    assert (quick.kept != slow.kept).double().mean() < 1e-3
