"""The executor runs tasks: in one process in turn, in several each in the process of its Hessian.

A result that the journal stores is applied; its task is not run again. Under a memory budget pruned
weights are stored in files.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from torch import nn

from ..calibration.context import CalibrationContext
from ..calibration.packages import Package
from ..calibration.plan import PruningPlan
from ..runtime.display import current
from ..runtime.mapped_weights import spill_, unmap_
from .journal import NullJournal
from .tasks import Task, TaskResult, apply_, task_cost

SOLVING = "solving"  # the name of its phase
Work = Callable[[Task], TaskResult]
TaskResults = Generator[TaskResult, None, None]


@dataclass(frozen=True)
class Executor:
    """Runs the tasks of a run.

    Attributes:
        context: the model, the processes, and which of them solves which tap.
        tasks: all tasks of the run.
        journal: stores results.
        solved: the numbers of the tasks that the journal has stored.
        spilled: whether pruned weights are stored in files, for a memory budget.
        costs: the approximate number of multiplications of each task.
    """

    context: CalibrationContext
    tasks: list[Task]
    journal: NullJournal
    solved: frozenset[int]
    spilled: bool
    costs: list[float]

    @classmethod
    def of(
        cls,
        context: CalibrationContext,
        plan: PruningPlan,
        tasks: list[Task],
        journal: NullJournal,
    ) -> "Executor":
        """Return the executor of a run; process 0 reads the journal."""
        solved = context.ranks.from_rank_zero(
            lambda: [task.number for task in tasks if journal.read(task)]
        )
        spilled = plan.config.memory_budget_gib is not None
        costs = [task_cost(task, plan.shapes) for task in tasks]
        return cls(context, tasks, journal, frozenset(solved), spilled, costs)

    @property
    def denoiser(self) -> nn.Module:
        """The model."""
        return self.context.denoiser

    @property
    def solved_layers(self) -> set[str]:
        """The layers of the tasks that the journal has stored."""
        return {layer for t in self.tasks if t.number in self.solved for layer in t.layers}

    @property
    def work(self) -> float:
        """The cost of all tasks of this process."""
        rank = self.context.ranks.rank
        return sum(self.costs[task.number] for task in self.tasks if self.owner(task) == rank)

    @property
    def work_left(self) -> float:
        """The cost of those that the journal has not stored."""
        rank = self.context.ranks.rank
        return sum(
            self.costs[task.number]
            for task in self.tasks
            if self.owner(task) == rank and task.number not in self.solved
        )

    def owner(self, task: Task) -> int:
        """Return the process that solves a task."""
        return self.context.owners.get(task.taps[0], 0)

    def run(self, package: Package, work: Work) -> TaskResults:
        """Yield the result of each task of a package, in order, once the model has it.

        Args:
            package: the package.
            work: prunes one task in place.
        """
        tasks = [task for task in self.tasks if task.taps and task.taps[0] in package.taps]
        return (
            self.alone(tasks, work) if self.context.ranks.size == 1 else self.together(tasks, work)
        )

    def alone(self, tasks: list[Task], work: Work) -> TaskResults:
        """Run tasks in this process."""
        for task in tasks:
            self.begin(task)
            result = self.journal.read(task) if task.number in self.solved else None
            if result:
                apply_(self.denoiser, task, result)
            else:
                result = work(task)
                self.journal.write(task, result)
                current().advance(SOLVING, self.costs[task.number])
            self.end(task)
            yield TaskResult({}, result.layers, result.groups)

    def together(self, tasks: list[Task], work: Work) -> TaskResults:
        """Run tasks in every process: each solves its own, then all receive all results.

        Process 0 has the journal.
        """
        rank = self.context.ranks.rank
        own: dict[int, TaskResult] = {}
        for task in tasks:
            if task.number not in self.solved and self.owner(task) == rank:
                self.begin(task)
                own[task.number] = work(task)
                current().advance(SOLVING, self.costs[task.number])
        for task in tasks:
            stored, owner = task.number in self.solved, self.owner(task)
            known = own.pop(task.number, None)
            if stored and rank == 0:
                known = self.journal.read(task)
            result = self.exchange(known, 0 if stored else owner)
            if stored or owner != rank:
                self.begin(task)
                apply_(self.denoiser, task, result)
            if not stored and rank == 0:
                self.journal.write(task, result)
            self.end(task)
            yield TaskResult({}, result.layers, result.groups)

    def exchange(self, result: TaskResult | None, owner: int) -> TaskResult:
        """Return the result of the process `owner`, in every process."""
        device = next(self.denoiser.parameters()).device
        tensors = result.tensors if result else None
        records = (result.layers, result.groups) if result else None
        found, (layers, groups) = self.context.ranks.broadcast(tensors, records, owner, device)
        return TaskResult.of(found, layers, groups)

    def begin(self, task: Task) -> None:
        """Make the task's weights writable."""
        if self.spilled:
            unmap_(self.denoiser, task.touched)

    def end(self, task: Task) -> None:
        """Store the task's weights in files."""
        if self.spilled:
            spill_(self.denoiser, task.touched, self.context.scratch)
