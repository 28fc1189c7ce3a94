"""Weight files of a component, packed to values and bitmasks and back, file by file.

models/bitmask_format.py has the format; bitmask_headers.py checks config.json and headers first.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..models.bitmask import as_integers, pack, unpack
from ..models.bitmask_format import BITS, VALUES, Packed
from .bitmask_headers import MARKER, packed_layers, weight_files_in
from .headers import read_header


def names_in(opened: Any, packed: Mapping[str, Packed]) -> set[str]:
    """Return the names of the tensors in an open file, a packed weight as LAYER.weight.

    Args:
        opened: the file.
        packed: the packed layers of the component.
    """
    names = set(opened.keys())
    here = {layer for layer in packed if f"{layer}.{VALUES}" in names}
    parts = {f"{layer}.{part}" for layer in here for part in (VALUES, BITS)}
    marker = {MARKER} if packed else set()
    return (names - parts - marker) | {f"{layer}.weight" for layer in here}


def read_weight(opened: Any, name: str, packed: Mapping[str, Packed]) -> Tensor:
    """Return a dense weight from an open file, whether it is packed or not.

    Args:
        opened: the file.
        name: the weight's, LAYER.weight.
        packed: the packed layers of the component.

    Raises:
        UserError: values and bits do not fit each other.
    """
    layer = name.removesuffix(".weight")
    if layer not in packed or layer == name:
        return opened.get_tensor(name)
    values, bits = (opened.get_tensor(f"{layer}.{part}") for part in (VALUES, BITS))
    return unpack(layer, packed[layer], values, bits)


def pack_component_(component: Path, names: set[str]) -> dict[str, Packed]:
    """Pack weights in the files of a component's folder, where that makes them smaller.

    Args:
        component: its folder; its weight files are replaced, unless nothing becomes smaller.
        names: layers whose weights have zeros.

    Returns:
        How each packed layer is stored.
    """
    layers = packable(files := weight_files_in(component), names)
    if not layers:
        return {}
    for number, file in enumerate(files):
        tensors, metadata = read_file(file)
        for layer in [name for name in layers if f"{name}.weight" in tensors]:
            values, bits = pack(tensors.pop(f"{layer}.weight"))
            tensors |= {f"{layer}.{VALUES}": values, f"{layer}.{BITS}": bits}
        if number == 0:
            any_value = next(value for value in tensors.values() if value.is_floating_point())
            tensors[MARKER] = any_value.new_zeros(1)
        write_file(file, tensors, metadata)
    write_index(component, files)
    return layers


def packable(files: list[Path], names: set[str]) -> dict[str, Packed]:
    """Return how each layer that becomes smaller is stored as values and bits.

    Args:
        files: the weight files of a component.
        names: layers whose weights have zeros.
    """
    layers: dict[str, Packed] = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            there = set(opened.keys())
            for layer in sorted(name for name in names if f"{name}.weight" in there):
                weight = opened.get_tensor(f"{layer}.weight")
                if not weight.is_floating_point():
                    continue
                packed = Packed(tuple(weight.shape), int(as_integers(weight).count_nonzero()))
                if packed.kept * weight.element_size() + packed.bytes_of_bits < weight.nbytes:
                    layers[layer] = packed
    return layers


def unpack_component_(component: Path) -> None:
    """Write the dense weights into the files of a component's folder, as they were once saved.

    Args:
        component: its folder; its weight files are replaced.

    Raises:
        UserError: the files do not follow the format.
    """
    packed = packed_layers(component)
    for file in (files := weight_files_in(component)):
        with safe_open(file, "pt") as opened:
            metadata, names = opened.metadata(), sorted(names_in(opened, packed))
            tensors = {name: read_weight(opened, name, packed) for name in names}
        write_file(file, tensors, metadata)
    write_index(component, files)


def read_file(file: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """Return the tensors and the metadata of a safetensors file."""
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in sorted(opened.keys())}, opened.metadata()


def write_file(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    """Replace a safetensors file; other hard links to it keep the former content."""
    beside = file.with_name(f"{file.name}.new")
    save_file(tensors, beside, metadata)
    beside.replace(file)


def write_index(component: Path, files: list[Path]) -> None:
    """Write the index of the shards anew, if there is one, as diffusers writes it."""
    for index in component.glob("*.safetensors.index.json"):
        headers = {file.name: read_header(file) for file in files}
        spans = [info["data_offsets"] for header in headers.values() for info in header.values()]
        homes = {name: file for file, header in headers.items() for name in header}
        content = {
            "metadata": {"total_size": sum(end - start for start, end in spans)},
            "weight_map": homes,
        }
        index.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
