"""Remove heads, neurons and channels from a model: the only code that changes shapes.

A layout states the counts that remain, such as {"transformer_blocks.1.attn": {"heads": 4},
"transformer_blocks.1.ff": {"neurons": 896}}. A pruned checkpoint needs no more to be opened: the
model is built dense, shrunk to the layout, then filled.

The channels between the two convolutions of a residual block pass a GroupNorm, which computes mean
and variance over each of its norm groups. Pruning therefore removes whole norm groups: the others
are normalised as before, and the shrunk model equals the masked one exactly.

O outputs, I inputs, kh x kw kernel, K items that remain.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .block_table import COUNT_ATTRIBUTES
from .discovery import find_blocks
from .geometry import columns, items, kept_rows, norm_of, unit_size
from .linear_view import Layer, layer_at, layer_shapes, matrix
from .structure import Group

Layout = dict[str, dict[str, int]]  # owner -> kind -> heads, neurons or channels that remain


def shrink_(denoiser: nn.Module, group: Group, kept: list[int]) -> None:
    """Remove all other heads, neurons or norm groups of a group, in place.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group found in it.
        kept: indices of the K items that remain, in their new order.
    """
    count = items(denoiser, group)
    # indices stay on the CPU, whatever the default device is
    index = torch.as_tensor(kept, dtype=torch.long, device="cpu")
    reads = columns(denoiser, group, count)
    with unchanged_if_interrupted(shrinking(denoiser, group)):
        shrink_all_(denoiser, group, count, reads, index)


def shrink_all_(
    denoiser: nn.Module, group: Group, count: int, reads: Tensor, index: Tensor
) -> None:
    """Shrink every layer of a group to the items of `index` (K,), in place.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group found in it.
        count: its items now.
        reads: columns (items, D) of each item in a consumer.
        index: indices of the items that remain.
    """
    rows = {name: kept_rows(denoiser, group, name, count, index) for name in group.producers}
    for name, take in rows.items():
        layer = layer_at(denoiser, name)
        keep_(layer, "weight", take)
        keep_(layer, "bias", take)
        update_sizes_(layer)
    for name in group.consumers:
        layer = layer_at(denoiser, name)
        keep_(layer, "weight", kept_columns(layer, reads, index), of_columns=True)
        update_sizes_(layer)
    if group.norm:
        shrink_norm_(norm_of(denoiser, group), index)
    update_counts_(denoiser.get_submodule(group.owner), group.kind, count, len(index))


def shrinking(denoiser: nn.Module, group: Group) -> list[nn.Module]:
    """Return the modules that change if a group shrinks: its layers, its norm, its owner."""
    names = (*group.producers, *group.consumers, group.owner, *filter(None, [group.norm]))
    return [denoiser.get_submodule(name) for name in names]


@contextlib.contextmanager
def unchanged_if_interrupted(modules: list[nn.Module]) -> Iterator[None]:
    """Restore the parameters and attributes of some modules if the block raises."""
    before = [(module, dict(vars(module)), dict(module._parameters)) for module in modules]
    try:
        yield
    except BaseException:
        for module, attributes, parameters in before:
            vars(module).update(attributes)
            module._parameters.update(parameters)
        raise


def kept_columns(layer: Layer, reads: Tensor, kept: Tensor) -> Tensor:
    """Return the columns of a consumer that remain; columns of another kind remain in place.

    Args:
        layer: the consumer, with a weight of I columns as a matrix.
        reads: columns (items, D) of each item, consecutive.
        kept: indices (K,) of the items that remain.

    Returns:
        Column indices (I - D (items - K),).
    """
    first, last = int(reads[0, 0]), int(reads[-1, -1]) + 1
    everything = torch.arange(matrix(layer).shape[1], device="cpu")
    return torch.cat([everything[:first], reads[kept].flatten(), everything[last:]])


def shrink_norm_(norm: nn.GroupNorm, kept: Tensor) -> None:
    """Keep only these norm groups (K,) of a GroupNorm, with the parameters of their channels."""
    channels = torch.arange(norm.num_channels, device="cpu").view(norm.num_groups, -1)
    take = channels[kept].flatten()
    keep_(norm, "weight", take)
    keep_(norm, "bias", take)
    norm.num_channels, norm.num_groups = len(take), len(kept)


def keep_(module: nn.Module, part: str, take: Tensor, of_columns: bool = False) -> None:
    """Replace a parameter by some of its rows, or some columns of it as a matrix.

    Args:
        module: the module that owns the parameter.
        part: its name, "weight" or "bias"; nothing happens if it is None.
        take: indices (K,) of the rows or columns that remain, in their new order.
        of_columns: a weight (O, I) or (O, I / (kh kw), kh, kw) becomes (O, K) or
            (O, K / (kh kw), kh, kw); otherwise the first dimension of the parameter becomes K.
    """
    parameter = getattr(module, part)
    if parameter is None:
        return
    take, old = take.to(parameter.device), parameter.detach()
    new = old.flatten(1)[:, take].unflatten(1, (-1, *old.shape[2:])) if of_columns else old[take]
    setattr(module, part, nn.Parameter(new.clone(), requires_grad=parameter.requires_grad))


def sharing_weights(model: nn.Module) -> nn.Module:
    """Return a copy of a model that shares all its weights and buffers.

    What `shrink_` takes out of the copy is new, so the model stays as it is, and memory holds one
    model and the layers that have shrunk.
    """
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def update_sizes_(layer: Layer) -> None:
    """Set a layer's own numbers of outputs and inputs to those of its weight (O, I, ...)."""
    outputs, inputs = layer.weight.shape[:2]
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = outputs, inputs
    else:
        layer.out_channels, layer.in_channels = outputs, inputs


def update_counts_(owner: nn.Module, kind: str, before: int, after: int) -> None:
    """Scale an attention's or FFN's own counts from `before` items to `after`."""
    for name in COUNT_ATTRIBUTES.get(kind, ()):
        count = getattr(owner, name, None)
        if type(count) is int and count % before == 0:
            setattr(owner, name, count // before * after)


def shrink_to_(denoiser: nn.Module, layout: Mapping[str, Any]) -> None:
    """Shrink a dense model to the shapes of a layout, in place.

    Args:
        denoiser: the dense model.
        layout: owner -> kind -> count that remains; checked, since it comes from a config.json.

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
        for kind, left in kinds.items():
            if (owner, kind) not in groups:
                raise UserError(
                    f"pruned layout: {type(denoiser).__name__} has no {kind!r} in {owner!r}"
                )
            shrink_to_count_(denoiser, groups[owner, kind], left)


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
    """Return the layout in a model's config; empty for a dense model."""
    config = model.config
    assert isinstance(config, Mapping)  # nn.Module types its attributes as Tensor | Module
    return {owner: dict(kinds) for owner, kinds in (config.get("pruned_layout") or {}).items()}


def target_of(layout: Mapping[str, Any]) -> str:
    """Return the target, "linear" or "conv", whose layers include all that a layout names."""
    kinds = [found for found in layout.values() if isinstance(found, Mapping)]
    return "conv" if any("channels" in found for found in kinds) else "linear"
