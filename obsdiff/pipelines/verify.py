"""Whether a pruned folder is what its record says: the files' hashes, and every pruned layer's shape, zeros and pattern."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import PruningConfig
from ..errors import RunFailed, UserError
from ..runtime.file_hashing import file_hash
from ..runtime.json_files import check_json, check_shapes, read_json
from .record import RECORD, SCHEMA

RECORDED_LAYER = {"name": str, "shape": [int], "sparsity": float}
WANTED = {
    "schema": int,
    "component": str,
    "config": {"pattern": str},
    "layers": [RECORDED_LAYER],
    "hashes": {"files": {"*": str}},
}
CARD = "README.md"
SHOWN = 5  # of the differences


@dataclass
class Findings:
    """How many files and layers were looked at, and what was found to differ from the record."""

    files: int = 0
    layers: int = 0
    wrong: list[str] = field(default_factory=list)

    def note(self, good: bool, text: str) -> None:
        if not good:
            self.wrong.append(text)


def verify_folder(folder: Path) -> Findings:
    """Check a folder that `prune` wrote against its obsdiff.json. UserError for one without a record that can be read; RunFailed with
    the first differences if there are any."""
    record = read_record(folder)
    found = Findings()
    check_files(folder, record["hashes"]["files"], found)
    if not found.wrong:  # the layers of other files are not worth a look
        check_layers(folder / record["component"], record, found)
    if found.wrong:
        more = f" and {len(found.wrong) - SHOWN} more" if len(found.wrong) > SHOWN else ""
        raise RunFailed(
            f"{folder} is not what its record says: {'; '.join(found.wrong[:SHOWN])}{more}"
        )
    return found


def read_record(folder: Path) -> dict[str, Any]:
    file = folder / RECORD
    if not file.is_file():
        raise UserError(f"verify: expected a folder that obsdiff prune wrote, found no {file}")
    record = read_json(file)
    try:
        check_json(record, WANTED, "")
        check_shapes(record["layers"], "layers")
    except ValueError as error:
        raise UserError(
            f"{file} does not follow schema {SCHEMA}: {error}; it can't be verified"
        ) from None
    if record["schema"] != SCHEMA:
        raise UserError(f"{file} has schema {record['schema']}: expected {SCHEMA}")
    return record


def check_files(folder: Path, hashes: dict[str, str], found: Findings) -> None:
    """Every recorded file is there, inside the folder and as it was; and no weights are there that the record does not know."""
    here = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    for name, wanted in hashes.items():
        found.files += 1
        file = here.get(name)
        found.note(file is not None, f"{name} is missing")
        found.note(file is None or file_hash(file) == wanted, f"{name} has changed")
    for name in sorted(set(here) - set(hashes) - {RECORD, CARD}):
        found.note(not name.endswith(".safetensors"), f"{name} is not in the record")


def check_layers(component: Path, record: dict[str, Any], found: Findings) -> None:
    """Shape, zeros and pattern of every pruned layer."""
    pattern = record["config"]["pattern"]
    group = None if pattern == "structured" else PruningConfig(pattern=pattern).group
    rows = {f"{row['name']}.weight": row for row in record["layers"]}
    for file in sorted(component.glob("*.safetensors")):
        try:
            with safe_open(file, "pt") as opened:
                for name in rows.keys() & set(opened.keys()):
                    check_layer(
                        rows.pop(name),
                        opened.get_tensor(name).flatten(1),
                        group,
                        pattern == "structured",
                        found,
                    )
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
    """A weight (O, I): of a structured run its columns have left, of any other its share of zeros is at least the recorded one (half
    precision makes a few more)."""
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
    found.note(zeros >= share - 1e-6, f"{name} has {zeros:.4%} zeros, expected {share:.4%}")
    if group and weight.shape[1] % group[1] == 0:
        most = int((weight.unflatten(1, (-1, group[1])) != 0).sum(2).max())
        found.note(
            most <= group[0],
            f"{name} has {most} of {group[1]} consecutive weights, expected at most {group[0]}",
        )
