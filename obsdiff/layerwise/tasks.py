"""Task: the smallest unit that is solved, resumed and assigned to a process.

A task is a tap or, for structured pruning, the groups that share a consumer. Its result
contains every tensor that it changes in the model, so it can be stored, or sent to another process,
and applied there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..calibration.given import GivenRemoval
from ..calibration.groups import PrunableGroup
from ..calibration.packages import Package
from ..models.linear_view import layer_at, write_
from ..models.low_rank import DOWN, UP, correct_by_, correction_of
from ..models.structure import Shape, Tap
from ..models.surgery import shrink_
from ..pipelines.low_bits import SCALE, grid_of, put_on_grid_
from ..pipelines.record import GroupRecord, LayerRecord
from ..runtime.distributed import Ranks, assign
from ..solvers.rounding import Grid


@dataclass(frozen=True)
class Allocation:
    """The sparsity of each layer, or the items that each group keeps, unless pruning is uniform.

    Attributes:
        sparsity: the sparsity of each layer, 0 to 1, by its name.
        kept: the items that each group keeps, by its name.
        given: what leaves, if the caller decides it.
    """

    sparsity: Mapping[str, float] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    given: GivenRemoval | None = None


@dataclass(frozen=True)
class Task:
    """A tap, or the groups whose consumers are pruned together.

    Attributes:
        number: the index of the task in the run, in forward order.
        package: the index of its package.
        taps: the inputs that it reads.
        groups: the groups that it prunes; empty for single weights.
    """

    number: int
    package: int
    taps: tuple[Tap, ...]
    groups: tuple[PrunableGroup, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the solver changes."""
        return tuple(layer for tap in self.taps for layer in tap.layers)

    @property
    def touched(self) -> set[str]:
        """All layers that change: of groups the producers, too."""
        groups = [prunable.group for prunable in self.groups]
        return {
            *self.layers,
            *(layer for group in groups for layer in (*group.producers, *group.consumers)),
        }


@dataclass(frozen=True)
class TaskResult:
    """The result of a task.

    Attributes:
        weights: the new weight of each layer, as the model stores it.
        layers: the record of each layer.
        groups: the record of each group.
        biases: the new biases, if they changed.
        corrections: U (O, R) and V (R, I) of each layer that has a correction of low rank.
        scales: the scales (O, I / g) of each rounded layer.
    """

    weights: dict[str, Tensor]
    layers: list[LayerRecord]
    groups: list[GroupRecord]
    biases: dict[str, Tensor] = field(default_factory=dict)
    corrections: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], layers: list[LayerRecord], groups: list[GroupRecord]
    ) -> "TaskResult":
        """Return the result from its `tensors`; KeyError for a missing one."""
        names = [row.name for row in layers]
        biases = {name: tensors[f"{name}.bias"] for name in names if f"{name}.bias" in tensors}
        corrections = {
            row.name: (tensors[f"{row.name}.{UP}"], tensors[f"{row.name}.{DOWN}"])
            for row in layers
            if row.rank
        }
        weights = {name: tensors[name] for name in names}
        scales = {row.name: tensors[f"{row.name}.{SCALE}"] for row in layers if row.bits}
        return cls(weights, layers, groups, biases, corrections, scales)

    @classmethod
    def read(
        cls,
        denoiser: nn.Module,
        layers: list[LayerRecord],
        groups: list[GroupRecord],
        corrected: bool,
    ) -> "TaskResult":
        """Return the result from the pruned model; with the biases if they were `corrected`."""
        modules = {row.name: layer_at(denoiser, row.name) for row in layers}
        weights = {name: module.weight.detach() for name, module in modules.items()}
        biases = {
            name: module.bias.detach()
            for name, module in modules.items()
            if corrected and module.bias is not None
        }
        found = {name: correction_of(module) for name, module in modules.items()}
        corrections = {name: pair for name, pair in found.items() if pair}
        grids = {name: grid_of(module) for name, module in modules.items()}
        scales = {name: grid.scale for name, grid in grids.items() if grid}
        return cls(weights, layers, groups, biases, corrections, scales)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights by layer; biases, corrections and scales by layer and their own names."""
        biases = {f"{name}.bias": bias for name, bias in self.biases.items()}
        ups = {f"{name}.{UP}": pair[0] for name, pair in self.corrections.items()}
        downs = {f"{name}.{DOWN}": pair[1] for name, pair in self.corrections.items()}
        scales = {f"{name}.{SCALE}": scale for name, scale in self.scales.items()}
        return self.weights | biases | ups | downs | scales


def tasks_of(packages: list[Package], groups: list[PrunableGroup]) -> list[Task]:
    """Return every task of a run, in forward order.

    A task has the taps of its groups' consumers, then those of their producers, if they are
    calibrated, as for rounding. All other taps are tasks of their own.

    Args:
        packages: all packages.
        groups: the groups of a structured pruning; none for single weights.
    """
    found: list[Task] = []
    for index, package in enumerate(packages):
        inside = [prunable for prunable in groups if prunable.group.consumers[0] in package.layers]
        left = dict.fromkeys(package.taps)
        for together in by_consumer(inside):
            consumers = {name for prunable in together for name in prunable.group.consumers}
            producers = {name for prunable in together for name in prunable.group.producers}
            taps = [tap for tap in left if consumers & set(tap.layers)]
            taps += [tap for tap in left if producers & set(tap.layers) and tap not in taps]
            left = {tap: None for tap in left if tap not in taps}
            found.append(Task(len(found), index, tuple(taps), tuple(together)))
        for tap in left:
            found.append(Task(len(found), index, (tap,)))
    return found


def by_consumer(groups: list[PrunableGroup]) -> list[list[PrunableGroup]]:
    """Return groups by consumer: those that share one are pruned together, heads first."""
    together: dict[str, list[PrunableGroup]] = {}
    for prunable in groups:
        together.setdefault(prunable.group.consumers[0], []).append(prunable)
    return [sorted(some, key=lambda g: g.group.kind) for some in together.values()]


def owners_of(tasks: list[Task], shapes: Mapping[str, Shape], ranks: Ranks) -> dict[Tap, int]:
    """Return the process that solves each tap; all processes have nearly equal work.

    Args:
        tasks: all tasks of the run.
        shapes: (O, I) of every layer.
        ranks: the processes.
    """
    owners = assign([task_cost(task, shapes) for task in tasks], ranks.size)
    return {tap: owners[task.number] for task in tasks for tap in task.taps}


def task_cost(task: Task, shapes: Mapping[str, Shape]) -> float:
    """Return the approximate number of multiplications: factors, and the sweep of the weights."""
    sizes = [shapes[layer] for layer in task.layers]
    return sum(shapes[tap.layers[0]][1] ** 3 for tap in task.taps) + sum(
        outputs * inputs**2 for outputs, inputs in sizes
    )


def apply_(denoiser: nn.Module, task: Task, result: TaskResult) -> None:
    """Change the model as the task changed it in the process that solved it."""
    for prunable, chosen in zip(task.groups, result.groups, strict=True):
        shrink_(denoiser, prunable.group, kept_items(prunable, chosen))
    for layer, weight in result.weights.items():
        write_(layer, denoiser.get_submodule(layer), weight)
    for layer, (up, down) in result.corrections.items():
        correct_by_(denoiser.get_submodule(layer), up, down)
    for row in result.layers:
        if row.bits and row.group_size:
            grid = Grid(row.bits, row.group_size, result.scales[row.name])
            put_on_grid_(denoiser.get_submodule(row.name), grid)
    for layer, bias in result.biases.items():
        own = layer_at(denoiser, layer).bias
        assert own is not None
        with torch.no_grad():
            own.copy_(bias)


def kept_items(prunable: PrunableGroup, chosen: GroupRecord) -> list[int]:
    """Return the indices of the heads, neurons or norm groups that remain."""
    removed, each = set(chosen.removed), prunable.each
    return [i // each for i in range(0, chosen.total, each) if i not in removed]
