"""Pruning of single weights: one call of the solver for the layers that read one input."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from ..calibration.calibrated_input import CalibratedInput
from ..calibration.context import CalibratedInputs
from ..config import PruningConfig
from ..models.structure import Tap
from ..pipelines.record import LayerRecord
from ..runtime.precision import exact_products
from ..solvers import SOLVERS
from ..solvers.low_rank import SLOW_TURNS, TURNS, rank_of, with_low_rank
from ..solvers.lstsq import refined
from ..solvers.problem import Inputs, Solution, Target, squared_error
from ..solvers.swaps import swapped
from .held_out import best, dampings
from .problem import named, problems_of
from .rounding import corrected_solution, dense_solution
from .tasks import Allocation, Task, TaskResult


@exact_products()
def prune_layers_(
    denoiser: nn.Module,
    inputs: CalibratedInputs,
    config: PruningConfig,
    allocation: Allocation,
    task: Task,
) -> TaskResult:
    """Prune single weights of the layers of a task in place.

    Args:
        denoiser: the model.
        inputs: the sums of the package's taps; those of the task are removed and used up.
        config: the settings.
        allocation: the sparsity of each layer, if the config allocates.
        task: the layers.

    Raises:
        NotPositiveDefinite: a Hessian cannot be factored, with the layer's name.
    """
    if allocation.sparsity:
        config = replace(config, sparsity=allocation.sparsity[task.layers[0]])
    records: list[LayerRecord] = []
    for tap in task.taps:
        given = allocation.given.masks if allocation.given else None
        records += prune_tap_(denoiser, tap, inputs.pop(tap), config, task.package, given)
    return TaskResult.read(denoiser, records, [], config.correct_bias)


def prune_tap_(
    denoiser: nn.Module,
    tap: Tap,
    calibrated: CalibratedInput,
    config: PruningConfig,
    package: int,
    given: Mapping[str, Tensor] | None = None,
) -> list[LayerRecord]:
    """Prune the layers of one tap in place.

    Args:
        denoiser: the model.
        tap: the layers.
        calibrated: the sums of their input; used up.
        config: the settings.
        package: the index of their package, for the records.
        given: True where a weight leaves (O, I), by layer, if the caller decides it.
    """
    found = problems_of(denoiser, dict.fromkeys(tap.layers, calibrated), config, package)
    problems = list(found.values())
    weights = [problem.target for problem in problems]
    first = problems[0]
    inputs = Inputs(first.hessian, first.mean, first.variance)

    def solve(damping: float) -> list[Solution]:
        if given is not None:
            return [
                under_mask(w, ~given[layer].to(w.device), inputs.hessian, damping, config)
                for layer, w in zip(tap.layers, weights, strict=True)
            ]
        return solutions_of(weights, inputs, config, damping)

    def held_out_error(solutions: list[Solution]) -> float:
        pairs = zip(problems, solutions, strict=True)
        return sum(problem.held_out_error(solution.whole) for problem, solution in pairs)

    with named(first.name):
        solutions = best(dampings(config), solve, lambda found: found[0].damping, held_out_error)
    return [
        problem.close_(solution, config)
        for problem, solution in zip(problems, solutions, strict=True)
    ]


def under_mask(
    weight: Tensor, kept: Tensor, hessian: Tensor, damping: float, config: PruningConfig
) -> Solution:
    """Return the best weights under a given mask, or without compensation the weights themselves.

    Args:
        weight: W (O, I).
        kept: mask (O, I), True where a weight is kept.
        hessian: H (I, I).
        damping: in units of the mean of H's diagonal.
        config: the settings.
    """
    weight = weight.to(hessian.device)
    bare = weight * kept
    masked = Solution(bare, kept, squared_error(weight, bare, hessian) / 2, 0.0)
    return refined(weight, masked, hessian, damping) if config.compensation else masked


def solutions_of(
    weights: list[Tensor], inputs: Inputs, config: PruningConfig, damping: float
) -> list[Solution]:
    """Return the solver's solutions with one damping, refined and corrected if configured.

    Args:
        weights: the weights (O, I) of the layers that read the input.
        inputs: the Hessian (I, I), mean (I,) and variance (I,) of the input.
        config: the settings.
        damping: in units of the mean of H's diagonal.
    """
    if config.low_rank is None:
        return sparse_solutions(weights, inputs, config, damping)
    ranks = [rank_of(tuple(weight.shape), config.low_rank) for weight in weights]
    pairs, hessian = list(zip(weights, ranks, strict=True)), inputs.hessian
    if config.only_rounds:
        return [corrected_solution(w.to(hessian.device), hessian, damping, r) for w, r in pairs]
    return [
        with_low_rank(
            weight,
            lambda rest: sparse_solutions([rest], inputs, config, damping)[0],
            hessian,
            damping,
            rank,
            SLOW_TURNS if config.method == "alps" else TURNS,
        )
        for weight, rank in pairs
    ]


def sparse_solutions(
    weights: list[Tensor], inputs: Inputs, config: PruningConfig, damping: float
) -> list[Solution]:
    """Return the solver's solutions, refined if configured; arguments as for `solutions_of`."""
    hessian = inputs.hessian
    if config.only_rounds:
        return [dense_solution(w.to(hessian.device), damping) for w in weights]
    target = Target(config.removed, config.group, damping, config.compensation)
    solutions = SOLVERS[config.method]([w.to(hessian.device) for w in weights], inputs, target)
    pairs = zip(weights, solutions, strict=True)
    if config.refine == "lstsq":
        return [refined(w, solution, hessian, damping) for w, solution in pairs]
    if config.refine == "swaps":
        return [swapped(w, solution, hessian, damping, config.group) for w, solution in pairs]
    return solutions
