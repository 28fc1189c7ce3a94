"""Packed weights by config.json and the headers of the files, before a tensor is read. No torch.

models/bitmask_format.py has the format.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..models.bitmask_format import BITS, REMEDY, VALUES, Packed, read_setting
from ..models.own_names import BITMASK, BITMASK_KEY, MODULE
from ..runtime.json_files import read_json
from .headers import SAFETENSORS_DTYPES, Tensors, read_header
from .strict_header import TensorInfo

MARKER = f"{MODULE}.{BITMASK}"
CONFIG = "config.json"
Headers = Mapping[Path, Mapping[str, TensorInfo]]  # of each file


def packed_layers(component: Path) -> dict[str, Packed]:
    """Return how each packed layer of a component is stored; nothing for a plain component.

    Args:
        component: its folder.

    Raises:
        UserError: config.json and the headers of the files contradict the format or each other.
    """
    setting = read_json(component / CONFIG).get(BITMASK_KEY)
    if setting is None:
        return {}
    files = {file: read_header(file) for file in weight_files_in(component)}
    return checked_layers(component, setting, files)


def as_dense(component: Path, tensors: Tensors) -> Tensors:
    """Return the tensors of a component with each packed weight in place of its values and bits.

    Args:
        component: its folder.
        tensors: its tensors, as the headers have them.

    Raises:
        UserError: config.json and the headers contradict the format or each other.
    """
    setting = read_json(component / CONFIG).get(BITMASK_KEY)
    if setting is None or not tensors.files:
        return tensors
    headers = {file: read_header(file) for file in tensors.files}
    layers = checked_layers(component, setting, headers)
    hidden = {f"{layer}.{part}" for layer in layers for part in (VALUES, BITS)} | {MARKER}
    shapes = {name: shape for name, shape in tensors.shapes.items() if name not in hidden}
    formats = {name: tensors.formats[name] for name in shapes}
    for layer, packed in layers.items():
        shapes[f"{layer}.weight"] = packed.shape
        formats[f"{layer}.weight"] = tensors.formats[f"{layer}.{VALUES}"]
    return replace(tensors, shapes=shapes, formats=formats, bitmasks=layers)


def checked_layers(component: Path, setting: Any, headers: Headers) -> dict[str, Packed]:
    """Return how each packed layer is stored, once the headers agree.

    Args:
        component: the folder, for the message.
        setting: the value of "bitmask" in its config.json.
        headers: of its weight files.

    Raises:
        UserError: setting and headers contradict the format or each other.
    """
    layers = read_setting(setting)
    tensors = {name: info for header in headers.values() for name, info in header.items()}
    for name in tensors:
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
