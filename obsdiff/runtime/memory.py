"""How much memory this process holds: anonymous memory (RssAnon of /proc). The ordinary peak also counts pages of mapped files,
which the system takes back when it needs them.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

STATUS = Path("/proc/self/status")
INTERVAL = 0.005  # seconds between two looks


def anonymous() -> int:
    """Anonymous memory of this process in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status")


class Watch(threading.Thread):
    """Looks at the process's memory every few milliseconds until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = anonymous(), threading.Event()

    def run(self) -> None:
        while not self.over.wait(INTERVAL):
            self.peak = max(self.peak, anonymous())

    def stop(self) -> int:
        self.over.set()
        self.join()
        return max(self.peak, anonymous())


@contextlib.contextmanager
def watched() -> Iterator[dict[str, int]]:
    """{"before_bytes", "peak_bytes"} of the block, filled in when it ends; empty on a system without /proc."""
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
