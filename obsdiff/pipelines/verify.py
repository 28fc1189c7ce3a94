"""Check a pruned folder against its record: hashes of files; shape, zeros, pattern of layers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import PruningConfig
from ..errors import RunFailed, UserError
from ..runtime.file_hashing import file_hash
from ..runtime.json_files import check_json, check_shapes
from ..runtime.regular_files import is_special
from .model_card import CARD
from .record import RECORD, RECORD_SCHEMA, read_record

WANTED = {
    "schema": int,
    "component": str,
    "config": {"pattern": str},
    "layers": [{"name": str, "shape": [int], "sparsity": float}],
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
    """

    files: int = 0
    layers: int = 0
    wrong: list[str] = field(default_factory=list)

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
    check_files(folder, record["hashes"]["files"], found)
    if not found.wrong:
        check_layers(folder / record["component"], record, found)
    if found.wrong:
        more = f" and {len(found.wrong) - SHOWN} more" if len(found.wrong) > SHOWN else ""
        raise RunFailed(f"{folder} differs from its record: {'; '.join(found.wrong[:SHOWN])}{more}")
    return found


def check_record(record: dict[str, Any], file: Path) -> None:
    """Check the structure of a record; UserError, with the file's name, for a wrong one."""
    try:
        check_json(record, WANTED, "")
        check_shapes(record["layers"], "layers")
    except ValueError as error:
        raise UserError(
            f"{file} does not follow schema {RECORD_SCHEMA}: {error}; it can't be verified"
        ) from None
    if record["schema"] != RECORD_SCHEMA:
        raise UserError(f"{file} has schema {record['schema']}: expected {RECORD_SCHEMA}")


def check_files(folder: Path, hashes: dict[str, str], found: Findings) -> None:
    """Check that every recorded file exists unchanged, and that no other weights do.

    Args:
        folder: the pruned folder; files outside it are not read.
        hashes: the recorded SHA-256 of each file, by its path in the folder.
        found: receives the differences.
    """
    here = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    for name, wanted in hashes.items():
        found.files += 1
        file = here.get(name)
        found.note(file is not None, f"{name} is missing")
        found.note(file is None or file_hash(file) == wanted, f"{name} has changed")
    for path in sorted(folder.rglob("*")):
        found.note(not is_special(path), f"{path.relative_to(folder)} is no file: a pipe or device")
    for name in sorted(set(here) - set(hashes) - {RECORD, CARD}):
        found.note(not name.endswith(".safetensors"), f"{name} is not in the record")


def check_layers(component: Path, record: dict[str, Any], found: Findings) -> None:
    """Check shape, zeros and pattern of every pruned layer.

    Args:
        component: folder of the pruned component.
        record: the checked record.
        found: receives the differences.
    """
    pattern = record["config"]["pattern"]
    group = None if pattern == "structured" else PruningConfig(pattern=pattern).group
    rows = {f"{row['name']}.weight": row for row in record["layers"]}
    for file in sorted(file for file in component.glob("*.safetensors") if file.is_file()):
        try:
            with safe_open(file, "pt") as opened:
                for name in rows.keys() & set(opened.keys()):
                    weight = opened.get_tensor(name).flatten(1)
                    check_layer(rows.pop(name), weight, group, pattern == "structured", found)
        except SafetensorError as error:
            found.note(False, f"{file.name} can't be read: {error}")
    for name in rows:
        found.note(False, f"{name} is missing")


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
    name, (outputs, inputs), share = row["name"], row["shape"], row["sparsity"]
    if structured:
        wanted = round(inputs * (1 - share))
        found.note(
            weight.shape[1] == wanted, f"{name} has {weight.shape[1]} columns, expected {wanted}"
        )
        return
    found.note(
        tuple(weight.shape) == (outputs, inputs),
        f"{name} is {tuple(weight.shape)}, expected {(outputs, inputs)}",
    )
    zeros = (weight == 0).double().mean().item()
    found.note(zeros >= share - TOLERANCE, f"{name} has {zeros:.4%} zeros, expected {share:.4%}")
    if group and weight.shape[1] % group[1] == 0:
        most = int((weight.unflatten(1, (-1, group[1])) != 0).sum(2).max())
        found.note(
            most <= group[0],
            f"{name} has {most} of {group[1]} consecutive weights, expected at most {group[0]}",
        )
