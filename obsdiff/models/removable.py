"""Which heads, neurons and channels cannot be removed, or reordered, exactly, and why.

Removal is exact if the shrunk model equals the model with those items masked; reordering is exact
if the model computes the same function. Both fail for the same kinds of reason: the table refuses
the group, the attention processor depends on the heads, or a norm mixes them.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

from ..errors import UserError
from .block_entry import FixedHeads
from .block_table import FIXED, FIXED_ORDER
from .geometry import items, sections
from .linear_view import unfolding_refusal as not_unfolded
from .structure import Group

QUERY_KEY_VALUE = frozenset({"q", "k", "v", "query", "key", "value"})
VALUE = frozenset({"v", "value"})


def require_prunable(denoiser: nn.Module, groups: list[Group]) -> None:
    """Refuse groups that structured pruning cannot remove exactly.

    Args:
        denoiser: the model that contains the groups' layers.
        groups: the groups to prune.

    Raises:
        UserError: names the first such group, the reason, and how to exclude it.
    """
    for group in groups:
        reason = removal_refusal(denoiser, group)
        if reason:
            why = "" if group.kind == "channels" else ": removing some would change the others"
            ffn = ", or keep all heads with --target ffn" if group.kind == "heads" else ""
            raise UserError(
                f"structured: {reason}{why}; leave it out with --exclude "
                f"'{group.consumers[0]}'{ffn}"
            )


def removal_refusal(denoiser: nn.Module, group: Group) -> str | None:
    """Return the reason why items of a group cannot be removed exactly.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group found in it.

    Returns:
        The reason, beginning with the module's name; None if they can be removed.
    """
    if group.kind == "channels":
        return refusal_of_channels(denoiser, group)
    return stated_refusal(denoiser, group, FIXED) or norm_over_items(denoiser, group)


def order_refusal(denoiser: nn.Module, group: Group) -> str | None:
    """Return the reason why another order of a group's columns would be another function.

    Neurons are exchanged with each other, heads keep their places and exchange their value
    dimensions.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group of heads or neurons found in it.

    Returns:
        The reason, beginning with the module's name; None if the order is free.
    """
    if group.kind != "heads":
        return removal_refusal(denoiser, group)
    return stated_refusal(denoiser, group, FIXED_ORDER) or norm_of_values(denoiser, group)


def stated_refusal(denoiser: nn.Module, group: Group, fixed: dict[str, FixedHeads]) -> str | None:
    """Return the reason that the table states for the group, or `fixed` for its processor."""
    if group.refused:
        return f"{group.owner}: {group.refused}"
    owner = denoiser.get_submodule(group.owner)
    found = fixed.get(type(getattr(owner, "processor", None)).__name__)
    if group.kind == "heads" and found and len(group.consumers) <= found.outputs:
        return f"{group.owner}: {found.reason}"
    return None


def norm_over_items(denoiser: nn.Module, group: Group) -> str | None:
    """Name a norm over all heads, or all neurons: its statistics include those removed."""
    count = items(denoiser, group)
    widths = {
        size
        for name in group.producers
        for kind, size in sections(denoiser, group, name)
        if kind == group.kind
    }

    def mixes(name: str, module: nn.Module) -> bool:
        is_norm = "norm" in type(module).__name__.lower()
        of_items = group.kind == "neurons" or is_of_heads(name)
        return is_norm and of_items and count > 1 and normalised(module) in widths

    norm = first_module(denoiser, group, mixes)
    return norm and f"{norm} normalises all {count} {group.kind} together"


def norm_of_values(denoiser: nn.Module, group: Group) -> str | None:
    """Name a norm of the values: it has a weight for each dimension."""

    def mixes(name: str, module: nn.Module) -> bool:
        words = words_of(name)
        return "norm" in words and bool(VALUE & words) and bool(normalised(module))

    norm = first_module(denoiser, group, mixes)
    return norm and f"{norm} normalises the values"


def first_module(
    denoiser: nn.Module, group: Group, found: Callable[[str, nn.Module], bool]
) -> str | None:
    """Return the name of the first module of a group's owner for which `found` is true, or None."""
    modules = denoiser.get_submodule(group.owner).named_modules()
    return next((f"{group.owner}.{name}" for name, module in modules if found(name, module)), None)


def refusal_of_channels(denoiser: nn.Module, group: Group) -> str | None:
    """Return the reason for a residual block: only a plain GroupNorm in between is exact."""
    norm = getattr(denoiser.get_submodule(group.owner), group.norm.rpartition(".")[2], None)
    if not isinstance(norm, nn.GroupNorm):
        return f"{group.norm} is a {type(norm).__name__}, not a GroupNorm"
    reasons = {
        name: not_unfolded(denoiser.get_submodule(name))
        for name in (*group.producers, *group.consumers)
    }
    return next((f"{name}: {reason}" for name, reason in reasons.items() if reason), None)


def normalised(norm: nn.Module) -> int | None:
    """Return the number of channels that a norm normalises together, or None if it is no norm."""
    weight = getattr(norm, "weight", getattr(norm, "gamma", None))
    shape = getattr(norm, "normalized_shape", None) or getattr(norm, "dim", None)
    if weight is not None:
        return weight.numel()
    return math.prod(shape) if isinstance(shape, tuple | list | torch.Size) else shape


def is_of_heads(name: str) -> bool:
    """Return whether a norm's name refers to queries, keys or values, not to their inputs."""
    words = words_of(name)
    return bool(QUERY_KEY_VALUE & words) and "pre" not in words


def words_of(name: str) -> set[str]:
    """Return the words in the last part of a module's name."""
    return set(name.rpartition(".")[2].split("_"))
