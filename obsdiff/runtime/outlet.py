"""What people see and where it goes: `--quiet` and `--log-file`.

A log file is appended to. A file that does not begin as a log does is never written to, so that no
model, record or picture is damaged by a wrong name.
"""

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ..errors import UserError
from .console import shown, tell

STAMP = "%Y-%m-%d %H:%M:%S"
BEGINNING = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


@dataclass
class Outlet:
    """Where the lines for people go.

    Attributes:
        quiet: whether progress and remarks are not printed.
        log: the open log file, if there is one.
        failure: why the log can't be written any more; "" while it can.
    """

    quiet: bool = False
    log: TextIO | None = None
    failure: str = ""

    def note(self, text: str) -> None:
        """Append a line to the log, if there is one. A log that can't be written costs no work."""
        if self.log is None or self.failure:
            return
        try:
            self.log.write(f"{time.strftime(STAMP)} {shown(' '.join(text.splitlines()))}\n")
            self.log.flush()
        except (OSError, ValueError) as error:
            self.failure = getattr(error, "strerror", None) or str(error)
            if not self.quiet:
                tell(f"log-file: can't be written ({self.failure}); the run goes on without it")


OUTLET = Outlet()


@contextlib.contextmanager
def shown_as(quiet: bool = False, log_file: Path | None = None) -> Iterator[None]:
    """Set for the block whether anything is printed for people, and to which file it is appended.

    Args:
        quiet: print neither progress nor remarks.
        log_file: the file; None for none.

    Raises:
        UserError: the file can't be appended to.
    """
    before = (OUTLET.quiet, OUTLET.log, OUTLET.failure)
    log = open_log(log_file) if log_file is not None else None
    OUTLET.quiet, OUTLET.log, OUTLET.failure = quiet, log, ""
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        yield
    finally:
        OUTLET.quiet, OUTLET.log, OUTLET.failure = before
        if log is not None:
            with contextlib.suppress(OSError):  # a full disk: the line is lost, no work is
                log.close()


def open_log(file: Path) -> TextIO:
    """Open a log file to append to.

    Args:
        file: a file, or the name of a file that is not there yet, in an existing folder.

    Raises:
        UserError: it is no regular file, no log, or can't be opened.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(file, flags, 0o666)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"log-file: expected a file that can be appended to, found {str(file)!r}: {reason}"
        ) from None
    found = ""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        found = "which is no regular file"
    elif os.fstat(handle).st_size and not BEGINNING.match(os.pread(handle, 32, 0)):
        found = "which is no log that obsdiff wrote"
    if found:
        os.close(handle)
        raise UserError(
            f"log-file: expected a log to append to, or the name of a new one; "
            f"found {str(file)!r}, {found}"
        )
    return os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace")
