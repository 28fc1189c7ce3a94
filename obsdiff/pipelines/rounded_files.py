"""Rounded weights in safetensors files, checked without torchao.

A rounded layer has `LAYER._weight_qdata` (O, I), int8 codes, `LAYER._weight_scale` (O, I / g) and,
for 4 bits, `LAYER._weight_zero_point`, zeros; the file's metadata has the class of its tensor under
`LAYER.weight`. pipelines/low_bits.py writes them. g is the group size.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..runtime.json_files import read_json

CODES, SCALE, ZERO_POINT = "_weight_qdata", "_weight_scale", "_weight_zero_point"
CLASSES = {8: "Int8Tensor", 4: "IntxUnpackedToInt8Tensor"}


def codes_name(layer: str) -> str:
    """Return the name of the tensor of a layer's codes."""
    return f"{layer}.{CODES}"


def is_weight(name: str) -> bool:
    """Return whether a tensor holds weights or codes, and not what belongs to codes."""
    return not name.endswith((f".{SCALE}", f".{ZERO_POINT}"))


def is_declared(component: Path) -> bool:
    """Return whether the config of a component says that it has weights of torchao."""
    declared = read_json(component / "config.json").get("quantization_config")
    return isinstance(declared, dict) and declared.get("quant_method") == "torchao"


def flaws_of(opened: Any, row: dict[str, Any], codes: Tensor) -> Iterator[str]:
    """Yield what is wrong with the codes and scales of a layer, in words.

    Args:
        opened: the open file that has the codes.
        row: the record of the layer.
        codes: its codes.
    """
    name, bits, group = row["name"], row["bits"], row.get("group_size") or 0
    if codes.dtype != torch.int8 or codes.dim() != 2 or bits not in CLASSES or group < 1:
        yield f"{name} has no codes of 4 or 8 bits"
        return
    low, high = int(codes.min()), int(codes.max())
    half = 2 ** (bits - 1)
    if low < -half or high >= half:
        yield f"{name} has codes {low} to {high}, expected {-half} to {half - 1}"
    names = set(opened.keys())
    shape = (codes.shape[0], codes.shape[1] // group)
    scale = opened.get_tensor(f"{name}.{SCALE}") if f"{name}.{SCALE}" in names else None
    if scale is None or tuple(scale.shape) != shape or not usable(scale):
        yield f"{name}.{SCALE}: expected {shape} numbers, none of them 0"
    if bits == 4:
        point = f"{name}.{ZERO_POINT}"
        zero = opened.get_tensor(point) if point in names else None
        if zero is None or tuple(zero.shape) != shape or zero.any():
            yield f"{point}: expected {shape} zeros"
    about = (opened.metadata() or {}).get(f"{name}.weight", "{}")
    try:
        found = json.loads(about).get("_type")
    except (ValueError, AttributeError):
        found = None
    if found != CLASSES[bits]:
        yield f"{name} is a {found} by the file's metadata, expected {CLASSES[bits]}"


def usable(scale: Tensor) -> bool:
    """Return whether all scales are finite and none is 0."""
    return bool((scale != 0).all()) and bool(scale.isfinite().all())
