"""Memory of this process: anonymous memory (RssAnon of /proc).

The ordinary peak also counts pages of mapped files, which the system drops when it needs memory.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

STATUS = Path("/proc/self/status")
INTERVAL = 0.005  # seconds between two readings


def anonymous() -> int:
    """Return the anonymous memory of this process in bytes; OSError without /proc."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status")


class Watch(threading.Thread):
    """A thread that samples the process's memory every few milliseconds until it is stopped.

    Attributes:
        peak: largest reading so far, in bytes.
        over: set to end the thread.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = anonymous(), threading.Event()

    def run(self) -> None:
        """Sample until `over` is set."""
        while not self.over.wait(INTERVAL):
            self.peak = max(self.peak, anonymous())

    def stop(self) -> int:
        """End the thread and return the peak in bytes."""
        self.over.set()
        self.join()
        return max(self.peak, anonymous())


@contextlib.contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Measure the memory of a block of code.

    Yields:
        {"before_bytes", "peak_bytes"}, filled in when the block ends; empty without /proc.
    """
    found: dict[str, int] = {}
    if not STATUS.exists():
        yield found
        return
    before, watch = anonymous(), Watch()
    watch.start()
    try:
        yield found
    finally:
        found |= {"before_bytes": before, "peak_bytes": watch.stop()}
