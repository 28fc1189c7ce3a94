"""The one display of a run: a line for each phase, and the time left over all of them.

On a terminal it is drawn anew some times a second; in a notebook in the cell's output; elsewhere
one plain line is printed from time to time. A log file gets the plain lines, too. It is drawn by a
thread of its own, from numbers that the run only adds to (phases.py).
"""

import builtins
import contextlib
import importlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .console import tell
from .outlet import OUTLET
from .phases import Phase, Phases

REDRAWN = 0.25  # seconds between two drawings
FIRST_DRAWING = 0.5  # seconds that a run waits for it, at most
LINE_SECONDS, LINE_PERCENT = 30.0, 5.0  # between two plain lines, at least
BAR = 24  # characters
MINUTE, HOUR = 60, 3600


class Display(Protocol):
    """Something that shows phases."""

    def draw(self, phases: Phases) -> None:
        """Show the phases as they are now."""

    def close(self) -> None:
        """Leave what was shown in a state to write below."""


class TerminalDisplay:
    """Lines that are drawn anew in place, and removed at the end."""

    def __init__(self) -> None:
        self.live = Live(
            console=Console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=False
        )

    def draw(self, phases: Phases) -> None:
        """Draw all phases."""
        if not self.live.is_started:
            self.live.start()
        self.live.update(picture(phases), refresh=True)

    def close(self) -> None:
        """Remove the lines."""
        self.live.stop()


class NotebookDisplay:
    """Text in the output of a notebook's cell, replaced in place."""

    def __init__(self) -> None:
        self.handle: Any = None
        self.text = ""

    def draw(self, phases: Phases) -> None:
        """Show all phases, if they look different."""
        text = as_text(phases)
        if text == self.text:
            return
        self.text, shown = text, {"text/plain": text}
        if self.handle is None:
            show = importlib.import_module("IPython.display").display
            self.handle = show(shown, raw=True, display_id=True)
        else:
            self.handle.update(shown, raw=True)

    def close(self) -> None:
        """Keep the last text."""


class PlainDisplay:
    """A line from time to time: at least 30 seconds and 5 % after the one before.

    Args:
        printed: whether lines are printed; the log gets them in any case.
    """

    def __init__(self, printed: bool) -> None:
        self.printed = printed
        self.last: tuple[float, float] | None = None  # seconds and percent of the last line

    def draw(self, phases: Phases) -> None:
        """Print a line, if it is time."""
        now, percent = phases.elapsed, phases.percent
        seconds, shown = self.last or (0.0, -LINE_PERCENT)
        if now - seconds < LINE_SECONDS or percent - shown < LINE_PERCENT:
            return
        self.last = (now, percent)
        line = plain_line(phases)
        OUTLET.note(line)
        if self.printed:
            tell(line)

    def close(self) -> None:
        """Nothing is left to do."""


_current: list[Phases] = []


def current() -> Phases:
    """Return the phases of the present run; without a display, phases that nobody sees."""
    return _current[-1] if _current else Phases()


@contextlib.contextmanager
def watching(show: bool | None = None, repeats: int = 1) -> Iterator[Phases]:
    """Show the phases of a run until the block ends; inside another such block do nothing.

    Args:
        show: False shows nothing; True and None draw on a terminal or in a notebook, and elsewhere
            print plain lines.
        repeats: number of prunings in the run.

    Yields:
        The phases.
    """
    if _current:
        yield _current[-1]
        return
    phases = Phases()
    phases.repeats = repeats
    _current.append(phases)
    displays = [] if show is False or is_later_rank() else chosen_displays()
    drawing = Drawing(phases, displays)
    if displays:
        phases.on_first = drawing.begin
    try:
        yield phases
    finally:
        phases.finish()
        drawing.end()
        _current.remove(phases)


class Drawing:
    """A thread that draws phases until it is told to end.

    Args:
        phases: the phases.
        displays: where they are drawn; one that can't be written to is given up.
    """

    def __init__(self, phases: Phases, displays: list[Display]) -> None:
        self.phases, self.displays = phases, displays
        self.stop, self.drawn = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def begin(self) -> None:
        """Start the thread, and wait for its first drawing: imports would let it wait for them."""
        self.thread.start()
        self.drawn.wait(FIRST_DRAWING)

    def run(self) -> None:
        """Draw again and again."""
        while not self.stop.is_set():
            self.each(lambda display: display.draw(self.phases))
            self.drawn.set()
            self.stop.wait(REDRAWN)
        self.each(lambda display: display.close())

    def each(self, act: Callable[[Display], None]) -> None:
        """Do something with every display."""
        for display in list(self.displays):
            try:
                act(display)
            except (OSError, ValueError):  # nobody reads stderr any more: no reason to stop a run
                self.displays.remove(display)

    def end(self) -> None:
        """Close the displays, if something was drawn."""
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join()


def chosen_displays() -> list[Display]:
    """Return the displays for where this process runs."""
    if OUTLET.quiet:
        return [PlainDisplay(printed=False)] if OUTLET.log else []
    console = Console(stderr=True)
    if in_notebook():
        drawn: Display = NotebookDisplay()
    elif console.is_terminal and not console.is_dumb_terminal:
        drawn = TerminalDisplay()
    else:
        return [PlainDisplay(printed=True)]
    return [drawn, PlainDisplay(printed=False)] if OUTLET.log else [drawn]


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    shell = getattr(builtins, "get_ipython", None)
    return shell is not None and type(shell()).__name__ == "ZMQInteractiveShell"


def is_later_rank() -> bool:
    """Return whether a launcher of several processes started this one, and not as the first."""
    return "LOCAL_RANK" in os.environ and os.environ.get("RANK", "0") != "0"


def picture(phases: Phases) -> Group:
    """Return all phases as a table for a terminal, and the line about the whole run."""
    table = Table.grid(padding=(0, 2))
    for phase in list(phases.all.values()):
        share = phase.share
        running = phases.active and phases.active[-1] is phase
        bar = ProgressBar(total=1.0, completed=share or 0.0, width=BAR)
        table.add_row(
            Text(phase.name, style="bold" if running else ""),
            bar,
            Text(amount(phase)),
            Text(state(phases, phase)),
        )
    return Group(table, Text(whole(phases)))


def as_text(phases: Phases) -> str:
    """Return all phases as lines of text, and the line about the whole run."""
    lines = []
    for phase in list(phases.all.values()):
        filled = round(BAR * (phase.share or 0.0))
        bar = "#" * filled + "." * (BAR - filled)
        lines.append(f"{phase.name:14}{bar}  {amount(phase):20}{state(phases, phase)}".rstrip())
    return "\n".join([*lines, whole(phases)])


def plain_line(phases: Phases) -> str:
    """Return one line about the present phase and the whole run."""
    phase = phases.active[-1] if phases.active else None
    what = f"{phase.name} {amount(phase)}".strip() if phase else "running"
    return f"{what}: {whole(phases)}"


def amount(phase: Phase) -> str:
    """Return how much of a phase is done, in its units or as a share."""
    share = phase.share
    if share is None:
        return ""
    if phase.unit and phase.total is not None:
        return f"{math.floor(phase.done + 1e-6)}/{phase.total:.0f} {phase.unit}"
    return f"{math.floor(100 * share)} %"


def state(phases: Phases, phase: Phase) -> str:
    """Return the time that a phase took, or that it still needs."""
    spent, left = phases.seconds_of(phase), phases.left_of(phase)
    if phase.finished:
        return duration(spent)
    running = any(phase is other for other in phases.active)
    waiting = "" if running or phase.done else "waits, "
    so_far = f"{duration(spent)} so far, " if running and left is None else ""
    needs = "time not known yet" if left is None else f"{duration(left)} left"
    return f"{waiting}{so_far}{needs}"


def whole(phases: Phases) -> str:
    """Return the share of the run that is done, and the time that is left."""
    left, unknown = phases.left, phases.unknown
    names = ", ".join(unknown)
    if not phases.foreseeable:
        return f"time left not known yet ({names})" if names else "almost done"
    more = f", and {names} (not known yet)" if names else ""
    return f"{math.floor(phases.percent)} % of the run, about {duration(left)} left{more}"


def duration(seconds: float) -> str:
    """Return a time for people: 40 s, 12 min, 2 h 05 min."""
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    if seconds < HOUR:
        return f"{seconds / MINUTE:.0f} min"
    minutes = round(seconds / MINUTE)
    return f"{minutes // 60} h {minutes % 60:02} min"
