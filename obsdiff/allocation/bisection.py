"""Bisection: the border between too little and enough."""

from collections.abc import Callable


def bisect(
    too_little: Callable[[float], bool],
    low: float,
    high: float,
    rounds: int,
    digits: int | None = None,
) -> tuple[float, float]:
    """Halve the interval between a value that is too little and one that is enough.

    Args:
        too_little: whether a value is too little; once false, false for every larger value.
        low: a value that is too little.
        high: a value that is enough.
        rounds: how often the interval is halved.
        digits: the decimals to which each middle is rounded (None: no rounding).

    Returns:
        The ends of the last interval.
    """
    for _ in range(rounds):
        middle = (low + high) / 2
        if digits is not None:
            middle = round(middle, digits)
        low, high = (middle, high) if too_little(middle) else (low, middle)
    return low, high
