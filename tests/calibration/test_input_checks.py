"""Checks of inputs that are read at the end of a step."""

import math

import pytest
import torch

from obsdiff.calibration.input_checks import InputChecks
from obsdiff.errors import CalibrationError


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_inf_and_nan_are_named_by_layer_and_step_when_the_step_is_over(wrong):
    checks, x = InputChecks(), torch.zeros(4, 3)
    checks.summable(torch.ones(2, 3), "first", 1)
    x[2, 1] = wrong
    checks.summable(x, "ff.net.2", 2)
    checks.summable(x, "later", 3)
    with pytest.raises(CalibrationError, match=r"ff\.net\.2: the input of step 2 has inf or NaN"):
        checks.settle()
    checks.settle()  # each finding is raised once


@pytest.mark.parametrize("size", [1e16, 1e-16])
def test_a_size_whose_square_is_lost_is_named(size):
    checks = InputChecks()
    checks.summable(torch.full((3, 2), size), "to_q", 1)
    with pytest.raises(CalibrationError, match=r"to_q: the input of step 1 is up to 1\.0e.16"):
        checks.settle()


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e16])
def test_norms_of_the_tokens_serve_as_well(wrong):
    """The order of the checks is that of the calls, whatever their lengths."""
    checks, lengths = InputChecks(), (3, 2, 3, 4)
    for i, length in enumerate(lengths):
        norms = torch.ones(length)
        norms[-1] = wrong if i in (1, 2) else 1.0
        checks.summable(torch.ones(length, 5), f"layer{i}", i, norms)
    checks.same(torch.ones(2, 2), torch.ones(2, 2), "to_k", "to_q")
    with pytest.raises(CalibrationError, match=r"layer1: the input of step 1 (has inf or NaN|is)"):
        checks.settle()
    checks.summable(torch.zeros(2, 5), "zeros", 1, torch.zeros(2))
    checks.settle()


def test_zeros_and_no_tokens_at_all_are_summable():
    checks = InputChecks()
    checks.summable(torch.zeros(3, 2), "to_q", 1)
    checks.summable(torch.empty(0, 2), "to_k", 1)
    checks.settle()


def test_equal_tensors_are_the_same_and_others_are_named():
    checks, x = InputChecks(), torch.randn(4, 3)
    checks.same(x, x, "to_k", "to_q")
    checks.same(x.view(4, 3), x, "to_k", "to_q")
    assert not checks.pending
    checks.same(x.clone(), x, "to_k", "to_q")
    checks.same(x.double(), x, "to_k", "to_q")
    checks.settle()
    checks.same(x + 1, x, "to_k", "to_q")
    with pytest.raises(CalibrationError, match=r"to_k and to_q: .* their inputs differ"):
        checks.settle()
    with pytest.raises(CalibrationError, match=r"to_k and to_q: .* their inputs differ"):
        checks.same(x[:2], x, "to_k", "to_q")
