"""Where waits what memory has no room for: so many bytes in memory, the rest as files in a temporary folder."""

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
SCRATCH_LOCK = "lock"  # held while a store is in use
GRACE_SECONDS = 60  # seconds in which a store is left alone in any case


@dataclass
class Scratch:
    """Room in memory, in bytes, how much of it is taken, how much lies on disk, and the folder of the files."""

    room: float
    folder: Path
    used: int = 0
    on_disk: int = 0
    files: int = 0

    def take(self, size: int) -> Path | None:
        """None if `size` bytes of memory are taken now, else the file to put them in."""
        if self.used + size <= self.room:
            self.used += size
            return None
        self.on_disk += size
        return self.file()

    def file(self) -> Path:
        """A new name in the folder."""
        self.files += 1
        return self.folder / f"{self.files:08}"

    def give_back(self, size: int, file: Path | None = None) -> None:
        """What was taken is free again."""
        if file is None:
            self.used -= size
        else:
            self.on_disk -= size
            file.unlink()


@contextlib.contextmanager
def open_scratch(room: float) -> Iterator[Scratch]:
    """A store in a new folder (TMPDIR says where), which vanishes on the way out. Folders of killed runs vanish, too."""
    remove_abandoned(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, ignore_cleanup_errors=True) as folder,
        FileLock(Path(folder) / SCRATCH_LOCK),
    ):
        yield Scratch(room, Path(folder))


def remove_abandoned(place: Path) -> None:
    """Remove the folders of stores whose processes have ended: one whose lock can be had has nobody any more. A new one may not have
    taken its lock yet."""
    for lock in place.glob(f"{SCRATCH_PREFIX}*/{SCRATCH_LOCK}"):
        with contextlib.suppress(Timeout, OSError):
            if time.time() - lock.stat().st_mtime > GRACE_SECONDS:
                with FileLock(lock, blocking=False):
                    shutil.rmtree(lock.parent, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """What the disk refuses inside becomes RunStopped."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunStopped(f"{place} can't be written: {' '.join(str(error).split())}") from error
