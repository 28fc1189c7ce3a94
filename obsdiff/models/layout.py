"""The layout of a pruned model: how many heads, neurons and channels remain, and which.

A layout states the counts, such as {"transformer_blocks.1.attn": {"heads": 4},
"transformer_blocks.1.ff": {"neurons": 896}}. A pruned checkpoint needs no more to be opened: the
model is built dense, shrunk to the layout, then filled. Beside each count a config.json states
which ones remain, such as "heads_kept": "0-2,4"; those of older versions do not.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import UserError
from .discovery import find_blocks
from .geometry import items, unit_size
from .kept_items import SUFFIX, Kept, as_ranges, items_of, kept_by, set_kept_
from .linear_view import layer_shapes
from .structure import Group
from .surgery import shrink_

Layout = dict[str, dict[str, int]]  # owner -> kind -> heads, neurons or channels that remain


def shrink_to_(denoiser: nn.Module, layout: Mapping[str, Any]) -> None:
    """Shrink a dense model to the shapes of a layout, in place.

    Args:
        denoiser: the dense model.
        layout: owner -> kind -> count that remains, and perhaps kind + "_kept" -> which ones;
            checked, since it comes from a config.json.

    Raises:
        UserError: the layout does not fit the model.
    """
    if not isinstance(layout, Mapping):
        raise UserError(
            f"pruned layout: expected an object of owners, found {type(layout).__name__}"
        )
    blocks = find_blocks(layer_shapes(denoiser, target_of(layout)))
    groups = {(g.owner, g.kind): g for block in blocks for g in block.groups}
    for owner, kinds in layout.items():
        if not isinstance(kinds, Mapping):
            raise UserError(
                f"pruned layout: {owner!r}: expected an object such as {{'heads': 4}}, "
                f"found {kinds!r}"
            )
        for kind in counted(kinds):
            if (owner, kind) not in groups:
                raise UserError(
                    f"pruned layout: {type(denoiser).__name__} has no {kind!r} in {owner!r}"
                )
            group = groups[owner, kind]
            total = items(denoiser, group)
            shrink_to_count_(denoiser, group, kinds[kind])
            kept = stated_items(denoiser, group, kinds, total)
            set_kept_(denoiser.get_submodule(owner), kind, kept)


def counted(kinds: Mapping[str, Any]) -> list[str]:
    """Return the kinds of an owner's entry in a layout, without those of "heads_kept" and its kin.

    A "heads_kept" without "heads" is returned as it is: no group is of that kind.
    """
    return [k for k in kinds if not (k.endswith(SUFFIX) and k.removesuffix(SUFFIX) in kinds)]


def stated_items(denoiser: nn.Module, group: Group, kinds: Mapping[str, Any], total: int) -> Kept:
    """Return the items that an owner's entry in a layout names; None if it states only the count.

    Args:
        denoiser: the model, shrunk to the count.
        group: the group.
        kinds: the owner's entry.
        total: its heads, neurons or norm groups before.

    Raises:
        UserError: they are no items of the group, or not as many as the count.
    """
    name = f"{group.kind}{SUFFIX}"
    if name not in kinds:
        return None
    each = unit_size(denoiser, group)
    try:
        found = items_of(kinds[name], kinds[group.kind], total * each)
        whole = [item // each for item in found[::each]]
        if found != [item * each + j for item in whole for j in range(each)]:
            raise ValueError(f"expected whole norm groups of {each} channels")
    except ValueError as error:
        raise UserError(f"pruned layout: {name} of {group.owner}: {error}") from None
    return whole


def shrink_to_count_(denoiser: nn.Module, group: Group, left: Any) -> None:
    """Keep the first `left` heads, neurons or channels of a group; UserError for another value."""
    count, each = items(denoiser, group), unit_size(denoiser, group)
    if type(left) is not int or not 1 <= left <= count * each or left % each:
        steps = f" in steps of {each}" if each > 1 else ""
        raise UserError(
            f"pruned layout: {group.owner} has {count * each} {group.kind}, so {each} to "
            f"{count * each}{steps} can be left; found {left!r}"
        )
    shrink_(denoiser, group, list(range(left // each)))


def layout_of(model: nn.Module) -> Layout:
    """Return the counts of the layout in a model's config; empty for a dense model."""
    config = model.config
    assert isinstance(config, Mapping)  # nn.Module types its attributes as Tensor | Module
    layout = config.get("pruned_layout") or {}
    return {
        owner: {kind: kinds[kind] for kind in counted(kinds)} for owner, kinds in layout.items()
    }


def with_kept(model: nn.Module, layout: Layout) -> dict[str, dict[str, Any]]:
    """Return a layout that also states which heads, neurons and channels remain, where known.

    Args:
        model: the shrunk model.
        layout: its counts.
    """
    stated: dict[str, dict[str, Any]] = {}
    for owner, kinds in layout.items():
        kept = kept_by(model.get_submodule(owner))
        stated[owner] = dict(kinds)
        for kind, left in kinds.items():
            if found := kept.get(kind):
                each = left // len(found)
                names = [item * each + j for item in found for j in range(each)]
                stated[owner][f"{kind}{SUFFIX}"] = as_ranges(names)
    return stated


def target_of(layout: Mapping[str, Any]) -> str:
    """Return the target, "linear" or "conv", whose layers include all that a layout names."""
    kinds = [found for found in layout.values() if isinstance(found, Mapping)]
    return "conv" if any("channels" in found for found in kinds) else "linear"
