"""The format of weights with zeros stored as values and a bitmask, version 1. No torch.

Of a weight with n entries in row-major order and k whose bits are not all zero, a file has

    LAYER.weight_values   (k,)          the kept entries in their order, in the weight's format
    LAYER.weight_bits     (ceil(n/8),)  uint8; bit i % 8, from the lowest, of byte i // 8 is 1 if
                                        entry i is kept; the bits behind the last entry are 0

and config.json has {"bitmask": {"version": 1, "layers": {LAYER: {"shape": [...], "kept": k}}}}.
A negative zero is kept, so the dense weight comes back in every bit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError

VALUES, BITS = "weight_values", "weight_bits"  # the tensors' names, behind the layer's
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
