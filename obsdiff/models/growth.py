"""Put removed heads, neurons and channels back as zeros: the reverse of surgery.py.

What is left of a group returns to its places in the dense model, so that a LoRA made for that one
fits; where the places are unknown, zeros come last. A head of zeros has a value of zero, a neuron
and a channel of zeros are read by columns of zeros: the grown model computes what the pruned one
computes.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin
from torch import Tensor, nn

from .dense_shapes import dense_class, dense_on_meta
from .discovery import find_blocks
from .folded import unfold_
from .geometry import columns, items, norm_of, sections
from .kept_items import forget_kept_
from .layout import layout_of, target_of
from .linear_view import layer_at, layer_shapes
from .low_rank import merge_
from .own_names import MODULE, OWN_SETTINGS
from .structure import Group
from .surgery import shrink_, unchanged_if_interrupted, update_counts_, update_sizes_


def grow_(model: nn.Module) -> nn.Module:
    """Grow a model of a pruned class to its dense shapes: zeros, corrections, folded layers.

    Args:
        model: the model; its class becomes that of diffusers.

    Returns:
        The same model.
    """
    layout = layout_of(model)
    dense = dense_on_meta(model)
    kept = {owner: forget_kept_(model.get_submodule(owner)) for owner in layout}
    for group in groups_of(model, layout):
        total, places = items(dense, group), kept[group.owner].get(group.kind)
        grow_group_(model, group, total)
        if places:
            shrink_(model, group, order_of(places, total))
    for owner in layout:
        forget_kept_(model.get_submodule(owner))
    merge_(model)
    unfold_(model)
    model._modules.pop(MODULE, None)
    model.__class__ = dense_class(model)
    assert isinstance(model, ConfigMixin)
    forget_(model, OWN_SETTINGS)
    return model


def order_of(places: list[int], total: int) -> list[int]:
    """Return the order that puts items at their places, and what comes after them at the others.

    Args:
        places: the place of each of the first items.
        total: the number of all items.
    """
    others = iter(range(len(places), total))
    at = {place: i for i, place in enumerate(places)}
    return [at[i] if i in at else next(others) for i in range(total)]


def groups_of(model: nn.Module, layout: Mapping[str, Mapping[str, int]]) -> list[Group]:
    """Return the groups of a model that its layout names."""
    blocks = find_blocks(layer_shapes(model, target_of(layout)))
    groups = [group for block in blocks for group in block.groups]
    return [group for group in groups if group.kind in layout.get(group.owner, {})]


def grow_group_(model: nn.Module, group: Group, total: int) -> None:
    """Add items of zeros to a group until it has `total`, in place.

    Args:
        model: the model that contains the group's layers.
        group: a group found in it.
        total: heads, neurons or norm groups of the dense model.
    """
    left = items(model, group)
    names = (*group.producers, *group.consumers, group.owner, *filter(None, [group.norm]))
    reads = columns(model, group, left)
    written = {name: sections(model, group, name) for name in group.producers}
    with unchanged_if_interrupted([model.get_submodule(name) for name in names]):
        for name, parts in written.items():
            layer = layer_at(model, name)
            for part in ("weight", "bias"):
                replace_(layer, part, with_rows(getattr(layer, part), parts, group, left, total))
            update_sizes_(layer)
        for name in group.consumers:
            layer = layer_at(model, name)
            end, more = int(reads[-1, -1]) + 1, reads.shape[1] * (total - left)
            replace_(layer, "weight", with_columns(layer.weight, end, more))
            update_sizes_(layer)
        if group.norm:
            grow_norm_(norm_of(model, group), total)
        update_counts_(model.get_submodule(group.owner), group.kind, left, total)


def with_rows(
    old: Tensor | None, parts: list[tuple[str, int]], group: Group, left: int, total: int
) -> Tensor | None:
    """Return a weight or bias with rows of zeros at the end of each section of the group's kind.

    Args:
        old: (O, ...); None stays None.
        parts: kind and number of rows of each section, O in all.
        group: the group.
        left: its items now.
        total: its items afterwards.
    """
    if old is None:
        return None
    grown, first = [], 0
    for kind, size in parts:
        grown.append(old[first : first + size])
        first += size
        if kind == group.kind:
            grown.append(old.new_zeros(size // left * (total - left), *old.shape[1:]))
    return torch.cat(grown)


def with_columns(old: Tensor, end: int, more: int) -> Tensor:
    """Return a weight with columns of zeros: (O, I) or (O, I / (kh kw), kh, kw), as a matrix.

    Args:
        old: the weight.
        end: the column, as a matrix, before which they are put.
        more: how many.
    """
    flat = old.flatten(1)
    zeros = old.new_zeros(len(old), more)
    return torch.cat([flat[:, :end], zeros, flat[:, end:]], 1).unflatten(1, (-1, *old.shape[2:]))


def grow_norm_(norm: nn.GroupNorm, total: int) -> None:
    """Add norm groups whose scale and shift are zero until there are `total`."""
    more = norm.num_channels // norm.num_groups * (total - norm.num_groups)
    for part in ("weight", "bias"):
        old = getattr(norm, part)
        replace_(norm, part, None if old is None else torch.cat([old, old.new_zeros(more)]))
    norm.num_channels, norm.num_groups = norm.num_channels + more, total


def replace_(module: nn.Module, part: str, new: Tensor | None) -> None:
    """Replace a parameter; None stays as it is."""
    if new is not None:
        grad = getattr(module, part).requires_grad
        setattr(module, part, nn.Parameter(new.detach(), requires_grad=grad))


def forget_(model: Any, names: tuple[str, ...]) -> None:
    """Remove settings from a model's config."""
    model._internal_dict = type(model._internal_dict)(
        {key: value for key, value in model._internal_dict.items() if key not in names}
    )
