"""Take whole blocks out of a model, and its config with them.

What is left is a model of the same class with a config of its own: blocks are numbered anew, the
settings that count them and those that list their numbers follow. A block that is out is skipped by
the model's own forward, as if its residual branches added nothing.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from .depth_table import STACKS, Stack

Modules = dict[str, nn.ModuleList]  # attribute of a model -> its list of blocks


def block_numbers(stack: Stack, names: Collection[str]) -> list[int]:
    """Return the numbers of those of some blocks, such as transformer_blocks.3, of one list."""
    found = (name.rpartition(".") for name in names)
    return sorted(int(number) for owner, _, number in found if owner == stack.blocks)


def left_blocks(model: nn.Module, stacks: tuple[Stack, ...], names: Collection[str]) -> Modules:
    """Return the lists of a model without some of its blocks; the blocks are the model's own."""
    found = {}
    for stack in stacks:
        away = set(block_numbers(stack, names))
        blocks: Any = getattr(model, stack.blocks)
        found[stack.blocks] = nn.ModuleList(b for i, b in enumerate(blocks) if i not in away)
    return found


@contextlib.contextmanager
def without_blocks(
    model: nn.Module, stacks: tuple[Stack, ...], names: Collection[str]
) -> Iterator[None]:
    """Run a model without some of its blocks inside; its config stays as it is.

    Args:
        model: the denoiser.
        stacks: its lists of blocks.
        names: the blocks that are out, such as transformer_blocks.3.
    """
    own = {stack.blocks: getattr(model, stack.blocks) for stack in stacks}
    try:
        for attribute, blocks in left_blocks(model, stacks, names).items():
            setattr(model, attribute, blocks)
        yield
    finally:
        for attribute, blocks in own.items():
            setattr(model, attribute, blocks)


def remove_blocks_(model: nn.Module, stacks: tuple[Stack, ...], names: Collection[str]) -> None:
    """Take blocks out of a model of diffusers, in place, and write its config anew.

    Args:
        model: the denoiser.
        stacks: its lists of blocks.
        names: the blocks that leave, such as transformer_blocks.3.
    """
    settings: Any = model.config
    changes = changed_settings(settings, stacks, names)
    for attribute, blocks in left_blocks(model, stacks, names).items():
        setattr(model, attribute, blocks)
    register: Any = getattr(model, "register_to_config")  # noqa: B009 - nn.Module has no such type
    register(**changes)


def changed_settings(
    config: Mapping[str, Any], stacks: tuple[Stack, ...], names: Collection[str]
) -> dict[str, Any]:
    """Return the settings of a config that change if some blocks leave.

    Args:
        config: the model's config.
        stacks: its lists of blocks.
        names: the blocks that leave.
    """
    changes: dict[str, Any] = {}
    for stack in stacks:
        away, count = block_numbers(stack, names), config[stack.count]
        renumbered = {old: new for new, old in enumerate(kept_numbers(count, away))}
        changes[stack.count] = count - len(away)
        for name in stack.lists:
            own: Any = config.get(name) or ()
            changes[name] = type(own)(renumbered[i] for i in own if i in renumbered)
    return changes


def kept_numbers(count: int, away: Collection[int]) -> list[int]:
    """Return the numbers of the blocks that are left of a list of `count`."""
    return [i for i in range(count) if i not in away]


def stacks_of(model: nn.Module) -> tuple[Stack, ...]:
    """Return the lists of a model whose blocks can leave; KeyError for a class without an entry."""
    return STACKS[type(model).__name__]
