"""Check a pruned folder against its record: hashes of files; shape, zeros, pattern of layers.

If blocks were removed, those that are left are counted. The record is checked first, by the hash of
its own content. Every file of the folder is in the record, but for the record itself, the model
card, and what a push to the hub adds: licences, a picture, the hub's attributes.
"""

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import PruningConfig
from ..errors import RunFailed, UserError
from ..models.folded import DOWN as FOLDED_DOWN
from ..models.folded import UP as FOLDED_UP
from ..models.low_rank import DOWN
from ..runtime.file_hashing import file_hash
from ..runtime.json_files import check_json, check_shapes
from ..runtime.regular_files import refuse_folder
from .bitmask_files import names_in, read_weight
from .bitmask_headers import packed_layers, weight_files_in
from .headers import read_header
from .model_card import CARD
from .prompt_records import prompts_hash
from .published import is_added
from .record import RECORD, RECORD_SCHEMA, is_sealed, read_record
from .rounded_files import codes_name, flaws_of, is_declared

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
TOLERANCE = 1e-6  # of a share of zeros


@dataclass
class Findings:
    """The result of a verification.

    Attributes:
        files: number of checked files.
        layers: number of checked layers.
        wrong: the differences from the record, in words.
        filled: layers with fewer zeros than recorded, in words.
        sealed: whether the record has a hash of its own content; those of older versions have none.
        packed: whether zeros are stored as bitmasks.
    """

    files: int = 0
    layers: int = 0
    wrong: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    sealed: bool = True
    packed: bool = False

    def note(self, good: bool, text: str) -> None:
        """Add a difference unless `good`."""
        if not good:
            self.wrong.append(text)


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
        check_layers(component, record, found)
        check_rounded(component, record, found)
        check_blocks(component, record, found)
        check_folded(component, record, found)
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


def check_layers(component: Path, record: dict[str, Any], found: Findings) -> None:
    """Check shape, zeros and pattern of every pruned layer.

    Args:
        component: folder of the pruned component.
        record: the checked record.
        found: receives the differences.
    """
    pattern = record["config"]["pattern"]
    group = None if pattern == "structured" else PruningConfig(pattern=pattern).group
    rows = {f"{row['name']}.weight": row for row in record["layers"] if not row.get("bits")}
    ranks = {f"{row['name']}.{DOWN}": row["rank"] for row in record["layers"] if row.get("rank")}
    packed = packed_layers(component)
    found.packed = bool(packed)
    for file in weight_files_in(component):
        try:
            with safe_open(file, "pt") as opened:
                names = names_in(opened, packed)
                for name in rows.keys() & names:
                    weight = read_weight(opened, name, packed).flatten(1)
                    check_layer(rows.pop(name), weight, group, pattern == "structured", found)
                for name in ranks.keys() & names:
                    rank, wanted = opened.get_slice(name).get_shape()[0], ranks.pop(name)
                    found.note(rank == wanted, f"{name} has rank {rank}, expected {wanted}")
        except SafetensorError as error:
            found.note(False, f"{file.name} can't be read: {error}")
    for name in (*rows, *ranks):
        found.note(False, f"{name} is missing")


def check_rounded(component: Path, record: dict[str, Any], found: Findings) -> None:
    """Check shape, zeros and pattern of every rounded layer by its codes, and codes and scales.

    Args:
        component: folder of the pruned component.
        record: the checked record.
        found: receives the differences.
    """
    pattern = record["config"]["pattern"]
    group = None if pattern == "structured" else PruningConfig(pattern=pattern).group
    rows = {codes_name(row["name"]): row for row in record["layers"] if row.get("bits")}
    beside = {codes_name(row["name"]): row for row in record.get("rounded_too", []) if row["bits"]}
    rows |= beside
    if not rows:
        return
    found.note(is_declared(component), f"{component.name}/config.json declares no torchao weights")
    for file in weight_files_in(component):
        try:
            with safe_open(file, "pt") as opened:
                for name in sorted(rows.keys() & set(opened.keys())):
                    row, codes = rows.pop(name), opened.get_tensor(name)
                    if name in beside:
                        check_shape(row, codes, found)
                    else:
                        check_layer(row, codes, group, pattern == "structured", found)
                    for text in flaws_of(opened, row, codes):
                        found.note(False, text)
        except SafetensorError as error:
            found.note(False, f"{file.name} can't be read: {error}")
    for name in rows:
        found.note(False, f"{name} is missing")


def check_blocks(component: Path, record: dict[str, Any], found: Findings) -> None:
    """Check that each list of blocks is as long as recorded, if blocks were removed.

    Args:
        component: folder of the pruned component.
        record: the checked record.
        found: receives the differences.
    """
    lists = [row for row in record.get("groups", []) if row["kind"] == "blocks"]
    if not lists:
        return
    names = [name for file in sorted(component.glob("*.safetensors")) for name in read_header(file)]
    for row in lists:
        prefix = f"{row['owner']}."
        numbers = {
            name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)
        }
        found.note(
            numbers == {str(i) for i in range(row["kept"])},
            f"{row['owner']} has {len(numbers)} blocks, expected {row['kept']}",
        )


def check_folded(component: Path, record: dict[str, Any], found: Findings) -> None:
    """Check that each folded modulation layer has its two factors, of the recorded rank.

    Args:
        component: folder of the pruned component.
        record: the checked record.
        found: receives the differences.
    """
    rows = record.get("modulation", {}).get("layers", [])
    if not rows:
        return
    shapes: dict[str, Any] = {}
    for file in sorted(component.glob("*.safetensors")):
        shapes |= {name: tuple(entry["shape"]) for name, entry in read_header(file).items()}
    for row in rows:
        found.layers += 1
        outputs, inputs = row["shape"]
        wanted = {FOLDED_DOWN: (row["rank"], inputs), FOLDED_UP: (outputs, row["rank"])}
        for part, shape in wanted.items():
            name = f"{row['name']}.{part}"
            there = shapes.get(name)
            text = "is missing" if there is None else f"is {there}, expected {shape}"
            found.note(there == shape, f"{name} {text}")


def check_layer(
    row: dict[str, Any],
    weight: Tensor,
    group: tuple[int, int] | None,
    structured: bool,
    found: Findings,
) -> None:
    """Check a layer against its record.

    Of a structured run the number of columns is checked. Of any other the share of zeros must be at
    least the recorded one: rounding to half precision adds a few.

    Args:
        row: the record of the layer.
        weight: its weight as a matrix (O, I).
        group: n and m of an N:M pattern.
        structured: whether the run was structured.
        found: receives the differences.
    """
    found.layers += 1
    name, inputs, share = row["name"], row["shape"][1], row["sparsity"]
    if structured:
        wanted = round(inputs * (1 - share))
        found.note(
            weight.shape[1] == wanted, f"{name} has {weight.shape[1]} columns, expected {wanted}"
        )
        return
    note_shape(row, weight, found)
    zeros = (weight == 0).double().mean().item()
    if zeros < share - TOLERANCE:
        found.filled.append(f"{name} has {zeros:.4%} zeros, expected {share:.4%}")
    if group and weight.shape[1] % group[1] == 0:
        most = int((weight.unflatten(1, (-1, group[1])) != 0).sum(2).max())
        found.note(
            most <= group[0],
            f"{name} has {most} of {group[1]} consecutive weights, expected at most {group[0]}",
        )


def check_shape(row: dict[str, Any], weight: Tensor, found: Findings) -> None:
    """Check the shape (O, I) of a layer that was rounded and not pruned."""
    found.layers += 1
    note_shape(row, weight, found)


def note_shape(row: dict[str, Any], weight: Tensor, found: Findings) -> None:
    """Add a difference unless a weight has the recorded shape (O, I)."""
    wanted = tuple(row["shape"])
    found.note(
        tuple(weight.shape) == wanted, f"{row['name']} is {tuple(weight.shape)}, expected {wanted}"
    )
