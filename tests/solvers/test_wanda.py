"""Wanda, by hand and in float64."""

import pytest
import torch

from obsdiff.solvers import SOLVERS
from obsdiff.solvers.problem import Target
from obsdiff.solvers.wanda import wanda
from tests.solvers.problems import problem, seen


def test_wanda_by_hand():
    """Second moments 16, 1/4, 1 and 4, so norms 4, 1/2, 1 and 2; other entries of H are not read.

    Scores: 4, 5, 3, 1 and 80, 5, 10, 100. The removed weights have a squared error of
    3^2 + 1^2 + 5^2 + 10^2 = 135. The factor 2 of H and the 1/2 of the loss cancel.
    """
    h = torch.diag(torch.tensor([32.0, 0.5, 2.0, 8.0], dtype=torch.float64)) + 0.1
    h.diagonal().sub_(0.1)
    w = torch.tensor([[1.0, -10.0, 3.0, 0.5], [20.0, 10.0, -10.0, 50.0]], dtype=torch.float64)
    (s,) = wanda([w], seen(h), Target(0.5))
    assert s.weight.tolist() == [[1.0, -10.0, 0.0, 0.0], [20.0, 0.0, 0.0, 50.0]]
    assert s.loss == pytest.approx(135)
    (s,) = wanda([w], seen(h), Target(0.5, (1, 2)))
    assert s.weight.tolist() == [[0.0, -10.0, 3.0, 0.0], [20.0, 0.0, 0.0, 50.0]]


def test_wandas_loss_is_the_true_one_of_a_single_weight():
    """Half of the increase of the row's squared error, as for obs."""
    w, h = problem(1, 10)
    (s,) = wanda([w], seen(h), Target(0.1))
    d = w - s.weight
    assert (d != 0).sum() == 1
    assert s.loss == pytest.approx((d @ h @ d.T).item() / 2)


@pytest.mark.parametrize("method", ["wanda", "dsnot"])
def test_dead_inputs_are_removed_first_and_never_restored(method):
    w, h = problem(8, 64)
    dead = torch.tensor([3, 40])
    h[dead] = 0
    h[:, dead] = 0
    (s,) = SOLVERS[method]([w], seen(h), Target(0.5))
    assert (s.weight[:, dead] == 0).all()
    assert ((s.weight == 0).sum(1) == 32).all()
    assert torch.equal(s.weight, torch.where(s.kept, w, 0))
