"""argparse with one-line errors, suggestions for misspelt words, and the values of flags."""

import argparse
import re
import typing
from collections.abc import Iterable
from functools import partial
from itertools import takewhile

from ..config.choices import ALL_TOKENS, AUTO_SHARE
from ..config.values import did_you_mean, parse_share
from ..errors import UserError

FORMATTER = partial(argparse.RawDescriptionHelpFormatter, max_help_position=30)
FLAG = re.compile(r"--\w[\w-]*|-[A-Za-z]\w*")


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are UserErrors of one line."""

    def __init__(self, *args: typing.Any, **options: typing.Any) -> None:
        super().__init__(*args, **options)
        self.commands: dict[str, Parser] = {}  # name -> parser of each subcommand

    def error(self, message: str) -> typing.NoReturn:
        """Raise UserError with argparse's message."""
        raise UserError(f"{message} (see {self.prog} --help)")

    def check_words(self, words: list[str]) -> None:
        """Raise UserError for an unknown command or flag, with the most similar one.

        Args:
            words: the command line, beginning with the command.

        Raises:
            UserError: no such command or flag.
        """
        command, *others = words
        if command.startswith("-"):
            self.check_flags([command])
        elif command not in self.commands:
            raise UserError(
                f"COMMAND: expected one of {', '.join(self.commands)}; found {command!r}"
                f"{did_you_mean(command, self.commands)} (see {self.prog} --help)"
            )
        else:
            self.commands[command].check_flags(others)

    def check_flags(self, words: Iterable[str]) -> None:
        """Raise UserError for the first unknown flag before "--"; prefixes of flags are known."""
        known = self._option_string_actions
        for word in takewhile(lambda word: word != "--", words):
            flag = word.split("=")[0]
            if FLAG.fullmatch(flag) and not any(name.startswith(flag) for name in known):
                raise UserError(
                    f"{self.prog} has no flag {flag}{suggestion(flag, known)} "
                    f"(see {self.prog} --help)"
                )


def suggestion(flag: str, known: Iterable[str]) -> str:
    """Return "; did you mean --X?" for a flag that contains the word, or the most similar one."""
    names = {name.lstrip("-"): name for name in known}
    word = flag.lstrip("-").replace("_", "-")
    containing = sorted((name for name in names if word in name.split("-")), key=len)
    if containing:
        return f"; did you mean {names[containing[0]]}?"
    similar = did_you_mean(word, names).removeprefix("; did you mean ").removesuffix("?")
    return f"; did you mean {names[similar]}?" if similar else ""


def whole_number(text: str) -> int:
    """Convert the value of a flag to an int."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}") from None


def decimal_number(text: str) -> float:
    """Convert the value of a flag to a float."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, found {text!r}") from None


def number_or_all(text: str) -> float | str:
    """Convert the value of a flag to a float, or return the word all."""
    if text == ALL_TOKENS:
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number or {ALL_TOKENS}, found {text!r}"
        ) from None


def read_share(text: str) -> float:
    """Convert the value of a flag to a share: 0.5, or 50%."""
    value = parse_share(text)
    try:
        return value if isinstance(value, float) else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a share such as 0.5 or 50%, found {text!r}"
        ) from None


def share_or_auto(text: str) -> float | str:
    """Convert the value of --modulation: a share, or auto."""
    return text if text == AUTO_SHARE else read_share(text)


def rank_or_share(text: str) -> float:
    """Convert the value of --low-rank: a whole number to an int, the rank; or a share."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return read_share(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected a share such as 0.1 or 10%, or a rank such as 64, found {text!r}"
        ) from None
