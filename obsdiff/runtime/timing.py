"""Seconds of several calls, compared fairly: interleaved, in alternating order, by medians.

The speed of a machine drifts, so times from different minutes are not comparable. Every round
times each call once; the speedup is the median over rounds of the ratio within a round.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .machine import synchronise


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Time several calls in turn. A GPU is synchronised before and after each of them.

    Args:
        calls: the functions by name; their order is reversed in every second round.
        rounds: number of timed calls of each.
        warmup: number of untimed calls of each before them.

    Returns:
        Seconds of each call, one a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with torch.no_grad():
        for name in names * warmup:
            calls[name]()
        for i in range(rounds):
            for name in names if i % 2 == 0 else reversed(names):
                synchronise()
                began = time.perf_counter()
                calls[name]()
                synchronise()
                seconds[name].append(time.perf_counter() - began)
    return seconds


def compared(seconds: Mapping[str, list[float]], name: str, base: str) -> dict[str, Any]:
    """Compare the seconds of a call with those of a base.

    Args:
        seconds: what `interleaved` returned.
        name: the call.
        base: the call it is compared with.

    Returns:
        "seconds" and "dense_seconds": medians of the call and of the base.
        "speedup", "low", "high": median and quartiles of base / call over the rounds.
        "rounds": the number of rounds.
    """
    ratios = [b / s for s, b in zip(seconds[name], seconds[base], strict=True)]
    low, high = (
        statistics.quantiles(ratios, n=4, method="inclusive")[::2]
        if len(ratios) > 1
        else (ratios[0], ratios[0])
    )
    return {
        "seconds": statistics.median(seconds[name]),
        "dense_seconds": statistics.median(seconds[base]),
        "speedup": statistics.median(ratios),
        "low": low,
        "high": high,
        "rounds": len(ratios),
    }
