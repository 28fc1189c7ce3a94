"""Locks of files, which end with the process, and file systems that have none.

A lock file is never opened through a symlink. Network file systems without a lock service answer
with an error; there the run goes on without a lock.
"""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held_lock(file: Path) -> Iterator[bool]:
    """Hold the lock of a file; the file is created if it is missing, and stays.

    Args:
        file: the lock file.

    Yields:
        Whether it is locked; False on a file system without locks.

    Raises:
        Timeout: another process holds the lock.
        OSError: the file can't be opened, or is a symlink.
    """
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except OSError as error:
        if isinstance(error, TimeoutError) or error.errno not in NO_LOCKS:
            raise
        yield False
        return
    with contextlib.ExitStack() as held:
        held.callback(lock.release)
        yield True
