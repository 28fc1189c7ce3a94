"""The settings that count the transformer blocks of a UNet, one list of blocks in each attention.

`transformer_layers_per_block` has one value for each level on the way down, the last one for the
middle, too, and `reverse_transformer_layers_per_block` one for each level on the way up. A value is
one number for all attentions of a level, or a list of one for each. diffusers reads the middle's at
index -1 and the levels' from the front, so a value behind those of the levels is the middle's own.
A config without the first is that of a UNet with one block in each attention, diffusers' default.
Imports no torch.
"""

from collections.abc import Mapping
from typing import Any

DOWN, UP = "transformer_layers_per_block", "reverse_transformer_layers_per_block"
Value = int | list[int]  # blocks of each attention of a level; one number if all have the same


def unet_settings(config: Mapping[str, Any], gone: Mapping[str, int]) -> dict[str, list[Value]]:
    """Return the settings that change if some transformer blocks of a UNet leave.

    Args:
        config: the UNet's config.
        gone: list of blocks, such as down_blocks.1.attentions.0.transformer_blocks -> how many of
            its blocks leave.
    """
    levels = len(config["down_block_types"])
    own = each(config.get(DOWN, 1), levels)
    reverse = config.get(UP) or own[::-1]
    repeats = each(config["layers_per_block"], levels)
    middle = own[-1] if isinstance(own[-1], int) else own[-1][0]
    middle -= gone.get("mid_block.attentions.0.transformer_blocks", 0)
    down = [
        left(own[level], repeats[level], f"down_blocks.{level}", gone) for level in range(levels)
    ]
    up = [
        left(reverse[level], repeats[-1 - level] + 1, f"up_blocks.{level}", gone)
        for level in range(levels)
    ]
    last = down[-1] if isinstance(down[-1], int) else down[-1][0]
    return {DOWN: down if last == middle else [*down, middle], UP: up}


def left(value: Any, attentions: int, level: str, gone: Mapping[str, int]) -> Value:
    """Return the blocks of each attention of a level that are left.

    Args:
        value: its value in the config.
        attentions: how many attentions it has, if it has any.
        level: its name, such as down_blocks.1.
        gone: as in unet_settings.
    """
    counts = [
        count - gone.get(f"{level}.attentions.{number}.transformer_blocks", 0)
        for number, count in enumerate(each(value, attentions))
    ]
    return counts[0] if len(set(counts)) == 1 else counts


def each(value: Any, count: int) -> list[Any]:
    """Return a value for each of some modules: a number is that of all of them."""
    return [value] * count if isinstance(value, int) else list(value)
