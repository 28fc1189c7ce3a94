"""The peak of the memory that tensors take, by torch's profiler."""

import itertools
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that tensors made by a call take at most, beside those that were there before. Of the
    profiler's own records: its summaries leave out what an operator allocates."""
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as seen_by:
        work()
    records = [
        event for event in seen_by.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    records.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in records))
