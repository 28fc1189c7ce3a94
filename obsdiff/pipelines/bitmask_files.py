"""Weight files of a component, packed to values and bitmasks and back, file by file.

models/bitmask.py has the format. Everything is checked by config.json and the headers before a
tensor is read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..models.bitmask import (
    BITS,
    CONFIG_KEY,
    REMEDY,
    VALUES,
    Packed,
    pack,
    read_setting,
    unpack,
)
from ..models.client_marker import BITMASK, MODULE
from ..runtime.json_files import read_json
from .headers import SAFETENSORS_DTYPES, read_header

MARKER = f"{MODULE}.{BITMASK}"
CONFIG = "config.json"


def packed_layers(component: Path) -> dict[str, Packed]:
    """Return how each packed layer of a component is stored; nothing for a plain component.

    Args:
        component: its folder.

    Raises:
        UserError: config.json and the headers of the files contradict the format or each other.
    """
    layers = read_setting(read_json(component / CONFIG).get(CONFIG_KEY))
    if not layers:
        return {}
    headers = {file: read_header(file) for file in weight_files_in(component)}
    tensors = {name: info for header in headers.values() for name, info in header.items()}
    for header in headers.values():
        for name in header:
            layer, _, last = name.rpartition(".")
            if last in (VALUES, BITS) and layer not in layers:
                raise UserError(f"bitmask: {component}: {name:.80} is not in {CONFIG}; {REMEDY}")
    for layer, packed in layers.items():
        check_stored(component, layer, packed, tensors)
        homes = {f.name for f, h in headers.items() for n in (VALUES, BITS) if f"{layer}.{n}" in h}
        if len(homes) != 1:
            raise UserError(
                f"bitmask: {component}: {layer}: expected values and bits in one file, found them "
                f"in {' and '.join(sorted(homes))}"
            )
    return layers


def check_stored(component: Path, layer: str, packed: Packed, tensors: Mapping[str, Any]) -> None:
    """Check a layer's tensors by their headers.

    Args:
        component: the folder, for the message.
        layer: its name.
        packed: how it is stored, by config.json.
        tensors: the headers' entries.

    Raises:
        UserError: one is missing or of another length or format, or there is a weight beside them.
    """
    where = f"bitmask: {component}: {layer:.80}"
    if f"{layer}.weight" in tensors:
        raise UserError(f"{where}: expected values and bits alone, found a weight beside them")
    for name, length in ((VALUES, packed.kept), (BITS, packed.bytes_of_bits)):
        info = tensors.get(f"{layer}.{name}")
        if info is None or info["shape"] != [length]:
            found = "none" if info is None else info["shape"]
            raise UserError(
                f"{where}: expected {name} of length {length}, found {found}; fetch it again"
            )
        formats = ["U8"] if name == BITS else list(SAFETENSORS_DTYPES)
        if info["dtype"] not in formats:
            raise UserError(
                f"{where}: expected {name} in {' or '.join(formats)}, found {info['dtype']}"
            )


def weight_files_in(component: Path) -> list[Path]:
    """Return the safetensors files of a component's folder, in order."""
    return sorted(file for file in component.glob("*.safetensors") if file.is_file())


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
    if layer not in packed:
        return opened.get_tensor(name)
    values, bits = (opened.get_tensor(f"{layer}.{part}") for part in (VALUES, BITS))
    return unpack(layer, packed[layer], values, bits)


def pack_component_(component: Path, names: set[str]) -> dict[str, Packed]:
    """Pack weights in the files of a component's folder, where that makes them smaller.

    Args:
        component: its folder; its weight files are replaced.
        names: layers whose weights have zeros.

    Returns:
        How each packed layer is stored.
    """
    layers: dict[str, Packed] = {}
    for number, file in enumerate(files := weight_files_in(component)):
        tensors, metadata = read_file(file)
        for layer in sorted(names):
            weight = tensors.get(f"{layer}.weight")
            if weight is None or not weight.is_floating_point():
                continue
            values, bits = pack(weight)
            if values.nbytes + bits.nbytes < weight.nbytes:
                layers[layer] = Packed(tuple(weight.shape), len(values))
                del tensors[f"{layer}.weight"]
                tensors |= {f"{layer}.{VALUES}": values, f"{layer}.{BITS}": bits}
        if number == 0 and tensors:
            any_value = next(value for value in tensors.values() if value.is_floating_point())
            tensors[MARKER] = any_value.new_zeros(1)
        write_file(file, tensors, metadata)
    write_index(component, files)
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
