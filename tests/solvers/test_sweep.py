"""The sweep's own figures: its loss and change give the squared error."""

import pytest
import torch

from obsdiff.solvers.problem import squared_error, undamped
from obsdiff.solvers.sweep import Plan, swept
from obsdiff.solvers.upper_factor import upper_factor
from tests.solvers.problems import problem


@pytest.mark.parametrize("columns", [7, 150, 300])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_loss_and_change_give_the_squared_error(columns, damping):
    """tr(D A D^T) = 2 loss, A = H + d I, for each of the matrices that read an input."""
    w, h = problem(9, columns)
    h = h.tril() + h.tril(-1).T
    g = torch.Generator().manual_seed(2)
    plan = Plan(lambda s: torch.rand(s.shape, generator=g) < 0.5, 128)
    with upper_factor(h, damping, w.dtype) as factor:
        found = swept(list(w.split([4, 5])), factor, plan)
    for i, (before, after) in enumerate(zip(w.split([4, 5]), found.weights, strict=True)):
        change = (before - after).square().sum()
        assert found.changes[i] == pytest.approx(change.item())
        expected = squared_error(before, after, h) + factor.added * change.item()
        assert 2 * found.losses[i] == pytest.approx(expected)
        known = undamped(found.losses[i], found.changes[i], factor.added)
        assert known == pytest.approx(squared_error(before, after, h))
        assert torch.equal(after == 0, ~found.kept[i])


def test_without_compensation_only_the_removed_weights_change():
    w, h = problem(6, 150)
    with upper_factor(h.tril() + h.tril(-1).T, 0.1, w.dtype) as factor:
        found = swept([w], factor, Plan(lambda s: s < s.median(), 128, compensate=False))
    (after,), (kept,) = found.weights, found.kept
    assert torch.equal(after, w * kept)
    assert 0.4 < kept.double().mean() < 0.6
