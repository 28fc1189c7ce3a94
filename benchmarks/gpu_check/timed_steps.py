"""A step of the check: it has a limit of seconds, and an error in it is a figure, too."""

import signal
from collections.abc import Callable
from typing import Any

from .check import Check
from .measurement import free_memory

PATIENCE = 10  # seconds after which a step that ignored the alarm is interrupted again
LEAST = 2  # seconds that must be left to start a step


class TooLong(BaseException):
    """A step ran over its limit; no `except Exception` catches it."""


def run_step(
    check: Check, name: str, limit: float, left: float, step: Callable[[Check], None]
) -> None:
    """Run a step for at most `limit` seconds, or as many as are left.

    The alarm interrupts Python between two calls into C, never inside one.
    """
    if left < LEAST:
        check.figure(name, "not run", "no time left")
        return
    running = True

    def over(*_: Any) -> None:
        if running:
            raise TooLong

    limit = min(limit, left)
    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit, PATIENCE)
    try:
        with check.recorded_errors(name, "failed"):
            step(check)
        running = False
    except TooLong:
        running = False
        check.figure(name, "ran over its limit of s", round(limit, 1), "", False)
    finally:
        running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        free_memory()
        check.save()
