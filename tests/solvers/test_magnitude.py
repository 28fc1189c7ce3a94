"""Magnitude pruning, by hand."""

import torch

from obsdiff.solvers.magnitude import magnitude
from obsdiff.solvers.problem import Target
from tests.solvers.problems import seen


def test_magnitude_by_hand():
    """Inputs of very different size do not matter.

    Half of the whole matrix: the second row, 1, 2, 3 and 4, is removed; its squares sum to 30.
    2:4: half of every row, 6, 5, 1 and 2, is removed; the squares sum to 66.
    """
    inputs = seen(torch.diag(torch.tensor([1e6, 1.0, 1.0, 1e-6], dtype=torch.float64)))
    w = torch.tensor([[5.0, -7.0, 6.0, 8.0], [-1.0, 2.0, -3.0, 4.0]])
    (s,) = magnitude([w], inputs, Target(0.5))
    assert s.weight.tolist() == [[5.0, -7.0, 6.0, 8.0], [0.0, 0.0, 0.0, 0.0]]
    assert s.loss == 30
    (s,) = magnitude([w], inputs, Target(0.5, (2, 4)))
    assert s.weight.tolist() == [[0.0, -7.0, 0.0, 8.0], [0.0, 0.0, -3.0, 4.0]]
    assert s.loss == 66
