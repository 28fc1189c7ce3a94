"""Finished prunings: whose run they are of, and whether their files are as they were written.

A resumed run takes one only if its record is whole and of the same run, and a file for unchanged
only by its hash. Imports no torch.
"""

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..runtime.file_hashing import file_hash
from ..runtime.json_files import kept_json
from .model_card import CARD
from .record import RECORD, is_sealed


def read_finished(folder: Path) -> dict[str, Any]:
    """Return the record of a finished pruning.

    Args:
        folder: the pruned folder.

    Raises:
        UserError: the record is missing or damaged, or does not say which run it is of.
    """
    record = kept_json(folder / RECORD)
    remedy = f"delete {folder} and pass --resume again, or start anew with --overwrite"
    if record is None or not is_sealed(record):
        raise UserError(
            f"resume: {folder / RECORD} is damaged, so it can't be told which run {folder} is of; "
            f"{remedy}"
        )
    if not record.get("fingerprint"):
        raise UserError(
            f"resume: {folder / RECORD} does not say which run it is of, "
            f"since it was not written by obsdiff prune; {remedy}"
        )
    return record


def damaged_file(folder: Path, record: dict[str, Any], card: bool) -> str | None:
    """Return the first file of a finished pruning that is not as it was written; None if all are.

    Args:
        folder: the pruned folder.
        record: its record, which is not damaged.
        card: whether the model card counts, which its owner may edit once it is in its place.
    """
    hashes = record["hashes"]
    wanted = hashes["files"] | ({CARD: hashes["card"]} if card else {})
    for name, expected in wanted.items():
        file = folder / name
        if file.is_symlink() or not file.is_file() or file_hash(file) != expected:
            return name
    return None
