"""Put the zeros of an unstructured or N:M result back after something has filled them.

The record states how many zeros each layer has; where they are is in the folder's weights alone.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import UserError
from ..models.adapters import require_unquantised, require_unwrapped
from .bitmask_files import names_in, read_weight
from .bitmask_headers import packed_layers
from .record import RECORD, read_record
from .verify import check_record, oddity
from .verify_weights import TOLERANCE

SMALLER = ("structured", "depth")  # patterns that leave no zeros


def apply_masks_(pipe: Any, record: str | os.PathLike[str]) -> int:
    """Set the weights to zero, in place, that are zero in a pruned folder.

    Fusing a LoRA fills zeros. What it added to them is lost again; the rest of it stays.

    Args:
        pipe: the pipeline, opened from that folder or a copy of it; a LoRA in it is fused and
            unloaded.
        record: the pruned folder, or its obsdiff.json; the weights beside it are read.

    Returns:
        The number of weights that were not zero before.

    Raises:
        UserError: the folder is no unstructured or N:M result with its zeros, or the pipeline is
            not one of its shapes with plain weights. Nothing is changed then.
    """
    folder = folder_of(record)
    found = read_record(folder)
    check_record(found, folder / RECORD)
    pattern = found["config"]["pattern"]
    if pattern in SMALLER:
        raise UserError(
            f"{folder}: expected an unstructured or N:M result, found one of pattern {pattern}, "
            "which is smaller and has no zeros to restore"
        )
    denoiser = checked_denoiser(pipe, found["component"], folder)
    zeros = zeros_of(folder, found)
    parameters = dict(denoiser.named_parameters())
    weights = {name: checked_weight(parameters, name, zeros[name], folder) for name in zeros}
    changed = 0
    with torch.no_grad():
        for name, weight in weights.items():
            mask = zeros[name].to(weight.device)
            changed += int((weight[mask] != 0).sum())
            weight[mask] = 0
    return changed


def folder_of(record: Any) -> Path:
    """Return the pruned folder; UserError for a record in memory, which has no zeros."""
    if not isinstance(record, str | os.PathLike):
        raise UserError(
            f"record: expected the path of a pruned folder, found {type(record).__name__}: which "
            "weights are zero is in the folder's weights alone"
        )
    path = Path(record)
    return path.parent if path.name == RECORD else path


def checked_denoiser(pipe: Any, component: str, folder: Path) -> nn.Module:
    """Return the denoiser that the record names; UserError if there is none with plain weights."""
    require_unwrapped(pipe)
    denoiser = getattr(pipe, component, None)
    if not isinstance(denoiser, nn.Module):
        raise UserError(
            f"{folder}: its record is of the component {component!r}, which this "
            f"{type(pipe).__name__} lacks"
        )
    require_unquantised(denoiser, component)
    return denoiser


def zeros_of(folder: Path, record: dict[str, Any]) -> dict[str, Tensor]:
    """Return where each recorded layer of a folder is zero.

    Args:
        folder: the pruned folder.
        record: its checked record.

    Raises:
        UserError: a layer is missing, can't be read, or has fewer zeros than recorded.
    """
    shares = {f"{row['name']}.weight": row["sparsity"] for row in record["layers"]}
    found: dict[str, Tensor] = {}
    packed = packed_layers(component := folder / record["component"])
    for file in sorted(component.glob("*.safetensors")):
        if odd := oddity(folder, file):
            raise UserError(f"{file} {odd}; it is not read")
        try:
            with safe_open(file, "pt") as opened:
                for name in shares.keys() & names_in(opened, packed):
                    found[name] = read_weight(opened, name, packed) == 0
        except SafetensorError as error:
            raise UserError(f"{file} can't be read: {error}") from None
    for name, share in shares.items():
        if name not in found:
            raise UserError(f"{folder}: its weights lack {name}, which its record names")
        zeros = found[name].double().mean().item()
        if zeros < share - TOLERANCE:
            raise UserError(
                f"{folder}: the zeros are gone: {name} has {zeros:.2%}, expected {share:.2%} by "
                "its record; pass an unchanged copy of the folder"
            )
    return found


def checked_weight(
    parameters: Mapping[str, nn.Parameter], name: str, mask: Tensor, folder: Path
) -> Tensor:
    """Return the parameter of this name, if it is in memory and has the shape of the mask.

    Raises:
        UserError: it has not, or there is none.
    """
    weight = parameters.get(name)
    if weight is None or weight.shape != mask.shape or weight.is_meta:
        what = "none" if weight is None else f"one of {tuple(weight.shape)}"
        if weight is not None and weight.is_meta:
            what += " that an offload keeps elsewhere"
        raise UserError(
            f"{name}: expected a weight of {tuple(mask.shape)} as in {folder}, found {what}"
        )
    return weight
