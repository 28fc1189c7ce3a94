"""Remove heads, neurons and channels from a model: the only code that changes shapes.

The channels between the two convolutions of a residual block pass a GroupNorm, which computes mean
and variance over each of its norm groups. Pruning therefore removes whole norm groups: the others
are normalised as before, and the shrunk model equals the masked one exactly.

O outputs, I inputs, kh x kw kernel, K items that remain.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .block_table import COUNT_ATTRIBUTES
from .geometry import columns, items, kept_rows, norm_of
from .kept_items import record_kept_
from .linear_view import Layer, layer_at, matrix
from .structure import Group


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
        record_kept_(denoiser.get_submodule(group.owner), group.kind, kept)


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
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
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
