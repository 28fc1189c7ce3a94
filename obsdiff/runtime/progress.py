"""The progress display of a run: package, share of the denoiser calls done, time left.

It is written to stderr, and by default only if stderr is a terminal.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


def say(text: str) -> None:
    """Print a line for people to stderr; stdout is reserved for results."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """One bar for a whole pruning, as a context manager.

    Args:
        show: whether to draw it; None draws it if stderr is a terminal.
        packages: number of module packages.
        prompts: number of calibration prompts.
    """

    def __init__(self, show: bool | None, packages: int, prompts: int) -> None:
        show = sys.stderr.isatty() if show is None else show
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
        )
        self.bars = Bars(*columns, console=Console(stderr=True), disable=not show, transient=True)
        self.packages, self.prompts = packages, prompts
        self.task = self.bars.add_task("calibrating", total=packages * prompts, detail="")
        self.done = 0.0
        self.index = 0

    def __enter__(self) -> "Progress":
        self.bars.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.bars.__exit__(*error)

    def package(self, index: int) -> None:
        """Show that package `index` (0-based) begins."""
        self.index, self.done = index, 0.0
        self.bars.update(
            self.task,
            description=f"package {index + 1}/{self.packages}",
            completed=index * self.prompts,
        )

    def trying(self, done: int, total: int) -> None:
        """Show that the allocation has measured `done` of `total` layers or groups."""
        self.bars.update(self.task, description=f"allocation {done}/{total}")

    def advance(self, prompts: int, steps: int) -> None:
        """Show that a denoising step begins.

        Args:
            prompts: number of prompts in the batch.
            steps: number of denoising steps of a picture.
        """
        self.done += prompts / steps
        detail = f"prompt {min(self.prompts, int(self.done) + 1)}/{self.prompts}"
        self.bars.update(
            self.task,
            completed=self.index * self.prompts + min(self.done, self.prompts),
            detail=detail,
        )

    def advance_of(self, run: Any, prompts: int) -> None:
        """Show that a denoising step of a run begins; `run.steps` is its number of steps."""
        self.advance(prompts, run.steps)


@contextlib.contextmanager
def counting(text: str, total: int, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Show one bar for a number of items.

    Args:
        text: the label of the bar.
        total: number of items.
        show: whether to draw it; None draws it if stderr is a terminal.

    Yields:
        A function of the number of items done since its last call.
    """
    show = sys.stderr.isatty() if show is None else show
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), disable=not show, transient=True) as bars:
        task = bars.add_task(text, total=total)
        yield lambda count: bars.advance(task, count)
