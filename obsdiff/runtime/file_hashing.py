"""SHA-256 of files, read without torch."""

import hashlib
from pathlib import Path

READ_BYTES = 2**22  # bytes of a file that are read together


def file_hash(file: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(READ_BYTES):
            digest.update(part)
    return digest.hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by its path relative to the folder."""
    hashes = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        hashes[file.relative_to(folder).as_posix()] = file_hash(file)
    return hashes
