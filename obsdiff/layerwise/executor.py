"""Solve the pieces of one package: in one process one after the other, in several each where its Hessian is.

What the journal has is taken from it. Under a memory budget what is pruned waits on disk.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from torch import nn

from ..calibration.context import CalibrationContext, Hessians
from ..calibration.gather import GATHER, DensePass
from ..calibration.packages import Package
from ..config import PruningConfig
from ..pipelines.record import PruningReport
from ..runtime.distributed import Ranks
from ..runtime.mapped_weights import spill_, unmap_
from ..runtime.progress import Progress
from ..runtime.scratch import Scratch
from .journal import Journal
from .linear import solve_task_
from .reporting import seconds
from .tasks import Task, TaskResult, apply_


@dataclass(frozen=True)
class Executor:
    """A run's solving: the model, what is solved already, where things are kept, who solves what, and layers' own sparsities."""

    denoiser: nn.Module
    config: PruningConfig
    journal: Journal | None
    solved: Set[int]
    scratch: Scratch
    ranks: Ranks
    owners: Sequence[int]
    shares: Mapping[str, float]

    def package(self, tasks: list[Task], hessians: Hessians) -> Iterator[TaskResult]:
        """Outcomes of a package's pieces, in order; each has been applied to the model by then. The Hessians are used up."""
        return (
            self.alone(tasks, hessians) if self.ranks.size == 1 else self.together(tasks, hessians)
        )

    def alone(self, tasks: list[Task], hessians: Hessians) -> Iterator[TaskResult]:
        for task in tasks:
            self.begin(task)
            if task.number in self.solved:
                result = self.journal.read(task)
                apply_(self.denoiser, task, result)
            else:
                result = self.solve(task, hessians)
                self.keep(task, result)
            self.end(task)
            yield TaskResult({}, result.layers, result.groups)

    def together(self, tasks: list[Task], hessians: Hessians) -> Iterator[TaskResult]:
        """In several processes: all solve what is theirs, then everyone gets everything. Process 0 has the journal."""
        own = {}
        for task in tasks:
            if task.number not in self.solved and self.owners[task.number] == self.ranks.rank:
                self.begin(task)
                own[task.number] = self.solve(task, hessians)
        for task in tasks:
            old, owner = task.number in self.solved, self.owners[task.number]
            mine = (
                self.journal.read(task)
                if old and self.ranks.rank == 0
                else own.pop(task.number, None)
            )
            result = self.exchange(mine, 0 if old else owner)
            if old or owner != self.ranks.rank:
                self.begin(task)
                apply_(self.denoiser, task, result)
            if not old and self.ranks.rank == 0:
                self.keep(task, result)
            self.end(task)
            yield TaskResult({}, result.layers, result.groups)

    def exchange(self, result: TaskResult | None, owner: int) -> TaskResult:
        device = next(self.denoiser.parameters()).device
        parts = (result.tensors, (result.layers, result.groups)) if result else (None, None)
        tensors, (layers, groups) = self.ranks.broadcast(*parts, owner, device)
        return TaskResult.of(tensors, layers, groups)

    def solve(self, task: Task, hessians: Hessians) -> TaskResult:
        return solve_task_(
            self.denoiser,
            task,
            {tap: hessians.pop(tap) for tap in task.taps},
            self.config,
            self.shares,
        )

    def keep(self, task: Task, result: TaskResult) -> None:
        if self.journal:
            self.journal.write(task, result)

    def begin(self, task: Task) -> None:
        if self.config.memory_budget_gib:
            unmap_(self.denoiser, task.touched)

    def end(self, task: Task) -> None:
        if self.config.memory_budget_gib:
            spill_(self.denoiser, task.touched, self.scratch)


def results(
    context: CalibrationContext,
    executor: Executor,
    packages: list[Package],
    tasks: list[Task],
    dense: DensePass | None,
    report: PruningReport,
    bar: Progress,
) -> Iterator[TaskResult]:
    """Steps 3 and 4, package after package."""
    done = {layer for task in tasks if task.number in executor.solved for layer in task.layers}
    with contextlib.closing(
        GATHER[executor.config.calibrating](context, packages, dense, done)
    ) as gathered:
        for index in range(len(packages)):
            bar.package(index)
            with seconds(report, "calibration"):
                hessians = next(gathered)
            with seconds(report, "solve"):
                yield from executor.package(
                    [task for task in tasks if task.package == index], hessians
                )
