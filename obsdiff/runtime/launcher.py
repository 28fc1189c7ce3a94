"""The variables by which torchrun and accelerate launch start several processes (no torch).

Without RANK no launcher started this process, whatever schedulers and notebooks export: it is
alone. With RANK every other variable has to be right, since a job that can't meet waits for hours.
"""

import os
import socket

from ..errors import UserError

ALONE = "unset RANK to run one process"


def is_one_of_several() -> bool:
    """Return whether a launcher started this process as one of several.

    Raises:
        UserError: RANK is there, and WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR or MASTER_PORT is
            missing or wrong.
    """
    if "RANK" not in os.environ:
        return False
    size = number("WORLD_SIZE", 1)
    number("RANK", 0, size - 1)
    if "LOCAL_RANK" in os.environ:
        number("LOCAL_RANK", 0)
    if size == 1:
        return False
    number("MASTER_PORT", 1, 65535)
    check_address(variable("MASTER_ADDR"))
    return True


def local_processes() -> int:
    """Return how many processes of this job run on this machine, as far as a launcher says."""
    several = is_one_of_several() and "LOCAL_WORLD_SIZE" in os.environ
    return number("LOCAL_WORLD_SIZE", 1) if several else 1


def variable(name: str) -> str:
    """Return a variable of the environment; UserError if it is missing or empty."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise UserError(
            f"{name}: expected it in the environment beside RANK, found none; start with torchrun, "
            f"or {ALONE}"
        )
    return value


def number(name: str, least: int, largest: int | None = None) -> int:
    """Return a variable that is a whole number.

    Args:
        name: of the variable.
        least: its smallest value.
        largest: its largest value; None for no limit.

    Raises:
        UserError: it is missing, no whole number, or out of the range.
    """
    text = variable(name)
    limits = f"of at least {least}" if largest is None else f"from {least} to {largest}"
    if text.isascii() and text.isdecimal() and len(text) <= 9:
        value = int(text)
        if least <= value and (largest is None or value <= largest):
            return value
    raise UserError(
        f"{name}: expected a whole number {limits} in the environment, found {text!r}; "
        f"start with torchrun, or {ALONE}"
    )


def check_address(address: str) -> None:
    """Raise UserError if MASTER_ADDR is no name or address that this machine can resolve."""
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"MASTER_ADDR: expected the name or address of process 0's machine, found {address!r}: "
            f"{error}; start with torchrun, or {ALONE}"
        ) from None
