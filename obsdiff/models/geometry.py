"""The rows and columns of a layer that belong to a head, a neuron or a norm group.

An item is what pruning removes as a whole: a head, a neuron, or a norm group of channels. Query
heads that share a key head count as one item.

D columns of an item in each consumer, R rows of an item in a producer.
"""

import torch
from torch import Tensor, nn

from .block_table import HEAD_COUNTS
from .linear_view import layer_at, matrix
from .structure import Group


def items(denoiser: nn.Module, group: Group) -> int:
    """Count the heads, neurons or norm groups that a group has now.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group found in it.

    Returns:
        The number of items; query heads that share a key head count as one.
    """
    if group.kind == "neurons":
        return reads_of(denoiser, group)
    if group.kind == "channels":
        return norm_of(denoiser, group).num_groups
    width = reads_of(denoiser, group) // head_count(denoiser.get_submodule(group.owner))
    return min(
        size // width
        for name in group.producers
        for kind, size in sections(denoiser, group, name)
        if kind == "heads"
    )


def unit_size(denoiser: nn.Module, group: Group) -> int:
    """Count the channels of one norm group.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group found in it.

    Returns:
        Channels an item; 1 for heads and neurons, which are counted one by one.
    """
    return reads_of(denoiser, group) // items(denoiser, group) if group.kind == "channels" else 1


def head_count(attention: nn.Module) -> int:
    """Return the number of query heads that an attention module stores."""
    return next(getattr(attention, name) for name in HEAD_COUNTS if hasattr(attention, name))


def norm_of(denoiser: nn.Module, group: Group) -> nn.GroupNorm:
    """Return the GroupNorm between a channel group's producers and consumers."""
    norm = denoiser.get_submodule(group.norm)
    assert isinstance(norm, nn.GroupNorm), f"{group.norm}: {type(norm).__name__}"
    return norm


def inputs_of(denoiser: nn.Module, name: str) -> int:
    """Return the inputs of a layer: features of a linear layer, channels of a convolution."""
    layer = layer_at(denoiser, name)
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def outputs_of(denoiser: nn.Module, name: str) -> int:
    """Return the outputs of a layer: features of a linear layer, channels of a convolution."""
    layer = layer_at(denoiser, name)
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def reads_of(denoiser: nn.Module, group: Group) -> int:
    """Count the inputs of its consumers that are of the group's kind."""
    inputs = inputs_of(denoiser, group.consumers[0])
    outputs = outputs_of(denoiser, group.producers[0])
    if group.kind == "channels":
        return inputs
    if group.beside:
        return inputs - outputs_of(denoiser, group.beside[0])
    if group.rows:  # outputs = a H + b N, inputs = H + N; H of the heads, N of the neurons
        a, b = (group.rows[0].count(kind) for kind in ("heads", "neurons"))
        of_heads = (outputs - b * inputs) // (a - b)
        return of_heads if group.kind == "heads" else inputs - of_heads
    return min(inputs, outputs) if group.kind == "heads" else inputs


def sections(denoiser: nn.Module, group: Group, producer: str) -> list[tuple[str, int]]:
    """List the consecutive sections of a producer's rows.

    One layer may contain q, k and v, or gate and up.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group found in it.
        producer: one of the group's producers.

    Returns:
        Kind ("heads", "neurons" or "channels") and number of rows of each section.
    """
    out, mine = outputs_of(denoiser, producer), reads_of(denoiser, group)
    if not group.rows:
        # keys and values of grouped-query attention have fewer rows than the consumer has columns
        count = max(1, out // mine)
        return [(group.kind, out // count)] * count
    other = inputs_of(denoiser, group.consumers[0]) - mine
    return [
        (kind, mine if kind == group.kind else other)
        for kind in group.rows[group.producers.index(producer)]
    ]


def columns(denoiser: nn.Module, group: Group, count: int) -> Tensor:
    """Return the columns of each item in a consumer: heads come first, neurons last.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group found in it.
        count: the number of items.

    Returns:
        Column indices (count, D) on the CPU; a channel has one for each position of the kernel.
    """
    consumer = layer_at(denoiser, group.consumers[0])
    mine = reads_of(denoiser, group) * consumer.weight[0, 0].numel()
    first = matrix(consumer).shape[1] - mine if group.kind == "neurons" else 0
    return torch.arange(first, first + mine, device="cpu").view(count, -1)


def rows(denoiser: nn.Module, group: Group, producer: str, count: int) -> Tensor:
    """Return the rows of each item in a producer: a gated neuron has one in each half.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group found in it.
        producer: one of the group's producers.
        count: the number of items.

    Returns:
        Row indices (count, R) on the CPU.
    """
    first, found = 0, []
    for kind, size in sections(denoiser, group, producer):
        if kind == group.kind:
            found.append(torch.arange(first, first + size, device="cpu").view(count, -1))
        first += size
    return torch.cat(found, 1)


def kept_rows(denoiser: nn.Module, group: Group, producer: str, count: int, kept: Tensor) -> Tensor:
    """Return all rows of a producer that remain, section by section.

    Args:
        denoiser: the model that contains the group's layers.
        group: a group found in it.
        producer: one of the group's producers.
        count: the number of items.
        kept: indices (K,) of the items that remain, on the CPU.

    Returns:
        Row indices on the CPU, one dimension; sections of another kind remain whole.
    """
    first, remaining = 0, []
    for kind, size in sections(denoiser, group, producer):
        section = torch.arange(first, first + size, device="cpu")
        remaining.append(section.view(count, -1)[kept].flatten() if kind == group.kind else section)
        first += size
    return torch.cat(remaining)
