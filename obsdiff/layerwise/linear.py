"""The pieces of work of a package, each solved by itself, and what comes out of one.

A piece is a tap, or for structured pruning the groups that share a consumer. Its outcome holds all that the piece changes in
the model, so it can be kept on disk, or come from another process, and be applied there.
"""

import time
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from ..calibration.hessian import Hessian
from ..config import PruningConfig
from ..errors import NotPositiveDefinite
from ..models.linear_view import matrix, write_
from ..models.structure import Tap
from ..pipelines.record import GroupRecord, LayerRecord
from ..solvers import SOLVERS
from ..solvers.lstsq import refined
from ..solvers.problem import Inputs, Solution, Target, layer_error
from ..solvers.swaps import swapped
from .bias_correction import correct_, has_bias
from .held_out import best, dampings, does_harm, unrepaired
from .problem import targets_of
from .structured import prune_groups_
from .tasks import Task, TaskResult


def solve_task_(
    denoiser: nn.Module,
    task: Task,
    hessians: Mapping[Tap, Hessian],
    config: PruningConfig,
    shares: Mapping[str, float],
) -> TaskResult:
    """Prune a piece in place, and use up its Hessians. `shares`: the sparsity of each layer, or how many items each
    group keeps, where it is not the config that says so."""
    groups: list[GroupRecord] = []
    if shares and not task.groups:
        config = replace(config, sparsity=shares[task.layers[0]])
    if task.groups:
        by_layer = {layer: hessians[tap] for tap in task.taps for layer in tap.layers}
        layers, groups = prune_groups_(
            denoiser, list(task.groups), by_layer, config, task.package, shares
        )
    else:
        layers = [
            row
            for tap in task.taps
            for row in prune_tap_(denoiser, tap, hessians[tap], config, task.package)
        ]
    modules = {row.name: denoiser.get_submodule(row.name) for row in layers}
    biases = {
        name: module.bias.detach()
        for name, module in modules.items()
        if config.correct_bias and has_bias(module)
    }
    return TaskResult(
        {name: module.weight.detach() for name, module in modules.items()}, layers, groups, biases
    )


def prune_tap_(
    denoiser: nn.Module, tap: Tap, hessian: Hessian, config: PruningConfig, package: int
) -> list[LayerRecord]:
    """Prune the layers of one tap with their common Hessian, in place."""
    began = time.perf_counter()
    modules = [denoiser.get_submodule(layer) for layer in tap.layers]
    weights = [matrix(module) for module in modules]
    mean, variance = hessian.mean(), hessian.variance()
    square, apart = hessian.take_(), hessian.held_out and hessian.held_out.take_()
    weights, aimed = targets_of(tap.layers[0], weights, hessian, square, config)
    inputs = Inputs(square, mean, variance)

    def solve(damping: float) -> list[Solution]:
        return solutions_of(weights, inputs, config, damping)

    def error_apart(solutions: list[Solution]) -> float:
        return sum(
            layer_error(w, solution.weight, apart)
            for w, solution in zip(weights, solutions, strict=True)
        )

    try:
        solutions = best(
            dampings(config), solve, lambda solutions: solutions[0].damping, error_apart
        )
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{tap.layers[0]}: {error}") from None
    records = []
    for layer, module, weight, solution in zip(
        tap.layers, modules, weights, solutions, strict=True
    ):
        if not solution.weight.isfinite().all():
            raise NotPositiveDefinite(
                f"{layer}: the pruned weight has inf or NaN; raise the damping (now {solution.damping:g})"
            )
        judged = apart is not None and config.repairs
        repaired = not does_harm(weight, solution.weight, solution.kept, apart) if judged else None
        if repaired is False:
            solution = unrepaired(weight, solution, square)
        error = layer_error(weight, solution.weight, square)
        held_out = layer_error(weight, solution.weight, apart) if apart is not None else None
        if config.correct_bias:
            correct_(module, weight, solution.weight, mean)
        write_(layer, module, solution.weight)  # `weight` is a view of what this changes
        zeros = (module.weight == 0).float().mean().item()
        seconds = (time.perf_counter() - began) / len(tap.layers)
        per_column = hessian.distinct / hessian.columns
        damping = max(solution.damping, aimed)
        records.append(
            LayerRecord(
                layer,
                tuple(weight.shape),
                package,
                zeros,
                solution.loss,
                error,
                damping,
                per_column,
                seconds,
                held_out,
                repaired,
            )
        )
    return records


def solutions_of(
    weights: list[Tensor], inputs: Inputs, config: PruningConfig, damping: float
) -> list[Solution]:
    """The solver's answer with one damping, re-solved if the config says so."""
    target = Target(config.removed, config.group, damping, config.compensation)
    solutions = SOLVERS[config.method](
        [w.to(inputs.hessian.device) for w in weights], inputs, target
    )
    if config.refine == "lstsq":
        solutions = [
            refined(w, solution, inputs.hessian, damping)
            for w, solution in zip(weights, solutions, strict=True)
        ]
    if config.refine == "swaps":
        solutions = [
            swapped(w, solution, inputs.hessian, damping, config.group)
            for w, solution in zip(weights, solutions, strict=True)
        ]
    return solutions
