"""Structured pruning of one task: choose heads, neurons and channels, repair, and shrink the model.

The same functions serve one attention, joint attention of two streams, an FFN, a residual block,
and the projection of FLUX's single blocks, which reads heads and neurons together.
"""

import zlib
from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from ..calibration.context import CalibratedInputs
from ..calibration.groups import PrunableGroup
from ..config import PruningConfig
from ..models.geometry import columns, rows
from ..models.linear_view import layer_at
from ..models.surgery import shrink_
from ..pipelines.record import GroupRecord, LayerRecord
from ..runtime.precision import exact_products
from ..solvers import BASELINES
from ..solvers.lstsq import lstsq
from ..solvers.obs_structured import Consumer, obs_heads, obs_neurons, remove_given
from ..solvers.problem import Solution, squared_error
from ..solvers.ranking import RANKINGS
from .held_out import best, dampings
from .problem import LayerProblem, named, problems_of
from .rounding import dense_solution
from .tasks import Allocation, Task, TaskResult, kept_items

Problems = Mapping[str, LayerProblem]  # by layer
GroupsSolved = tuple[dict[str, Solution], list[GroupRecord]]
UNIFORM = Allocation()


@exact_products()
def prune_structured_(
    denoiser: nn.Module,
    inputs: CalibratedInputs,
    config: PruningConfig,
    allocation: Allocation,
    task: Task,
) -> TaskResult:
    """Prune the groups of a task in place, and round its other layers if the config has bits.

    Args:
        denoiser: the model.
        inputs: the sums of the package's taps; those of the task are removed and used up.
        config: the settings.
        allocation: the items that each group keeps, if the config allocates.
        task: the groups, which share a consumer.

    Raises:
        NotPositiveDefinite: a Hessian cannot be factored, with the layer's name.
    """
    own = {tap: inputs.pop(tap) for tap in task.taps}
    layers: list[LayerRecord] = []
    groups: list[GroupRecord] = []
    if task.groups:
        layers, groups = prune_groups_(denoiser, task, own, config, allocation)
    if config.bits is not None:  # the layers that lost rows or nothing
        done = {row.name for row in layers}
        others = {tap: own[tap] for tap in task.taps if not done & set(tap.layers)}
        layers += round_taps_(denoiser, others, config, task.package)
    return TaskResult.read(denoiser, layers, groups, config.correct_bias)


def prune_groups_(
    denoiser: nn.Module,
    task: Task,
    inputs: CalibratedInputs,
    config: PruningConfig,
    allocation: Allocation = UNIFORM,
) -> tuple[list[LayerRecord], list[GroupRecord]]:
    """Prune the groups of a task in place.

    Args:
        denoiser: the model.
        task: the groups, which share a consumer.
        inputs: the sums of their consumers' taps; used up.
        config: the settings.
        allocation: the items that each group keeps, or those that leave (default: uniform).
    """
    by_layer = {layer: inputs[tap] for tap in task.taps for layer in tap.layers}
    consumers = dict.fromkeys(name for g in task.groups for name in g.group.consumers)
    problems = problems_of(
        denoiser, {name: by_layer[name] for name in consumers}, config, task.package
    )

    def solve(damping: float) -> GroupsSolved:
        return solve_groups(denoiser, task, problems, allocation, replace(config, damping=damping))

    def held_out_error(solved: GroupsSolved) -> float:
        return sum(problems[name].held_out_error(s.weight) for name, s in solved[0].items())

    def least_damping(solved: GroupsSolved) -> float:
        return min(solution.damping for solution in solved[0].values())

    solutions, groups = best(dampings(config), solve, least_damping, held_out_error)
    layers = [
        problems[name].close_(solution, config, 1 - solution.kept.float().mean().item())
        for name, solution in solutions.items()
    ]
    for prunable, chosen in zip(task.groups, groups, strict=True):
        shrink_(denoiser, prunable.group, kept_items(prunable, chosen))
    return layers, groups


def round_taps_(
    denoiser: nn.Module, inputs: CalibratedInputs, config: PruningConfig, package: int
) -> list[LayerRecord]:
    """Round the layers of taps in place, as they are after their rows were removed.

    Args:
        denoiser: the model.
        inputs: the sums of the taps; used up.
        config: the settings.
        package: the index of their package.
    """
    records = []
    for tap, calibrated in inputs.items():
        found = problems_of(denoiser, dict.fromkeys(tap.layers, calibrated), config, package)
        for problem in found.values():
            dense = dense_solution(problem.target, config.damping)
            records.append(problem.close_(dense, config, 0.0, only_rounded=True))
    return records


def solve_groups(
    denoiser: nn.Module,
    task: Task,
    problems: Problems,
    allocation: Allocation,
    config: PruningConfig,
) -> GroupsSolved:
    """Return the solution of each consumer and the record of each group; change no model.

    A solution's mask is that of the columns (I,).
    """
    solve = solve_by_obs if config.method == "obs" else solve_by_baseline
    return solve(denoiser, task, problems, allocation, config)


def solve_by_obs(
    denoiser: nn.Module,
    task: Task,
    problems: Problems,
    allocation: Allocation,
    config: PruningConfig,
) -> GroupsSolved:
    """Solve groups by Optimal Brain Surgeon: each removal repairs the remaining columns."""
    consumers = {}
    for name, problem in problems.items():
        with named(name):
            consumers[name] = Consumer.begin(problem.target, problem.hessian, config.damping)
    records, how = [], (config.compensation, RANKINGS[config.ranking])
    for prunable in task.groups:
        group, count = prunable.group, allocation.kept.get(prunable.name, prunable.kept)
        reads, readers = (
            columns(denoiser, group, prunable.total),
            [consumers[n] for n in group.consumers],
        )
        removed = prunable.total - count
        with named(group.consumers[0]):
            if allocation.given:
                items = allocation.given.items[prunable.name]
                chosen = remove_given(readers, reads, items, config.compensation)
            elif group.kind == "neurons":
                chosen = obs_neurons(readers[0], reads.flatten(), removed, *how)
            else:
                chosen = obs_heads(readers, list(reads), removed, *how)
        records.append(group_record(prunable, count, *chosen, task.package))
    solutions = {}
    for name, consumer in consumers.items():
        consumer.finish()
        problem, loss = problems[name], consumer.loss
        if not config.compensation:
            loss = squared_error(problem.target, consumer.weight, problem.hessian) / 2
        solutions[name] = Solution(consumer.weight, consumer.left, loss, consumer.damping)
    return solutions, records


def solve_by_baseline(
    denoiser: nn.Module,
    task: Task,
    problems: Problems,
    allocation: Allocation,
    config: PruningConfig,
) -> GroupsSolved:
    """Solve groups by a baseline's scores, without repair or with least squares at the end."""
    consumers = {name: Consumer.untouched(p.target, p.hessian) for name, p in problems.items()}
    records = []
    for prunable in task.groups:
        group, count = prunable.group, allocation.kept.get(prunable.name, prunable.kept)
        reads, readers = (
            columns(denoiser, group, prunable.total),
            [consumers[n] for n in group.consumers],
        )
        read = [consumer.weight[:, reads].transpose(0, 1) for consumer in readers]
        written = [
            layer_at(denoiser, name)
            .weight.detach()[rows(denoiser, group, name, prunable.total)]
            .to(readers[0].weight.device)
            for name in group.producers
        ]
        seed = config.seed ^ zlib.crc32(group.owner.encode())
        removed, scores = BASELINES[config.method](read, written, prunable.total - count, seed=seed)
        for consumer in readers:
            consumer.drop(reads[removed].flatten())
        records.append(group_record(prunable, count, removed, scores, task.package))
    solutions = {}
    for name, consumer in consumers.items():
        problem, weight, damping = problems[name], consumer.weight, consumer.damping
        if config.refine == "lstsq":
            mask = consumer.left.expand(len(problem.target), -1)
            with named(name):
                weight = lstsq(
                    problem.target.to(problem.hessian), mask, problem.hessian, config.damping
                )
            damping = config.damping
        loss = squared_error(problem.target, weight, problem.hessian) / 2
        solutions[name] = Solution(weight, consumer.left, loss, damping)
    return solutions, records


def group_record(
    prunable: PrunableGroup, kept: int, removed: list[int], scores: list[float], package: int
) -> GroupRecord:
    """Return the record of a group; each channel is counted, and has its norm group's score."""
    each, group = prunable.each, prunable.group
    channels = [i * each + j for i in removed for j in range(each)]
    every = [score for score in scores for _ in range(each)]
    total = prunable.total * each
    return GroupRecord(group.owner, group.kind, total, kept * each, channels, every, package)
