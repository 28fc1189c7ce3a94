"""Peak memory of tensors, by torch's profiler."""

import itertools
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_of(work: Callable[[], object]) -> int:
    """Peak bytes of the tensors that a call allocates. Computed from the profiler's records: its
    summaries omit allocations inside operators."""
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as seen_by:
        work()
    records = [
        event for event in seen_by.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    records.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in records))
