"""The re-solve of kept weights, against row by row solutions."""

import pytest
import torch

from obsdiff.errors import NotPositiveDefinite
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.lstsq import lstsq, refined
from obsdiff.solvers.problem import Target, layer_error, squared_error
from tests.solvers.problems import best_kept, problem, seen

TARGETS = [Target(0.5), Target(0.5, (2, 4))]


def optimum(weight: torch.Tensor, kept: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    nothing = torch.zeros(weight.shape[1], dtype=weight.dtype)
    return torch.stack(
        [
            best_kept(row, hessian, nothing, mask.nonzero().flatten().tolist())
            for row, mask in zip(weight, kept, strict=True)
        ]
    )


def random_mask(rows: int, columns: int) -> torch.Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(2)) > 0.5


def test_rows_with_masks_of_their_own_are_solved_nearly_exactly():
    (w, h), kept = problem(12, 60), random_mask(12, 60)
    found, best = lstsq(w, kept, h, 0.0), optimum(w, kept, h)
    assert (found[~kept] == 0).all()
    assert squared_error(w, found, h) <= squared_error(w, best, h) * (1 + 1e-6)
    torch.testing.assert_close(found, best, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("mean", "damping"), [(0.0, 0.01), (10.0, 0.01), (10.0, 0.001)])
def test_small_errors_are_solved_as_well_as_large_ones(mean, damping, dtype):
    """Inputs with a large mean: convergence depends on the error, not on the much larger energy."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(40, 96, generator=generator, dtype=torch.float64)
    x = (
        torch.randn(300, 96, generator=generator, dtype=torch.float64)
        * torch.logspace(0, -2, 96, dtype=torch.float64)
        + mean
    )
    h, kept = 2 * x.T @ x / 300, random_mask(40, 96)
    more = h + damping * h.diagonal().mean() * torch.eye(96, dtype=h.dtype)
    best = squared_error(w, optimum(w, kept, more), more)
    found = lstsq(w.to(dtype), kept, h.to(dtype), damping).double()
    assert best <= squared_error(w, found, more) <= best * 1.001


@pytest.mark.parametrize("masks", [1, 2])
def test_rows_that_share_masks_are_exact(masks):
    w, h = problem(24, 40)
    kept = random_mask(masks, 40).repeat_interleave(24 // masks, 0)
    torch.testing.assert_close(lstsq(w, kept, h, 0.0), optimum(w, kept, h), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shared", [True, False])
def test_damping_is_that_of_the_sweep(shared):
    w, h = problem(10, 30)
    kept = random_mask(1, 30).expand(10, -1) if shared else random_mask(10, 30)
    more = h + 0.1 * h.diagonal().mean() * torch.eye(30, dtype=h.dtype)
    torch.testing.assert_close(lstsq(w, kept, h, 0.1), optimum(w, kept, more), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("target", TARGETS, ids=["half", "2:4"])
@pytest.mark.parametrize("method", SOLVERS)
def test_no_solution_gets_worse_and_no_mask_changes(method, target):
    w, h = problem(16, 160)
    (before,) = SOLVERS[method]([w], seen(h), target)
    after = refined(w, before, h, target.damping)
    assert torch.equal(after.kept, before.kept)
    assert (after.weight[~after.kept] == 0).all()
    assert layer_error(w, after.weight, h) <= layer_error(w, before.weight, h) * (1 + 1e-3)
    if method == "magnitude":  # the solution has no repair yet
        assert layer_error(w, after.weight, h) < 0.7 * layer_error(w, before.weight, h)
    assert after.loss == pytest.approx(squared_error(w, after.weight, h) / 2)


def test_inputs_that_are_always_zero_and_rows_without_weights():
    w, h = problem(6, 20)
    h[3], h[:, 3] = 0, 0
    kept = random_mask(6, 20)
    kept[2] = False
    found = lstsq(w, kept, h, 0.01)
    assert found.isfinite().all()
    assert (found[2] == 0).all()


def test_half_precision_weights_keep_their_dtype():
    w, h = problem(6, 20)
    assert lstsq(w.bfloat16(), random_mask(6, 20), h.float(), 0.01).dtype == torch.bfloat16


def test_a_hessian_with_nan_is_an_error():
    w, h = problem(4, 8)
    h[0, 0] = float("nan")
    with pytest.raises(NotPositiveDefinite, match="inf or NaN"):
        lstsq(w, torch.ones(4, 8, dtype=torch.bool), h, 0.01)
