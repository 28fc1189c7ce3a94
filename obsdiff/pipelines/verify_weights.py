"""What the weights of a pruned folder must be by its record: shapes, zeros, blocks, factors."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..config import PruningConfig
from ..models.folded import DOWN as FOLDED_DOWN
from ..models.folded import UP as FOLDED_UP
from ..models.low_rank import DOWN
from .bitmask_files import names_in, read_weight
from .bitmask_headers import packed_layers, weight_files_in
from .headers import read_header
from .rounded_files import codes_name, flaws_of, is_declared

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


def check_weights(component: Path, record: dict[str, Any], found: Findings) -> None:
    """Check every layer, block and factor of a component.

    Args:
        component: folder of the pruned component.
        record: the checked record.
        found: receives the differences.
    """
    check_layers(component, record, found)
    check_rounded(component, record, found)
    check_blocks(component, record, found)
    check_folded(component, record, found)


def check_layers(component: Path, record: dict[str, Any], found: Findings) -> None:
    """Check shape, zeros and pattern of every pruned layer.

    Args:
        component: folder of the pruned component.
        record: the checked record.
        found: receives the differences.
    """
    group, structured = pattern_of(record)
    rows = {f"{row['name']}.weight": row for row in record["layers"] if not row.get("bits")}
    ranks = {f"{row['name']}.{DOWN}": row["rank"] for row in record["layers"] if row.get("rank")}
    packed = packed_layers(component)
    found.packed = bool(packed)

    def check(opened: Any) -> None:
        names = names_in(opened, packed)
        for name in rows.keys() & names:
            weight = read_weight(opened, name, packed).flatten(1)
            check_layer(rows.pop(name), weight, group, structured, found)
        for name in ranks.keys() & names:
            rank, wanted = opened.get_slice(name).get_shape()[0], ranks.pop(name)
            found.note(rank == wanted, f"{name} has rank {rank}, expected {wanted}")

    check_files_by(check, component, found)
    for name in (*rows, *ranks):
        found.note(False, f"{name} is missing")


def check_rounded(component: Path, record: dict[str, Any], found: Findings) -> None:
    """Check shape, zeros and pattern of every rounded layer by its codes, and codes and scales.

    Args:
        component: folder of the pruned component.
        record: the checked record.
        found: receives the differences.
    """
    group, structured = pattern_of(record)
    rows = {codes_name(row["name"]): row for row in record["layers"] if row.get("bits")}
    beside = {codes_name(row["name"]): row for row in record.get("rounded_too", []) if row["bits"]}
    rows |= beside
    if not rows:
        return
    found.note(is_declared(component), f"{component.name}/config.json declares no torchao weights")

    def check(opened: Any) -> None:
        for name in sorted(rows.keys() & set(opened.keys())):
            row, codes = rows.pop(name), opened.get_tensor(name)
            if name in beside:
                check_shape(row, codes, found)
            else:
                check_layer(row, codes, group, structured, found)
            for text in flaws_of(opened, row, codes):
                found.note(False, text)

    check_files_by(check, component, found)
    for name in rows:
        found.note(False, f"{name} is missing")


def check_files_by(check: Callable[[Any], None], component: Path, found: Findings) -> None:
    """Open every file of weights for a check; one that can't be read is a difference."""
    for file in weight_files_in(component):
        try:
            with safe_open(file, "pt") as opened:
                check(opened)
        except SafetensorError as error:
            found.note(False, f"{file.name} can't be read: {error}")


def pattern_of(record: dict[str, Any]) -> tuple[tuple[int, int] | None, bool]:
    """Return n and m of an N:M pattern, None without, and whether the run was structured."""
    pattern = record["config"]["pattern"]
    structured = pattern == "structured"
    return None if structured else PruningConfig(pattern=pattern).group, structured


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
            there = shapes.get(name, shapes.get(codes_name(name.removesuffix(".weight"))))
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
