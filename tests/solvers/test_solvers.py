"""Properties that all solvers share, in float64."""

import gc
import inspect

import pytest
import torch

from obsdiff.solvers import BASELINES, SOLVERS
from obsdiff.solvers.problem import Target
from tests.solvers.problems import problem, seen

from ..support.lanes import first_quick


@pytest.mark.parametrize("table", [SOLVERS, BASELINES])
def test_all_have_one_signature(table):
    assert (
        len(
            {
                tuple((p.name, p.kind) for p in inspect.signature(solver).parameters.values())
                for solver in table.values()
            }
        )
        == 1
    )


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("columns", [32, 128, 200, 256])
def test_unstructured_sparsity_is_exact_in_every_matrix(method, columns):
    w, h = problem(24, columns)
    for s, matrix in zip(
        SOLVERS[method]([w, 2 * w.flip(0)], seen(h), Target(0.3)), (w, 2 * w.flip(0)), strict=True
    ):
        assert abs((s.weight == 0).double().mean().item() - 0.3) < 1e-3
        assert torch.equal(s.kept, s.weight != 0)
        assert s.weight.shape == matrix.shape


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize(
    ("n", "m"), first_quick([(2, 4), (4, 8), (1, 4), (3, 5), (1, 2), (7, 40), (100, 200)])
)
def test_groups_keep_at_most_n_of_m(method, n, m):
    w, h = problem(16, 400)
    (s,) = SOLVERS[method]([w], seen(h), Target(1 - n / m, (n, m)))
    assert (s.weight.unflatten(1, (-1, m)) != 0).sum(2).max() == n
    assert (s.weight != 0).sum() == 16 * 400 * n // m


@pytest.mark.parametrize("pattern", ["half", "2:4"])
@pytest.mark.parametrize("method", SOLVERS)
def test_memory_is_free_when_a_solver_is_done(method, pattern):
    """No tensor is left to the garbage collector: a factor is as large as its Hessian."""
    w, h = problem(8, 64)
    gc.disable()
    gc.freeze()  # what is there already is not looked through
    try:
        SOLVERS[method]([w], seen(h), Target(0.5) if pattern == "half" else Target(0.5, (2, 4)))
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [tuple(found.shape) for found in gc.garbage if isinstance(found, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()
    assert left == []
