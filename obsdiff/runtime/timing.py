"""How long calls take, compared fairly: interleaved in one run, the order changing from round to round, medians.

A machine's speed drifts; two figures from different minutes say little. So every round times each call once, and what is
reported beside the medians is the median over rounds of the ratio within a round.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def interleaved(
    calls: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each call in each of `rounds` rounds, after `warmup` untimed ones; whatever runs on a GPU is waited for."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    with torch.no_grad():
        for name in names * warmup:
            calls[name]()
        for i in range(rounds):
            for name in names if i % 2 == 0 else reversed(names):
                wait()
                began = time.perf_counter()
                calls[name]()
                wait()
                seconds[name].append(time.perf_counter() - began)
    return seconds


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compared(seconds: Mapping[str, list[float]], name: str, base: str) -> dict[str, Any]:
    """Median seconds of a call and of the one it is compared with, how many times faster it is (median of the rounds' ratios) with
    the quartiles of those ratios, and the number of rounds."""
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
