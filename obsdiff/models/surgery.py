"""Take heads, neurons and channels out of a model: the only code that changes shapes.

A layout says what is left: {"transformer_blocks.1.attn": {"heads": 4}, "transformer_blocks.1.ff": {"neurons": 896}}. It
is all that a pruned checkpoint needs to be opened again: the model is built dense, shrunk to the layout, then filled.

The channels between the two convolutions of a residual block pass a GroupNorm, which takes mean and variance over each of its groups.
So whole norm groups leave: those that stay are normalised as before, and the shrunk model is exactly the masked one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .discovery import find_blocks
from .geometry import HEAD_COUNTS, columns, items, kept_rows, unit_size
from .linear_view import layer_shapes, matrix
from .structure import Group

Layout = dict[str, dict[str, int]]
COUNT_ATTRIBUTES = {  # figures of a module that shrink with its heads or neurons
    "heads": (
        *HEAD_COUNTS,
        "kv_heads",
        "num_kv_heads",
        "num_key_value_heads",
        "inner_dim",
        "inner_kv_dim",
        "kv_inner_dim",
        "sliceable_head_dim",
    ),
    "neurons": ("mlp_hidden_dim",),
}


def shrink_(denoiser: nn.Module, group: Group, kept: list[int]) -> None:
    """Keep only these heads, neurons or norm groups (in this order) of a group, in place."""
    count = items(denoiser, group)
    index = torch.as_tensor(
        kept, dtype=torch.long, device="cpu"
    )  # indices stay here, whatever the default device is
    reads, all_rows = (
        columns(denoiser, group, count),
        {name: kept_rows(denoiser, group, name, count, index) for name in group.producers},
    )
    for name, take in all_rows.items():
        layer = denoiser.get_submodule(name)
        for part in ("weight", "bias"):
            keep_(layer, part, take)
        measure_(layer)
    for name in group.consumers:
        layer = denoiser.get_submodule(name)
        first, last = (
            int(reads[0, 0]),
            int(reads[-1, -1]) + 1,
        )  # what lies around them is of the other kind
        everything = torch.arange(matrix(layer).shape[1], device="cpu")
        take = torch.cat([everything[:first], reads[index].flatten(), everything[last:]])
        keep_(layer, "weight", take, of_columns=True)
        measure_(layer)
    if group.norm:
        norm = denoiser.get_submodule(group.norm)
        take = torch.arange(norm.num_channels, device="cpu").view(count, -1)[index].flatten()
        for part in ("weight", "bias"):
            keep_(norm, part, take)
        norm.num_channels, norm.num_groups = len(take), len(kept)
    recount_(denoiser.get_submodule(group.owner), group.kind, count, len(kept))


def keep_(layer: nn.Module, part: str, take: Tensor, of_columns: bool = False) -> None:
    """Keep only these rows, or these columns of the matrix, of a layer's parameter, if it has that."""
    parameter = getattr(layer, part)
    if parameter is None:
        return
    take, old = take.to(parameter.device), parameter.detach()
    new = old.flatten(1)[:, take].unflatten(1, (-1, *old.shape[2:])) if of_columns else old[take]
    setattr(layer, part, nn.Parameter(new.clone(), requires_grad=parameter.requires_grad))


def measure_(layer: nn.Module) -> None:
    """Figures of a layer's inputs and outputs, as its weight has them now."""
    names = (
        ("out_features", "in_features")
        if isinstance(layer, nn.Linear)
        else ("out_channels", "in_channels")
    )
    for name, size in zip(names, layer.weight.shape, strict=False):
        setattr(layer, name, size)


def recount_(owner: nn.Module, kind: str, before: int, after: int) -> None:
    """An attention's or FFN's own figures of what it has."""
    for name in COUNT_ATTRIBUTES.get(kind, ()):
        figure = getattr(owner, name, None)
        if type(figure) is int and figure % before == 0:
            setattr(owner, name, figure // before * after)


def shrink_to_(denoiser: nn.Module, layout: Mapping[str, Any]) -> None:
    """Give a dense model the shapes of a layout, in place. UserError for a layout that does not fit the model."""
    if not isinstance(layout, Mapping):
        raise UserError(
            f"pruned layout: expected an object of owners, found {type(layout).__name__}"
        )
    groups = {
        (g.owner, g.kind): g
        for block in find_blocks(layer_shapes(denoiser, target_of(layout)))
        for g in block.groups
    }
    for owner, kinds in layout.items():
        if not isinstance(kinds, Mapping):
            raise UserError(
                f"pruned layout: {owner!r}: expected an object such as {{'heads': 4}}, found {kinds!r}"
            )
        for kind, left in kinds.items():
            group = groups.get((owner, kind))
            if group is None:
                raise UserError(
                    f"pruned layout: {type(denoiser).__name__} has no {kind!r} in {owner!r}"
                )
            count, each = items(denoiser, group), unit_size(denoiser, group)
            if type(left) is not int or not 1 <= left <= count * each or left % each:
                steps = f" in steps of {each}" if each > 1 else ""
                raise UserError(
                    f"pruned layout: {owner} has {count * each} {kind}, so {each} to {count * each}{steps} can be left; found {left!r}"
                )
            shrink_(denoiser, group, list(range(left // each)))


def target_of(layout: Mapping[str, Any]) -> str:
    """The target whose layers hold all that a layout speaks of."""
    return (
        "conv"
        if any("channels" in kinds for kinds in layout.values() if isinstance(kinds, Mapping))
        else "linear"
    )
