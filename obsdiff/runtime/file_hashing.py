"""SHA-256 of files, read without torch."""

import hashlib
from pathlib import Path

READ_BYTES = 2**22  # bytes of a file that are read together


def file_hash(file: Path) -> str:
    """SHA-256 of a file."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(READ_BYTES):
            found.update(part)
    return found.hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path in it."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        found[file.relative_to(folder).as_posix()] = file_hash(file)
    return found
