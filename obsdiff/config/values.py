"""The reading of single values: patterns, block ranges, shares, numbers, choices."""

import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import UserError

LEAST_RANK = 2  # as a whole number
WHOLE_PATTERNS = ("unstructured", "structured", "depth")  # all but N:M


def parse_group(pattern: str) -> tuple[int, int] | None:
    """Parse a pattern.

    Args:
        pattern: one of WHOLE_PATTERNS, or N:M with 0 < N < M, such as 2:4.

    Returns:
        (N, M), or None for one of WHOLE_PATTERNS.

    Raises:
        UserError: another pattern.
    """
    if pattern in WHOLE_PATTERNS:
        return None
    found = isinstance(pattern, str) and re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern, re.ASCII)
    if not found:
        raise UserError(
            f"pattern: expected {', '.join(WHOLE_PATTERNS)} or N:M (such as 2:4), "
            f"found {pattern!r}{did_you_mean(pattern, WHOLE_PATTERNS)}"
        )
    n, m = int(found[1]), int(found[2])
    if not 0 < n < m:
        raise UserError(
            "pattern: N:M keeps at most N of every M weights, so expected 0 < N < M; "
            f"found {pattern!r}"
        )
    return n, m


def parse_blocks(blocks: str | None) -> tuple[int, int] | None:
    """Parse a range of blocks.

    Args:
        blocks: "3-25" or "7"; None for all.

    Returns:
        (first, last), both inclusive, 0-based; None for all.

    Raises:
        UserError: anything else.
    """
    if blocks is None:
        return None
    found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", str(blocks), re.ASCII)
    if not found or (found[2] and int(found[2]) < int(found[1])):
        raise UserError(
            f"blocks: expected FIRST-LAST (such as 3-25) or one number, found {blocks!r}"
        )
    return int(found[1]), int(found[2] or found[1])


def parse_share(value: object) -> object:
    """Convert a percentage such as "50%" or "50 %" to a share; return any other value as it is."""
    found = isinstance(value, str) and re.fullmatch(
        r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*%", value.strip()
    )
    return float(f"{found[1]}e-2") if found else value  # the float nearest to the written number


def did_you_mean(found: object, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known word most like the one found, or an empty string.

    Args:
        found: the word as written; any other type has no suggestion.
        known: the possible words.

    Returns:
        The end of an error message.
    """
    close = (
        difflib.get_close_matches(found.lower(), list(known), 1) if isinstance(found, str) else []
    )
    return f"; did you mean {close[0]}?" if close else ""


def one_number_of(name: str, value: object, choices: Sequence[int]) -> None:
    """Raise UserError unless the value of setting `name` is one of some whole numbers.

    Args:
        name: the setting, for the message.
        value: its value.
        choices: the possible values.
    """
    if type(value) is not int or value not in choices:
        *first, last = map(str, choices)
        raise UserError(f"{name}: expected {', '.join(first)} or {last}, found {value!r}")


def one_of(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise UserError unless the value of setting `name` is one of the choices.

    Args:
        name: the setting, for the message.
        value: its value.
        choices: the possible values.
    """
    known = tuple(choices)
    if value not in known:
        raise UserError(
            f"{name}: expected one of {', '.join(known)}; found {value!r}"
            f"{did_you_mean(value, known)}"
        )


def yes_or_no(name: str, value: object) -> None:
    """Raise UserError unless the value of setting `name` is a bool."""
    if not isinstance(value, bool):
        raise UserError(f"{name}: expected True or False, found {value!r}")


def wildcards(name: str, value: object) -> tuple[str, ...]:
    """Return one or several shell wildcards as a tuple; raise UserError for anything else."""
    several = value if isinstance(value, list | tuple | set | frozenset) else [value]
    found = tuple(wild for wild in several if isinstance(wild, str))
    if len(found) < len(several):
        raise UserError(f"{name}: expected a shell wildcard or several, found {value!r}")
    return found


def whole(name: str, value: object, least: int) -> None:
    """Raise UserError unless the value of setting `name` is an int of at least `least`.

    Args:
        name: the setting, for the message.
        value: its value.
        least: the smallest possible value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name}: expected a whole number of at least {least}, found {value!r}")


def number(name: str, value: Any, low: float, high: float, wanted: str, above: bool = True) -> None:
    """Raise UserError unless a setting is a finite number in a range.

    Args:
        name: the setting.
        value: its value.
        low: lower end of the range, excluded if `above`, else included.
        high: upper end of the range, excluded.
        wanted: the range in words, for the message.
        above: whether `low` itself is excluded.

    Raises:
        UserError: not a number, not finite, or out of range.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    finite = is_number and abs(value) <= sys.float_info.max
    if not finite or value >= high or value < low or (above and value == low):
        raise UserError(f"{name}: expected {wanted}, found {value!r}")


def share_or_rank(name: str, value: Any) -> None:
    """Raise UserError unless a setting is a share above 0 and below 1, or a rank from 2 up.

    A rank is an int; 1 may be meant as either, and so is neither.

    Args:
        name: the setting, for the message.
        value: its value.
    """
    if type(value) is int and value >= LEAST_RANK:
        return
    wanted = f"between 0 and 1, as 0.1 or 10%, or a rank as a whole number from {LEAST_RANK} up"
    number(name, value, 0, 1, wanted)
