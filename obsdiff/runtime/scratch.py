"""Scratch storage: up to `room` bytes stay in memory; the rest goes to files in a temporary folder.

It only counts the memory; the callers keep the tensors and write the files.
"""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..errors import RunStopped

SCRATCH_PREFIX = "obsdiff-"  # of the names of temporary folders
SCRATCH_LOCK = "lock"  # file that is locked while the folder is in use
GRACE_SECONDS = 60  # age below which a folder is never removed


@dataclass
class Scratch:
    """The memory budget and the temporary folder of a run.

    Attributes:
        room: memory budget in bytes.
        folder: the folder of the files.
        used: bytes of memory in use.
        on_disk: bytes in files.
        files: number of file names handed out so far.
    """

    room: float
    folder: Path
    used: int = 0
    on_disk: int = 0
    files: int = 0

    def take(self, size: int) -> Path | None:
        """Reserve storage for a tensor.

        Args:
            size: its size in bytes.

        Returns:
            None if the tensor fits into the memory budget, else the file to write it to.
        """
        if self.used + size <= self.room:
            self.used += size
            return None
        self.on_disk += size
        return self.file()

    def file(self) -> Path:
        """Return a new file name in the folder."""
        self.files += 1
        return self.folder / f"{self.files:08}"

    def give_back(self, size: int, file: Path | None = None) -> None:
        """Release what `take` reserved, and delete its file."""
        if file is None:
            self.used -= size
        else:
            self.on_disk -= size
            file.unlink()


@contextlib.contextmanager
def open_scratch(room: float) -> Iterator[Scratch]:
    """Open scratch storage in a new temporary folder, which is deleted at the end.

    TMPDIR sets the parent folder. Folders of killed runs are deleted, too.

    Args:
        room: memory budget in bytes.
    """
    remove_abandoned(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, ignore_cleanup_errors=True) as folder,
        FileLock(Path(folder) / SCRATCH_LOCK),
    ):
        yield Scratch(room, Path(folder))


def remove_abandoned(place: Path) -> None:
    """Delete the scratch folders of ended processes: those whose lock is free.

    A new folder is skipped, since its process may not have locked it yet.
    """
    for lock in place.glob(f"{SCRATCH_PREFIX}*/{SCRATCH_LOCK}"):
        with contextlib.suppress(Timeout, OSError):
            if time.time() - lock.stat().st_mtime > GRACE_SECONDS:
                with FileLock(lock, blocking=False):
                    shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn write errors inside into RunStopped; `place` is the file or folder in the message."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunStopped(f"{place} can't be written: {' '.join(str(error).split())}") from error
