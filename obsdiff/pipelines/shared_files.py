"""Weight files that several outputs of one run have in common: one file with several names.

Encoders and VAE are the same in every pruned pipeline. Of FLUX they take 10 GB, so five sparsities
would store 50. The second and later outputs have hard links to those of the first, where the file
system allows it. Only files that this run wrote are linked, never the user's model, and only weight
files, whose hashes the records have: a program that writes into one of them in place changes it in
all outputs, and `obsdiff verify` then names it in each.
"""

import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ..runtime.json_files import kept_json
from .record import RECORD

WEIGHTS = ".safetensors"


def share_files(folder: Path, hashes: Mapping[str, str], others: Iterable[Path]) -> int:
    """Replace weight files of an output by hard links to equal files of others.

    Args:
        folder: the output, which is not in its place yet.
        hashes: SHA-256 of its files, by their paths in it.
        others: finished outputs of the same run, each with its record.

    Returns:
        The bytes that are stored once now.
    """
    equal = {found: file for other in others for file, found in recorded(other).items()}
    saved = 0
    for name, found in hashes.items():
        if name.endswith(WEIGHTS) and (twin := equal.get(found)) and linked(twin, folder / name):
            saved += twin.stat().st_size
    return saved


def recorded(folder: Path) -> dict[Path, str]:
    """Return the hash of every file that the record of a finished output names."""
    record = kept_json(folder / RECORD) or {}
    files = record.get("hashes", {}).get("files", {})
    return {folder / name: found for name, found in files.items()}


def linked(twin: Path, file: Path) -> bool:
    """Replace a file by a hard link to an equal one; False where there are no hard links.

    Args:
        twin: the equal file.
        file: the file, which is there until the link is.
    """
    if twin.is_symlink() or twin.stat().st_size != file.stat().st_size:
        return False
    if twin.samefile(file):
        return True
    beside = file.with_name(f".obsdiff-{secrets.token_hex(8)}.part")
    try:
        os.link(twin, beside)
        beside.replace(file)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        return False
    return True
