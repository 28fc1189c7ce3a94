"""Inputs at the edge of what numbers can hold: a right result, a repair that the record shows, or
an error with layer and step."""

import math

import pytest
import torch

import obsdiff
from obsdiff import CalibrationError, PruningConfig
from obsdiff.calibration.hessian import Hessian
from obsdiff.calibration.input_checks import InputChecks
from obsdiff.errors import RunFailed
from obsdiff.solvers import SOLVERS
from obsdiff.solvers.problem import Inputs, Target

from ..conftest import PROMPTS, sd3

QUICK = {"num_inference_steps": 2, "height": 16, "width": 16}
LAYER = "transformer_blocks.1.ff.net.2"
TARGETS = [Target(0.5), Target(0.5, (2, 4))]


def solved(tokens: torch.Tensor, target: Target, method: str = "obs"):
    hessian = Hessian.zeros(tokens.shape[1])
    hessian.update(tokens)
    weight = torch.randn(8, tokens.shape[1], generator=torch.Generator().manual_seed(0))
    inputs = Inputs(hessian.matrix(), hessian.mean(), hessian.variance())
    return weight, SOLVERS[method]([weight], inputs, target)[0]


def tokens_of(kind: str) -> torch.Tensor:
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))
    return {
        "all zero": torch.zeros(400, 16),
        "constant": torch.full((400, 16), 3.0),
        "one token": x[:1],
        "duplicated columns": x[:, :8].repeat(1, 2),
        "one column a thousand times the others": x * torch.tensor([1000.0] + [1.0] * 15),
        "1e14": x * 1e14,
        "1e-14": x * 1e-14,
    }[kind]


@pytest.mark.parametrize("target", TARGETS, ids=["half", "2:4"])
@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize(
    "kind",
    [
        "all zero",
        "constant",
        "one token",
        "duplicated columns",
        "one column a thousand times the others",
        "1e14",
        "1e-14",
    ],
)
def test_every_solver_answers_in_numbers(kind, method, target):
    _, solution = solved(tokens_of(kind), target, method)
    assert solution.weight.isfinite().all()
    assert (solution.weight == 0).double().mean() >= 0.5
    assert math.isfinite(solution.loss)


@pytest.mark.parametrize("target", TARGETS, ids=["half", "2:4"])
@pytest.mark.parametrize("kind", ["constant", "one token", "duplicated columns"])
def test_what_the_inputs_can_not_tell_apart_is_repaired_by_one_another(kind, target):
    """Half of the weights are removed and the outputs hardly change: every input is redundant."""
    x = tokens_of(kind)
    weight, solution = solved(x, target)
    before, after = x @ weight.T, x @ solution.weight.T
    assert (before - after).norm() < 0.4 * before.norm()
    removed = weight * solution.kept
    assert (before - after).norm() < (before - x @ removed.T).norm()
    assert solution.damping >= target.damping


def test_the_scale_of_the_inputs_changes_nothing():
    x = tokens_of("duplicated columns")
    masks = [solved(x * scale, TARGETS[0])[1].kept for scale in (1.0, 2.0**40, 2.0**-40)]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


@pytest.mark.parametrize("factor", [1e30, 1e-30, 1e-42])
def test_squares_that_float32_can_not_hold_are_an_error_with_layer_and_step(factor):
    checks = InputChecks()
    checks.summable(torch.randn(4, 4) * factor, "ff.net.2", 3)
    with pytest.raises(
        CalibrationError,
        match=r"ff\.net\.2: the input of step 3 is up to .*: expected between 1e-15 and 1e\+15",
    ):
        checks.settle()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_one_wrong_number_in_one_step_is_an_error_with_layer_and_step(wrong):
    pipe, calls = sd3(), []

    def spoil(module, args):
        calls.append(1)
        if len(calls) == 2:  # the second step
            args[0][0, 0, 0] = wrong

    pipe.transformer.get_submodule(LAYER).register_forward_pre_hook(spoil)
    with pytest.raises(CalibrationError, match=rf"{LAYER}: the input of step 2 has inf or NaN"):
        obsdiff.prune_(pipe, PROMPTS[:2], PruningConfig(**QUICK))


@pytest.mark.parametrize("factor", [1e25, 1e-25])
def test_a_model_of_absurd_scale_is_an_error_that_names_the_layer(factor):
    pipe = sd3()
    pipe.transformer.get_submodule("transformer_blocks.1.ff.net.0.proj").weight.data *= factor
    pipe.transformer.get_submodule("transformer_blocks.1.ff.net.0.proj").bias.data.zero_()
    with pytest.raises(RunFailed, match=r"transformer_blocks\.1\.ff\.net\.2: the input of step 1"):
        obsdiff.prune_(pipe, PROMPTS[:2], PruningConfig(**QUICK))


def test_nan_in_one_weight_is_an_error_with_its_layer():
    pipe = sd3()
    pipe.transformer.get_submodule(LAYER).weight.data[0, 0] = float("nan")
    with pytest.raises(CalibrationError, match=LAYER):
        obsdiff.prune_(pipe, PROMPTS[:2], PruningConfig(**QUICK))


def test_denormal_weights_stay_finite():
    pipe = sd3()
    pipe.transformer.get_submodule(LAYER).weight.data *= 1e-38
    report = obsdiff.prune_(pipe, PROMPTS[:2], PruningConfig(**QUICK))
    assert pipe.transformer.get_submodule(LAYER).weight.isfinite().all()
    row = next(row for row in report.layers if row.name == LAYER)
    assert math.isfinite(row.error)
    assert row.sparsity >= 0.5
