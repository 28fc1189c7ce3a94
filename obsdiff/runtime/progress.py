"""One display for a run: package, share of the denoiser calls done, time left. On stderr, and only where a person looks."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


def say(text: str) -> None:
    """A line for people: on stderr, so that stdout stays for results."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A context manager; silent unless `show` (default: stderr is a terminal)."""

    def __init__(self, show: bool | None, packages: int, prompts: int):
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
        """Package `index` (0-based) begins."""
        self.index, self.done = index, 0.0
        self.bars.update(
            self.task,
            description=f"package {index + 1}/{self.packages}",
            completed=index * self.prompts,
        )

    def trying(self, done: int, total: int) -> None:
        """Allocation has tried so many layers or groups."""
        self.bars.update(self.task, description=f"allocation {done}/{total}")

    def advance(self, prompts: int, steps: int) -> None:
        """One denoising step of `prompts` prompts, of `steps` steps, begins."""
        self.done += prompts / steps
        detail = f"prompt {min(self.prompts, int(self.done) + 1)}/{self.prompts}"
        self.bars.update(
            self.task,
            completed=self.index * self.prompts + min(self.done, self.prompts),
            detail=detail,
        )

    def advance_of(self, run: Any, prompts: int) -> None:
        """The same for a run, which knows its number of steps."""
        self.advance(prompts, run.steps)


@contextlib.contextmanager
def counting(text: str, total: int, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """One bar for `total` things; gives a function to call with how many more are done."""
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
