"""Seconds, kernels and memory of a call, and the switch to TF32."""

import contextlib
import gc
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from obsdiff.runtime.machine import empty_cache, synchronise
from obsdiff.runtime.timing import interleaved

from .check import Check

PRODUCTS = "gemm", "cutlass", "xmma", "nvjet"  # in names of kernels that multiply matrices


def seconds(call: Callable[[], Any], rounds: int = 3, warmup: int = 1) -> float:
    """Median seconds of a call; what runs on the GPU is waited for."""
    return statistics.median(interleaved({"call": call}, rounds, warmup)["call"])


def free_memory() -> None:
    """Free the memory of what is no longer used."""
    gc.collect()
    with contextlib.suppress(RuntimeError):
        empty_cache()


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Products of float32 matrices with TF32 operands or not, by the switch that recipes use."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def kernels(call: Callable[[], Any]) -> tuple[int, float, float]:
    """The number of kernels of a call, their microseconds, and those of matrix products."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        call()
        synchronise()
    cuda = torch.autograd.DeviceType.CUDA
    events = [e for e in profiled.events() if e.device_type == cuda]
    products = [e for e in events if any(word in e.name.lower() for word in PRODUCTS)]
    whole, matrices = (sum(e.time_range.elapsed_us() for e in of) for of in (events, products))
    return len(events), whole, matrices


def peak_memory(check: Check, step: str, what: str, watched: dict[str, int]) -> None:
    """Record the peak memory of a run of SD3-medium's sizes that `device_watched` has watched."""
    if check.gpu:
        peak, most = watched["device_peak_bytes"] / 1e9, 16
        parts = "; calculated: weights 4.2, Hessians 8.5, activations 1.7"
        check.figure(step, what, peak, f"<= {most}{parts}", peak <= most)
