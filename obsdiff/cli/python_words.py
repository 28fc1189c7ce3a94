"""Messages in the words of Python: overwrite=True of --overwrite, obsdiff.evaluate of its command.

A command that is no function stays as it is typed.
"""

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ..errors import UserError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
SWITCHES = ("download", "overwrite", "paper-count", "quick", "resume")  # flags without a value
FUNCTIONS = {"evaluate": "evaluate", "inspect": "inspect", "report": "report_page"}
COMMAND = re.compile(r"obsdiff ([a-z]+)((?: [^;]*)?)")
FLAG = re.compile(r"(?<!\S)--([a-z][a-z-]*)")


def in_python(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return a function whose UserErrors speak of arguments and functions."""

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except UserError as error:
            error.args = (python_words(str(error)),)
            raise

    return call


def python_words(message: str) -> str:
    """Return a message of the command line in the words of Python."""
    parts, done = [], 0
    for found in COMMAND.finditer(message):
        parts += [with_arguments(message[done : found.start()]), command_words(found)]
        done = found.end()
    return "".join([*parts, with_arguments(message[done:])])


def command_words(found: re.Match[str]) -> str:
    """Return a typed command as a function; other words as they are."""
    name, rest = found[1], found[2]
    if name in FUNCTIONS and (not rest or "--" in rest):
        return f"obsdiff.{FUNCTIONS[name]}" + ("(..., resume=True)" if "--resume" in rest else "")
    return found[0]


def with_arguments(words: str) -> str:
    """Return words with arguments in place of flags."""

    def argument(found: re.Match[str]) -> str:
        name = found[1].replace("-", "_")
        return f"{name}=True" if found[1] in SWITCHES else name

    return FLAG.sub(argument, words)
