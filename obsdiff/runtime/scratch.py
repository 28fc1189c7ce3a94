"""Scratch storage: up to `room` bytes stay in memory; the rest goes to files in a temporary folder.

Accelerators may have a room of their own: what exceeds it goes to host memory, then to files. It
only counts the memory; the callers keep the tensors and write the files.
"""

import contextlib
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError

from ..errors import RunStopped, UserError
from .locking import held_lock

HOST = "cpu"  # torch's name of host memory
SCRATCH_PREFIX = "obsdiff-"  # of the names of temporary folders
SCRATCH_LOCK = "lock"  # file that is locked while the folder is in use
MARKER = "made-by-obsdiff"  # file without which a folder is never deleted
MARK = "Scratch storage of obsdiff: the next run deletes this folder.\n"  # its content
SCRATCH_FILE = re.compile(rf"{SCRATCH_LOCK}|{MARKER}|\d{{8}}|\.tmp\w+")  # .tmp: of safetensors
GRACE_SECONDS = 60  # age below which a folder is never removed


@dataclass
class Scratch:
    """The memory budget and the temporary folder of a run.

    Attributes:
        room: memory budget in bytes.
        folder: the folder of the files.
        devices: budgets of devices; the memory of others is counted with that of the host.
        used: bytes of memory in use.
        used_on: the same on devices with a budget.
        on_disk: bytes in files.
        files: number of file names handed out so far.
    """

    room: float
    folder: Path
    devices: dict[str, float] = field(default_factory=dict)
    used: int = 0
    used_on: dict[str, int] = field(default_factory=dict)
    on_disk: int = 0
    files: int = 0

    def take(self, size: int) -> Path | None:
        """Reserve storage for a tensor.

        Args:
            size: its size in bytes.

        Returns:
            None if the tensor fits into the memory budget, else the file to write it to.
        """
        place = self.place(size)
        return place if isinstance(place, Path) else None

    def place(self, size: int, device: str = HOST, elsewhere: int | None = None) -> str | Path:
        """Reserve storage for a tensor of a device.

        Args:
            size: its size in bytes.
            device: torch's name of the device.
            elsewhere: its size on the host and in a file, if it is another one there.

        Returns:
            The device, or else the host, if the tensor fits into its budget, else a file.
        """
        if found := self.reserve(size, device, elsewhere):
            return found
        self.on_disk += size if elsewhere is None else elsewhere
        return self.file()

    def reserve(self, size: int, device: str = HOST, elsewhere: int | None = None) -> str | None:
        """Reserve memory for a tensor; return the device, or the host, or None if none has room."""
        if device in self.devices:
            used = self.used_on.get(device, 0)
            if used + size <= self.devices[device]:
                self.used_on[device] = used + size
                return device
            device = HOST
            size = size if elsewhere is None else elsewhere
        if self.used + size > self.room:
            return None
        self.used += size
        return device

    def file(self) -> Path:
        """Return a new file name in the folder."""
        self.files += 1
        return self.folder / f"{self.files:08}"

    def give_back(self, size: int, place: str | Path | None = None) -> None:
        """Release what `take` or `place` reserved, and delete its file."""
        if isinstance(place, Path):
            self.on_disk -= size
            place.unlink()
        elif place in self.devices:
            self.used_on[str(place)] -= size
        else:
            self.used -= size


@contextlib.contextmanager
def open_scratch(room: float, devices: dict[str, float] | None = None) -> Iterator[Scratch]:
    """Open scratch storage in a new temporary folder, which is deleted at the end.

    TMPDIR sets the parent folder. Folders of killed runs are deleted, too.

    Args:
        room: memory budget in bytes.
        devices: budgets of devices that have one of their own.

    Raises:
        UserError: there is no temporary folder, or its path is not UTF-8.
        RunStopped: the temporary folder can't be written.
    """
    with contextlib.ExitStack() as stack:
        with disk_errors(temporary_folder()):
            folder = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix=SCRATCH_PREFIX, ignore_cleanup_errors=True)
                )
            )
            (folder / MARKER).write_text(MARK, encoding="utf-8")
            stack.enter_context(held_lock(folder / SCRATCH_LOCK))
        remove_abandoned(folder)
        yield Scratch(room, folder, devices or {})


def temporary_folder() -> Path:
    """Return the parent folder of scratch storage; UserError without a usable one."""
    try:
        place = tempfile.gettempdir()
        place.encode()
    except OSError as error:
        raise UserError(f"TMPDIR: expected a folder that can be written: {error}") from None
    except UnicodeEncodeError:
        raise UserError(f"TMPDIR: expected a path in UTF-8, found {place!a}") from None
    return Path(place)


def remove_abandoned(own: Path) -> None:
    """Delete the scratch folders of ended processes beside an own one: those with a free lock.

    A new folder is skipped, since its process may not have locked it yet. On a file system
    without locks nothing is deleted.
    """
    for folder in own.parent.glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(OSError):  # Timeout, too: its process is alive
            if folder != own and is_scratch(folder, own.lstat().st_uid) and is_old(folder):
                with held_lock(folder / SCRATCH_LOCK) as locked:
                    if locked:
                        shutil.rmtree(folder, ignore_errors=True)


def is_scratch(folder: Path, owner: int) -> bool:
    """Return whether scratch storage made a folder: by its marker, its owner and all its files.

    Args:
        folder: the folder.
        owner: user id of the folders that this process makes there.

    Raises:
        OSError: it can't be read, or has no marker.
    """
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != owner:
        return False
    files = list(folder.iterdir())
    regular = all(stat.S_ISREG(file.lstat().st_mode) for file in files)
    if not regular or not all(SCRATCH_FILE.fullmatch(file.name) for file in files):
        return False
    marker = folder / MARKER
    return marker.stat().st_size == len(MARK) and marker.read_text(encoding="utf-8") == MARK


def is_old(folder: Path) -> bool:
    """Return whether the folder's process had the time to lock it."""
    return time.time() - (folder / MARKER).stat().st_mtime > GRACE_SECONDS


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Turn write errors inside into RunStopped; `place` is the file or folder in the message."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise RunStopped(f"{place} can't be written: {' '.join(str(error).split())}") from error
