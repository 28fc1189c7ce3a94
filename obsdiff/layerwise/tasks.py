"""Task: the smallest unit that is solved, resumed and assigned to a process."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..calibration.packages import Package
from ..models.geometry import unit_size
from ..models.linear_view import write_
from ..models.structure import Group, Shape, Tap
from ..models.surgery import shrink_
from ..pipelines.record import GroupRecord, LayerRecord


def left_items(denoiser: nn.Module, group: Group, chosen: GroupRecord) -> list[int]:
    """The heads, neurons or norm groups of a group, not yet shrunk, that stay."""
    gone, each = set(chosen.removed), unit_size(denoiser, group)
    return [i // each for i in range(0, chosen.total, each) if i not in gone]


def by_consumer(groups: list[Group]) -> list[list[Group]]:
    """Groups that share a consumer are pruned together, heads first."""
    together: dict[str, list[Group]] = {}
    for group in groups:
        together.setdefault(group.consumers[0], []).append(group)
    return [sorted(some, key=lambda g: g.kind) for some in together.values()]


@dataclass(frozen=True)
class Task:
    """Either a tap, or groups whose consumers are pruned together. `number` counts the pieces of a run, in forward order."""

    number: int
    package: int
    taps: tuple[Tap, ...]
    groups: tuple[Group, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose weights the solver changes, and whose inputs the Hessians are of."""
        return tuple(layer for tap in self.taps for layer in tap.layers)

    @property
    def touched(self) -> set[str]:
        """All layers that are changed: of groups what writes the heads or neurons, too."""
        return {
            *self.layers,
            *(layer for group in self.groups for layer in (*group.producers, *group.consumers)),
        }


@dataclass(frozen=True)
class TaskResult:
    """A solved piece: the new weight of each of its layers, as the model holds it, and the new biases, if they changed; and its records."""

    weights: dict[str, Tensor]
    layers: list[LayerRecord]
    groups: list[GroupRecord]
    biases: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], layers: list[LayerRecord], groups: list[GroupRecord]
    ) -> "TaskResult":
        """From what `tensors` gave. KeyError for a weight that is missing."""
        names = [row.name for row in layers]
        biases = {name: tensors[f"{name}.bias"] for name in names if f"{name}.bias" in tensors}
        return cls({name: tensors[name] for name in names}, layers, groups, biases)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights under their layer's name, biases under that and ".bias"."""
        return self.weights | {f"{name}.bias": bias for name, bias in self.biases.items()}


def tasks_of(packages: list[Package], groups: list[Group]) -> list[Task]:
    """Every piece of a run, in forward order."""
    found: list[Task] = []
    for index, package in enumerate(packages):
        inside = [group for group in groups if group.consumers[0] in package.layers]
        for together in by_consumer(inside):
            consumers = {name for group in together for name in group.consumers}
            taps = tuple(tap for tap in package.taps if consumers & set(tap.layers))
            found.append(Task(len(found), index, taps, tuple(together)))
        for tap in () if inside else package.taps:
            found.append(Task(len(found), index, (tap,)))
    return found


def task_cost(task: Task, shapes: Mapping[str, Shape]) -> float:
    """About how many multiplications a piece takes: its factors, and the sweep of its weights (O, I)."""
    sizes = [shapes[layer] for layer in task.layers]
    return sum(shapes[tap.layers[0]][1] ** 3 for tap in task.taps) + sum(
        outputs * inputs**2 for outputs, inputs in sizes
    )


def apply_(denoiser: nn.Module, task: Task, result: TaskResult) -> None:
    """Change the model as the solving of the piece changed it where it was solved."""
    for group, chosen in zip(task.groups, result.groups, strict=True):
        shrink_(denoiser, group, left_items(denoiser, group, chosen))
    for layer, weight in result.weights.items():
        module = denoiser.get_submodule(layer)
        write_(layer, module, weight)
    for layer, bias in result.biases.items():
        with torch.no_grad():
            denoiser.get_submodule(layer).bias.copy_(bias)
