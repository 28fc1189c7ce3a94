"""Errors from below a pipeline's call, as one line that says who raised them."""

import contextlib
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from ..errors import RunFailed, UserError

ERROR_SHOWN = 200  # characters of an error's own message
LIBRARIES = ("diffusers", "transformers")
CALLED = ("torch", "contextlib", "functools")  # by whoever raises an error


@contextlib.contextmanager
def one_line_errors(pipe: Any, *passing: type[Exception]) -> Iterator[None]:
    """Turn any error of a pipeline's call into RunFailed.

    Args:
        pipe: the pipeline that is called inside.
        passing: errors that are raised on purpose.

    Raises:
        RunFailed: the pipeline, its scheduler or a model raised an error; with its class, its
            message, and who raised it. A lack of memory remains as it is, as does an error of a
            hook of obsdiff.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (UserError, RunFailed, MemoryError, *passing)):
            raise
        if "memory" in str(error) or is_own(error):
            raise
        reason = " ".join(str(error).split())[:ERROR_SHOWN] or "no message"
        raise RunFailed(
            f"{type(pipe).__name__}: {raiser(error.__traceback__, pipe)} raised "
            f"{type(error).__name__}: {reason}"
        ) from error


def is_own(error: Exception) -> bool:
    """Return whether obsdiff itself, in a hook below a library's call, raised an error.

    What obsdiff wraps may be of any module, such as a scheduler of the user's own: it is not ours.
    """
    names = [
        frame.f_globals.get("__name__", "").partition(".")[0]
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    last = [name for name in names if name not in CALLED][-1:]
    return last == ["obsdiff"] and any(name in LIBRARIES for name in names)


def raiser(trace: TracebackType | None, pipe: Any) -> str:
    """Return the innermost method of a diffusers or transformers object, as Class.method."""
    found = f"{type(pipe).__name__}.__call__"
    for frame, _ in traceback.walk_tb(trace):
        owner = type(frame.f_locals.get("self"))
        if owner.__module__.startswith(("diffusers.", "transformers.")):
            found = f"{owner.__name__}.{frame.f_code.co_name}"
    return found
