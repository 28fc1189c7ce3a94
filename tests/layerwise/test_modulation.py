"""Factors of a modulation layer in half precision."""

import torch
from torch import nn

from obsdiff.layerwise.modulation import Moments, factors_of

OUTPUTS, INPUTS = 1024, 8


def test_factors_in_float16_do_not_overflow_between_each_other():
    layer = nn.Linear(INPUTS, OUTPUTS, bias=False).half()
    with torch.no_grad():
        layer.weight.add_(1e4)
    x = torch.eye(INPUTS, dtype=torch.float64)
    square = x.T @ x / INPUTS
    centred = square - x.mean(0)[:, None] * x.mean(0)
    factors, _ = factors_of(layer, Moments(square, square, centred, square), 2, INPUTS)
    between = x.half() @ factors.down.T
    assert between.abs().max() <= 1.5 * layer.weight.abs().max()
    found = between @ factors.up.T
    torch.testing.assert_close(found, (x.half() @ layer.weight.T), rtol=0.01, atol=0)
