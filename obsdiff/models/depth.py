"""Take whole blocks out of a model, and its config with them.

What is left is a model of the same class with a config of its own: blocks are numbered anew, the
settings that count them and those that list their numbers follow. A block that is out is skipped by
the model's own forward, as if its residual branches added nothing.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn

from .depth_table import Stack, stacks_in
from .unet_depth import unet_settings

DEFAULTS = "_use_default_values"
Modules = dict[str, nn.ModuleList]  # name of a list of blocks -> the list


def block_numbers(stack: Stack, names: Collection[str]) -> list[int]:
    """Return the numbers of those of some blocks, such as transformer_blocks.3, of one list."""
    found = (name.rpartition(".") for name in names)
    return sorted(int(number) for owner, _, number in found if owner == stack.blocks)


def left_blocks(model: nn.Module, stacks: tuple[Stack, ...], names: Collection[str]) -> Modules:
    """Return the lists of a model without some of its blocks; the blocks are the model's own."""
    found = {}
    for stack in stacks:
        away = set(block_numbers(stack, names))
        blocks: Any = model.get_submodule(stack.blocks)
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
    own: Any = {stack.blocks: model.get_submodule(stack.blocks) for stack in stacks}
    try:
        put_(model, left_blocks(model, stacks, names))
        yield
    finally:
        put_(model, own)


def put_(model: nn.Module, lists: Modules) -> None:
    """Put lists of blocks in the place of a model's own."""
    for name, blocks in lists.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, blocks)


def remove_blocks_(model: nn.Module, stacks: tuple[Stack, ...], names: Collection[str]) -> None:
    """Take blocks out of a model of diffusers, in place, and write its config anew.

    Args:
        model: the denoiser.
        stacks: its lists of blocks.
        names: the blocks that leave, such as transformer_blocks.3.
    """
    settings: Any = model.config
    changes = changed_settings(settings, stacks, names)
    put_(model, left_blocks(model, stacks, names))
    register: Any = getattr(model, "register_to_config")  # noqa: B009 - nn.Module has no such type
    # diffusers drops the settings under this name, which were left out at first, from a config
    default = [name for name in settings.get(DEFAULTS, ()) if name not in changes]
    register(**changes, **{DEFAULTS: default})


def changed_settings(
    config: Mapping[str, Any], stacks: tuple[Stack, ...], names: Collection[str]
) -> dict[str, Any]:
    """Return the settings of a config that change if some blocks leave.

    Args:
        config: the model's config.
        stacks: its lists of blocks.
        names: the blocks that leave.
    """
    if not stacks[0].count:
        gone = {stack.blocks: len(block_numbers(stack, names)) for stack in stacks}
        return dict(unet_settings(config, gone))
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
    """Return the lists of a model whose blocks can leave, in no order; none for another class."""
    return stacks_in(type(model).__name__, (name for name, _ in model.named_modules()))
