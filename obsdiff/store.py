"""Where waits what memory has no room for: so many bytes in memory, the rest as files in a temporary folder."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Store:
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
def store(room: float) -> Iterator[Store]:
    """A store in a new folder (TMPDIR says where), which vanishes on the way out."""
    with tempfile.TemporaryDirectory(prefix="obsdiff-", ignore_cleanup_errors=True) as folder:
        yield Store(room, Path(folder))
