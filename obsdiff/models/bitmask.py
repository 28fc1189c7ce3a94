"""Weights with zeros packed to values and a bitmask, and how they become dense again.

bitmask_format.py has the format. A model of a pruned class is
built with these two tensors in place of each weight, filled by diffusers, and opened layer by
layer: beside the packed model there is one dense layer more at a time, until it is dense.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .bitmask_format import BITS, REMEDY, VALUES, Packed, read_setting


def pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values (k,) and the bitmask (ceil(n/8),) of a floating-point weight."""
    flat = weight.contiguous().flatten()
    kept = as_integers(flat) != 0
    padded = torch.zeros(-(-len(flat) // 8) * 8, dtype=torch.uint8)
    padded[: len(flat)] = kept
    powers = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8)
    return flat[kept], (padded.view(-1, 8) * powers).sum(1, dtype=torch.uint8)


def as_integers(values: Tensor) -> Tensor:
    """Return the bits of floating-point values as integers of the same size."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.view(sizes[values.element_size()])


def unpack(name: str, packed: Packed, values: Tensor, bits: Tensor) -> Tensor:
    """Return a dense weight, once values and bitmask are known to fit each other.

    Args:
        name: the layer, for the message.
        packed: how it is stored.
        values: the kept entries (k,).
        bits: the bitmask (ceil(n/8),).

    Raises:
        UserError: a length, the number of set bits, or a bit behind the last entry is wrong.
    """
    if values.shape != (packed.kept,) or bits.shape != (packed.bytes_of_bits,):
        raise UserError(
            f"bitmask: {name}: expected {packed.kept} values and {packed.bytes_of_bits} bytes of "
            f"bits, found {tuple(values.shape)} and {tuple(bits.shape)}; fetch the folder again"
        )
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    every = ((bits[:, None] >> shifts) & 1).bool().flatten()
    kept = every[: packed.entries]
    if int(every.sum()) != packed.kept or int(kept.sum()) != packed.kept:
        raise UserError(
            f"bitmask: {name}: expected {packed.kept} set bits among {packed.entries}, found "
            f"{int(every.sum())}, {int(kept.sum())} of them among these; fetch the folder again"
        )
    weight = torch.zeros(packed.entries, dtype=values.dtype, device=values.device)
    weight[kept] = values
    return weight.view(packed.shape)


def hold_packed_(model: nn.Module, setting: Any) -> None:
    """Replace weights of a model by tensors for values and bits, which a file then fills.

    Args:
        model: the model.
        setting: the value of "bitmask" in its config.json; checked.

    Raises:
        UserError: it is wrong, or does not fit the model.
    """
    modules = dict(model.named_modules())
    for name, packed in read_setting(setting).items():
        layer = modules.get(name)
        weight = getattr(layer, "weight", None)
        if not isinstance(layer, nn.Linear | nn.Conv2d) or not isinstance(weight, nn.Parameter):
            raise UserError(f"bitmask: {type(model).__name__} has no layer {name!r:.80}")
        if tuple(weight.shape) != packed.shape:
            raise UserError(
                f"bitmask: {name}: expected {tuple(weight.shape)}, the shape of the model, found "
                f"{packed.shape}"
            )
        del layer.weight
        layer.register_parameter(VALUES, nn.Parameter(weight.new_zeros(packed.kept)))
        bits = torch.zeros(packed.bytes_of_bits, dtype=torch.uint8, device=weight.device)
        layer.register_buffer(BITS, bits)


def open_packed_(model: nn.Module, setting: Any) -> None:
    """Give a model its dense weights, layer by layer, from the values and bits that it holds.

    Args:
        model: a model that hold_packed_ has changed and a file has filled.
        setting: the value of "bitmask" in its config.json.

    Raises:
        UserError: a layer has no values, or values and bits do not fit each other.
    """
    for name, packed in read_setting(setting).items():
        layer = model.get_submodule(name)
        values, bits = getattr(layer, VALUES), getattr(layer, BITS)
        if values.is_meta or bits.is_meta:
            raise UserError(
                f"bitmask: {name}: expected its values in memory, found none: the file lacks them, "
                f"or device_map has put them on the disk; {REMEDY}"
            )
        weight = unpack(name, packed, values.detach(), bits.to(values.device))
        delattr(layer, VALUES)
        delattr(layer, BITS)
        layer.register_parameter("weight", nn.Parameter(weight, values.requires_grad))
