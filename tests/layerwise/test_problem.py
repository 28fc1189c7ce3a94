"""The problem of one layer: its target, what judges a solution, and what a solution leaves."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from obsdiff import PruningConfig
from obsdiff.calibration.calibrated_input import CalibratedInput
from obsdiff.calibration.hessian import Hessian
from obsdiff.errors import CalibrationError, NotPositiveDefinite
from obsdiff.layerwise.problem import LayerProblem, named, problems_of, targets_of
from obsdiff.solvers.asymmetric import asymmetric
from obsdiff.solvers.problem import Solution, layer_error, squared_error

OUTPUTS, COLUMNS = 5, 8


def model() -> nn.Module:
    """Two layers that read one input, and one that reads another."""
    torch.manual_seed(0)
    layers = {name: nn.Linear(COLUMNS, OUTPUTS) for name in ("q", "k", "out")}
    return nn.ModuleDict(layers).requires_grad_(False)


def calibrated_input(
    seed: int = 0, held_out: bool = False, crossed: bool = False
) -> CalibratedInput:
    g = torch.Generator().manual_seed(seed)
    x, other, dense = (torch.randn(40, COLUMNS, generator=g) + 0.5 for _ in range(3))
    cross = torch.zeros(COLUMNS, COLUMNS) if crossed else None
    found = CalibratedInput(Hessian.zeros(COLUMNS), cross=cross)
    found.hessian.update(x, 1.2)
    if crossed:
        found.update_cross(x, 1.2, dense)
    if held_out:
        found.held_out = Hessian.zeros(COLUMNS)
        found.held_out.update(other, 1.2)
    return found


def problem_of(
    module: nn.Module, held_out: bool = False, config: PruningConfig | None = None
) -> LayerProblem:
    inputs = {"q": calibrated_input(held_out=held_out)}
    return problems_of(module, inputs, config or PruningConfig(), 3)["q"]


def masked(problem: LayerProblem, damping: float = 0.01) -> Solution:
    kept = torch.rand(OUTPUTS, COLUMNS, generator=torch.Generator().manual_seed(1)) > 0.5
    return Solution(problem.target * kept, kept, 7.0, damping)


def test_named_adds_the_layers_name_to_what_can_not_be_factored():
    with (
        pytest.raises(NotPositiveDefinite, match=r"^blocks\.0\.to_q: not so$"),
        named("blocks.0.to_q"),
    ):
        raise NotPositiveDefinite("not so")
    with pytest.raises(CalibrationError, match=r"^another$"), named("blocks.0.to_q"):
        raise CalibrationError("another")
    with named("blocks.0.to_q"):
        found = 1
    assert found == 1


def test_layers_that_share_an_input_share_its_hessian():
    layers, shared, other = model(), calibrated_input(held_out=True), calibrated_input(1)
    expected, apart, single = shared.matrix(), shared.held_out.matrix(), other.matrix()
    mean, variance = shared.mean(), shared.variance()
    found = problems_of(layers, {"q": shared, "out": other, "k": shared}, PruningConfig(), 3)
    assert list(found) == ["q", "out", "k"]
    assert found["q"].hessian is found["k"].hessian
    assert found["q"].held_out is found["k"].held_out
    assert torch.equal(found["q"].hessian, expected)
    assert torch.equal(found["q"].held_out, apart)
    assert torch.equal(found["out"].hessian, single)
    assert found["out"].held_out is None
    for name, problem in found.items():
        assert (problem.name, problem.package, problem.together) == (name, 3, 3)
        assert problem.module is layers[name]
        assert problem.target.data_ptr() == layers[name].weight.data_ptr()
        assert problem.damping == 0
    assert torch.equal(found["k"].mean, mean)
    assert torch.equal(found["k"].variance, variance)
    assert found["k"].tokens_per_column == 40 / COLUMNS
    assert shared.hessian.packed.numel() == 0


def test_the_target_of_asymmetric_calibration_gives_the_dense_outputs():
    layers, config = model(), PruningConfig(damping=0.02)
    calibrated, twin = calibrated_input(crossed=True), calibrated_input(crossed=True)
    weights = [layers[name].weight for name in ("q", "k")]
    wanted, damping = asymmetric(weights, twin.take_(), twin.take_cross_(), 0.02)
    found = problems_of(layers, {"q": calibrated, "k": calibrated}, config, 0)
    for name, target in zip(("q", "k"), wanted, strict=True):
        assert torch.equal(found[name].target, target)
        assert not torch.allclose(target, layers[name].weight)
        assert found[name].damping == damping == 0.02
    assert calibrated.cross is None
    same, none = targets_of(weights, calibrated_input(), found["q"].hessian, 0.02)
    assert (same, none) == (weights, 0.0)


def test_a_hessian_that_is_not_finite_is_named_by_the_first_layer_that_reads_it():
    calibrated = calibrated_input(crossed=True)
    calibrated.hessian.packed[0] = math.inf
    with pytest.raises(NotPositiveDefinite, match=r"^k: "):
        problems_of(model(), {"k": calibrated, "q": calibrated}, PruningConfig(), 0)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_solution_that_is_not_finite_is_refused_with_the_layers_name(value):
    layers = model()
    problem, before = problem_of(layers), layers["q"].weight.clone()
    solution = masked(problem, damping=0.05)
    solution.weight[2, 3] = value
    with pytest.raises(
        NotPositiveDefinite,
        match=r"^q: the pruned weight has inf or NaN; raise the damping \(now 0\.05\)$",
    ):
        problem.close_(solution, PruningConfig())
    assert torch.equal(layers["q"].weight, before)


def test_a_closed_problem_has_its_weight_in_the_model_and_its_record():
    layers = model()
    problem, before = problem_of(layers), layers["q"].weight.clone()
    bias, solution = layers["q"].bias.clone(), masked(problem)
    error = layer_error(before, solution.weight, problem.hessian)
    assert problem.error(solution) == error
    known = dataclasses.replace(solution, squared_error=0.0)
    assert problem.error(known) == 0.0
    row = problem.close_(solution, PruningConfig())
    assert torch.equal(layers["q"].weight, before * solution.kept)
    assert torch.equal(layers["q"].bias, bias)
    assert (row.name, row.shape, row.package) == ("q", (OUTPUTS, COLUMNS), 3)
    assert row.sparsity == pytest.approx(1 - solution.kept.float().mean().item())
    assert (row.loss, row.error, row.damping) == (7.0, error, 0.01)
    assert row.tokens_per_column == 40 / COLUMNS
    assert (row.held_out_error, row.repaired) == (None, None)
    assert row.seconds > 0


def test_the_record_has_the_sparsity_that_was_given_and_the_greater_damping():
    problem = problem_of(model())
    problem = dataclasses.replace(problem, damping=0.5)
    row = problem.close_(masked(problem), PruningConfig(), sparsity=0.25)
    assert (row.sparsity, row.damping) == (0.25, 0.5)


def test_the_time_is_shared_by_the_layers_that_are_solved_together():
    problem = problem_of(model())
    one, four = (
        dataclasses.replace(problem, together=n, began=problem.began - 100) for n in (1, 4)
    )
    seconds = [p.close_(masked(p), PruningConfig()).seconds for p in (one, four)]
    assert seconds[0] == pytest.approx(4 * seconds[1], rel=0.05)
    assert seconds[0] > 100


def test_a_repair_that_does_harm_is_undone_and_one_that_helps_stays():
    config = PruningConfig(held_out=1, num_prompts=2)
    for scale, repaired in ((100.0, False), (1.0, True)):
        layers = model()
        problem, before = problem_of(layers, held_out=True), layers["q"].weight.clone()
        bare = masked(problem)
        solution = dataclasses.replace(bare, weight=scale * bare.weight)
        expected = bare.weight if not repaired else solution.weight
        loss = squared_error(before, expected, problem.hessian) / 2
        error = layer_error(before, expected, problem.hessian)
        held_out = problem.held_out_error(expected)
        assert held_out == layer_error(before, expected, problem.held_out)
        row = problem.close_(solution, config)
        assert row.repaired is repaired
        assert torch.equal(layers["q"].weight, expected)
        assert row.loss == (solution.loss if repaired else pytest.approx(loss))
        assert (row.error, row.held_out_error) == (error, held_out)


def test_the_bias_is_corrected_for_the_target_and_only_if_configured():
    layers = model()
    problem, bias = problem_of(layers), layers["q"].bias.clone()
    solution, target = masked(problem), problem.target.clone()
    problem.close_(solution, PruningConfig(correct_bias=True))
    expected = bias + (target - solution.weight) @ problem.mean
    torch.testing.assert_close(layers["q"].bias, expected)
    assert not torch.allclose(expected, bias)
