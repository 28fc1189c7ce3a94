"""Weights with zeros stored as values and a bitmask: format 1, and how they become dense again.

Of a weight with n entries in row-major order and k whose bits are not all zero, a file has

    LAYER.weight_values   (k,)          the kept entries in their order, in the weight's format
    LAYER.weight_bits     (ceil(n/8),)  uint8; bit i % 8, from the lowest, of byte i // 8 is 1 if
                                        entry i is kept; the bits behind the last entry are 0

and config.json has {"bitmask": {"version": 1, "layers": {LAYER: {"shape": [...], "kept": k}}}}.
A negative zero is kept, so the dense weight comes back in every bit. A model of a pruned class is
built with these two tensors in place of each weight, filled by diffusers, and opened layer by
layer: beside the packed model there is one dense layer more at a time, until it is dense.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

VALUES, BITS = "weight_values", "weight_bits"  # the tensors' names, behind the layer's
CONFIG_KEY = "bitmask"
VERSION = 1
LARGEST_SIDE = 2**31 - 1
MOST_SIDES = 5  # of a weight; a convolution over video has five
REMEDY = "make a plain folder with: obsdiff unpack DIR --output OUT"


@dataclass(frozen=True)
class Packed:
    """How a weight is stored: its shape, and how many entries are kept."""

    shape: tuple[int, ...]
    kept: int

    @property
    def entries(self) -> int:
        """Number of entries of the dense weight."""
        return math.prod(self.shape)

    @property
    def bytes_of_bits(self) -> int:
        """Length of the bitmask in bytes."""
        return -(-self.entries // 8)


def read_setting(setting: Any) -> dict[str, Packed]:
    """Return how each packed layer is stored, by its name.

    Args:
        setting: the value of "bitmask" in a config.json; None for a plain model.

    Raises:
        UserError: it does not follow format 1.
    """
    if setting is None:
        return {}
    if not isinstance(setting, Mapping) or setting.get("version") != VERSION:
        found = setting.get("version") if isinstance(setting, Mapping) else setting
        raise UserError(
            f"bitmask: expected version {VERSION} of the format, found {found!r:.60}; "
            "a newer obsdiff may read it"
        )
    layers = setting.get("layers")
    if not isinstance(layers, Mapping):
        raise UserError(f"bitmask: expected an object of layers, found {layers!r:.60}")
    return {str(name): read_layer(str(name), value) for name, value in layers.items()}


def read_layer(name: str, value: Any) -> Packed:
    """Return how one layer is stored; UserError if its shape or count is none."""
    shape = value.get("shape") if isinstance(value, Mapping) else None
    kept = value.get("kept") if isinstance(value, Mapping) else None
    if (
        not isinstance(shape, list | tuple)
        or not 1 <= len(shape) <= MOST_SIDES
        or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in shape)
    ):
        raise UserError(f"bitmask: {name:.80}: expected the shape of a weight, found {shape!r:.60}")
    if type(kept) is not int or not 0 <= kept <= math.prod(shape):
        raise UserError(
            f"bitmask: {name:.80}: expected from 0 to {math.prod(shape)} kept entries, "
            f"found {kept!r:.60}"
        )
    return Packed(tuple(shape), kept)


def setting_of(layers: Mapping[str, Packed]) -> dict[str, Any]:
    """Return the value of "bitmask" in a config.json."""
    stated = {
        name: {"shape": list(one.shape), "kept": one.kept} for name, one in sorted(layers.items())
    }
    return {"version": VERSION, "layers": stated}


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
