"""Check a pruned folder against its record: hashes of files; shape, zeros, pattern of layers.

If blocks were removed, those that are left are counted. The record is checked first, by the hash of
its own content. Every file of the folder is in the record, but for the record itself, the model
card, and what a push to the hub adds: licences, a picture, the hub's attributes.
"""

import os
import re
import stat
from pathlib import Path
from typing import Any

from ..errors import RunFailed, UserError
from ..runtime.file_hashing import file_hash
from ..runtime.json_files import check_json, check_shapes
from ..runtime.regular_files import refuse_folder
from .model_card import CARD
from .prompt_records import prompts_hash
from .published import is_added
from .record import RECORD, RECORD_SCHEMA, is_sealed, read_record
from .verify_weights import Findings, check_weights

WANTED = {
    "schema": int,
    "component": str,
    "config": {"pattern": str},
    "layers": [
        {"name": str, "shape": [int], "sparsity": float, "bits?": (int,), "group_size?": (int,)}
    ],
    "rounded_too?": [
        {"name": str, "shape": [int], "bits": (int,), "group_size": (int,)},
    ],
    "groups?": [{"owner": str, "kind": str, "kept": int}],
    "modulation?": {"layers?": [{"name": str, "shape": [int], "rank": int}]},
    "hashes": {"files": {"*": str}},
}
SHOWN = 5  # differences in an error message


def verify_folder(folder: Path) -> Findings:
    """Check a pruned folder against its obsdiff.json.

    Args:
        folder: a folder that `obsdiff prune` or save_pruned wrote.

    Returns:
        The number of checked files and layers.

    Raises:
        UserError: the folder has no record, or one that can't be verified.
        RunFailed: the folder differs from the record; the message has the first differences.
    """
    record = read_record(folder)
    check_record(record, folder / RECORD)
    found = Findings()
    check_content(record, found)
    check_files(folder, record["hashes"]["files"], found)
    component = folder / record["component"]
    if not found.wrong or only_changed(found):
        check_weights(component, record, found)
    if found.filled:
        found.wrong.insert(0, gone(found))
    if found.wrong:
        more = f" and {len(found.wrong) - SHOWN} more" if len(found.wrong) > SHOWN else ""
        raise RunFailed(f"{folder} differs from its record: {'; '.join(found.wrong[:SHOWN])}{more}")
    return found


def only_changed(found: Findings) -> bool:
    """Return whether all differences are files with another content, as a saved LoRA leaves.

    Their layers are then read, since what became of the zeros says more than a hash.
    """
    return all(
        text.endswith(" has changed") and not text.startswith(RECORD) for text in found.wrong
    )


def gone(found: Findings) -> str:
    """Return that zeros are gone, in how many layers, and what restores them."""
    return (
        f"the zeros are gone in {len(found.filled)} of {found.layers} layers ({found.filled[0]}), "
        "as after fuse_lora; obsdiff.apply_masks_ puts those of an unchanged copy back"
    )


def check_record(record: dict[str, Any], file: Path) -> None:
    """Check the structure of a record; UserError, with the file's name, for a wrong one."""
    try:
        check_json(record, WANTED, "")
        check_shapes(record["layers"], "layers")
        folded = record.get("modulation", {}).get("layers", [])
        check_shapes(folded, "modulation.layers")
        check_shapes(record.get("rounded_too", []), "rounded_too")
    except ValueError as error:
        raise UserError(
            f"{file} does not follow schema {RECORD_SCHEMA}: {error}; it can't be verified"
        ) from None
    if record["schema"] != RECORD_SCHEMA:
        raise UserError(f"{file} has schema {record['schema']}: expected {RECORD_SCHEMA}")
    if not re.fullmatch(r"\w{1,100}", record["component"]):
        raise UserError(
            f"{file}: component: expected the name of a folder beside it, "
            f"found {record['component']!r}; it can't be verified"
        )


def check_content(record: dict[str, Any], found: Findings) -> None:
    """Check a record by the hashes in it: of its own content, and of prompts and seeds.

    Args:
        record: the checked record.
        found: receives the differences, and whether the record has a hash of its content.
    """
    hashes, prompts, seeds = record["hashes"], record.get("prompts"), record.get("seeds")
    found.sealed = "record" in hashes or "fingerprint" in record  # newer ones have both
    found.note(not found.sealed or is_sealed(record), f"{RECORD} has changed")
    if isinstance(prompts, list) and isinstance(seeds, list) and "prompts" in hashes:
        same = prompts_hash(prompts, seeds) == hashes["prompts"]
        found.note(same, f"{RECORD} has other prompts or seeds than those of its hash")


def check_files(folder: Path, hashes: dict[str, str], found: Findings) -> None:
    """Check that every recorded file exists unchanged, and that there is no other.

    Args:
        folder: the pruned folder; files outside it are not read.
        hashes: the recorded SHA-256 of each file, by its path in the folder.
        found: receives the differences.

    Raises:
        UserError: a folder in it can't be read.
    """
    here = files_below(folder)
    for name, wanted in hashes.items():
        found.files += 1
        if name not in here:
            found.note(False, f"{name} is missing")
        elif odd := oddity(folder, here[name]):
            found.note(False, f"{name} {odd}")
        else:
            found.note(hash_or_none(here[name]) == wanted, f"{name} has changed")
    for name in sorted(here.keys() - hashes.keys()):
        odd = oddity(folder, here[name])
        known = (name in (RECORD, CARD) or is_added(name)) and not odd
        found.note(known, f"{name} {odd or 'is not in the record'}")


def files_below(folder: Path) -> dict[str, Path]:
    """Return everything below a folder but folders, by its path in it; links are not followed."""
    found: dict[str, Path] = {}
    for root, folders, files in os.walk(folder, onerror=refuse_folder):
        links = [name for name in folders if Path(root, name).is_symlink()]
        for path in (Path(root, name) for name in files + links):
            found[path.relative_to(folder).as_posix()] = path
    return found


def oddity(folder: Path, file: Path) -> str | None:
    """Return why a path is no plain file of its folder, or None; a hub's cache consists of links.

    Args:
        folder: the pruned folder.
        file: a path below it.
    """
    mode = file.lstat().st_mode
    if stat.S_ISREG(mode):
        return None
    if not stat.S_ISLNK(mode):
        return "is no file: a pipe or device"
    stored = folder.resolve().parent.parent / "blobs"
    cached = folder.resolve().parent.name == "snapshots" and file.resolve().parent == stored
    return None if cached and file.is_file() else "is a link"


def hash_or_none(file: Path) -> str | None:
    """Return the SHA-256 of a file; None if it can't be read."""
    try:
        return file_hash(file)
    except OSError:
        return None
