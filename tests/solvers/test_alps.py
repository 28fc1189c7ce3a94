"""ALPS against the sweep and, on tiny problems, against every mask."""

import itertools
import statistics

import pytest
import torch

from obsdiff.calibration.packages import work_bytes
from obsdiff.config import PruningConfig
from obsdiff.errors import NotPositiveDefinite
from obsdiff.models.structure import Tap
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.lstsq import refined
from obsdiff.solvers.problem import Inputs, Target, layer_error, squared_error
from tests.solvers.problems import best_kept, problem, seen

from ..support.tensor_memory import peak_of

PATTERNS = [(0.5, None), (0.7, None), (0.5, (2, 4)), (0.75, (1, 4))]


@pytest.mark.parametrize(("removed", "group"), PATTERNS)
def test_it_beats_the_sweep_and_its_resolve(removed, group):
    target = Target(removed, group)
    for seed in range(3):
        w, h = problem(32, 256, seed=seed)
        (swept,), (found,) = (SOLVERS[name]([w], seen(h), target) for name in ("obs", "alps"))
        assert found.kept.sum() == swept.kept.sum()
        assert (
            layer_error(w, found.weight, h)
            < layer_error(w, refined(w, swept, h, target.damping).weight, h)
            < layer_error(w, swept.weight, h)
        )


@pytest.mark.slow
def test_tiny_problems_are_solved_nearly_as_well_as_by_the_best_mask():
    ratios = {"obs": [], "alps": []}
    for seed in range(12):
        w, h = problem(1, 10, seed=seed)
        nothing = torch.zeros(10, dtype=w.dtype)
        best = min(
            squared_error(w, best_kept(w[0], h, nothing, list(free))[None], h)
            for free in itertools.combinations(range(10), 5)
        )
        for name, found in ratios.items():
            found.append(
                squared_error(w, SOLVERS[name]([w], seen(h), Target(0.5, damping=0.0))[0].weight, h)
                / best
            )
    assert all(ratio > 1 - 1e-6 for ratio in ratios["alps"])
    assert statistics.mean(ratios["alps"]) < 1.15
    assert statistics.mean(ratios["alps"]) < statistics.mean(ratios["obs"])


def test_without_compensation_the_kept_weights_are_unchanged():
    w, h = problem(16, 64)
    (s,) = SOLVERS["alps"]([w], seen(h), Target(0.5, compensate=False))
    torch.testing.assert_close(s.weight, w * s.kept)


def test_matrices_of_a_tap_are_solved_as_if_alone():
    w, h = problem(24, 96)
    together = SOLVERS["alps"]([w[:8], w[8:]], seen(h), Target(0.5))
    alone = [SOLVERS["alps"]([part], seen(h), Target(0.5))[0] for part in (w[:8], w[8:])]
    for a, b in zip(together, alone, strict=True):
        assert torch.equal(a.kept, b.kept)


@pytest.mark.parametrize(
    ("change", "words"), [(float("nan"), "inf or NaN"), (-100.0, r"damping 0\.01 to 10 ")]
)
def test_a_hessian_that_cannot_be_factored_is_an_error(change, words):
    w, h = problem(4, 8)
    h += change * torch.eye(8, dtype=h.dtype) * h.diagonal().mean()
    with pytest.raises(NotPositiveDefinite, match=words):
        SOLVERS["alps"]([w], seen(h), Target(0.5))


def test_nothing_to_remove_changes_nothing():
    w, h = problem(8, 32)
    (s,) = SOLVERS["alps"]([w], seen(h), Target(0.0))
    assert torch.equal(s.weight, w)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"method": "alps"}, {"method": "obs", "refine": "lstsq"}])
def test_solving_stays_within_the_planned_memory(settings):
    """The peak counts all tensors but H and the weights."""
    columns, rows = 512, 256
    w, h = problem(rows, columns)
    w, h = w.float(), h.float()
    config = PruningConfig(**settings)
    planned = work_bytes([Tap(("x",), "ffn")], {"x": (rows, columns)}, config)

    def work() -> None:
        (s,) = SOLVERS[config.method]([w], Inputs(h, h.diagonal(), h.diagonal()), Target(0.5))
        if config.refine == "lstsq":
            refined(w, s, h, 0.01)

    assert planned / 2 < peak_of(work) <= planned * 1.1
