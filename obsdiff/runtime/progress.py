"""Lines for people."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from .console import tell
from .display import current
from .outlet import OUTLET


def say(text: str) -> None:
    """Print a line for people to stderr; stdout is reserved for results.

    With `--quiet` nothing is printed; a log file gets every line.
    """
    OUTLET.note(text)
    if not OUTLET.quiet:
        tell(text)


@contextlib.contextmanager
def counting(name: str, total: int, unit: str = "pictures") -> Iterator[Callable[[int], None]]:
    """Show a phase that has a number of items.

    Args:
        name: of the phase.
        total: number of items that are not done.
        unit: what they are, in the plural.

    Yields:
        A function of the number of items done since its last call.
    """
    phases = current()
    phases.replan(name, total, unit)
    with phases.within(name):
        yield partial(phases.advance, name)
    phases.complete(name)
