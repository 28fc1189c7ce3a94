"""Which rows and columns of a layer belong to a head, a neuron or a norm group."""

import torch
from torch import Tensor, nn

from .linear_view import matrix
from .structure import Group

HEAD_COUNTS = (
    "heads",
    "num_heads",
    "num_attention_heads",
    "n_heads",
)  # what attention modules call the number of their query heads


def items(denoiser: nn.Module, group: Group) -> int:
    """How many heads, neurons or norm groups of channels a group has now. Query heads that share a key head leave together, and
    count as one."""
    if group.kind == "neurons":
        return reads_of(denoiser, group)
    if group.kind == "channels":
        return denoiser.get_submodule(group.norm).num_groups
    width = reads_of(denoiser, group) // head_count(denoiser.get_submodule(group.owner))
    return min(
        size // width
        for name in group.producers
        for kind, size in sections(denoiser, group, name)
        if kind == "heads"
    )


def unit_size(denoiser: nn.Module, group: Group) -> int:
    """How many channels one norm group has; heads and neurons are counted one by one."""
    return reads_of(denoiser, group) // items(denoiser, group) if group.kind == "channels" else 1


def head_count(attention: nn.Module) -> int:
    """An attention module's own count of its query heads."""
    return next(getattr(attention, name) for name in HEAD_COUNTS if hasattr(attention, name))


def reads_of(denoiser: nn.Module, group: Group) -> int:
    """How many columns of its consumers are of the group's kind."""
    consumer, producer = (
        denoiser.get_submodule(names[0]) for names in (group.consumers, group.producers)
    )
    if group.kind == "channels":
        return consumer.in_channels
    if group.beside:
        return consumer.in_features - denoiser.get_submodule(group.beside[0]).out_features
    if group.rows:  # out = a D + b N, in = D + N
        a, b = (group.rows[0].count(kind) for kind in ("heads", "neurons"))
        columns_of_heads = (producer.out_features - b * consumer.in_features) // (a - b)
        return (
            columns_of_heads if group.kind == "heads" else consumer.in_features - columns_of_heads
        )
    return (
        min(consumer.in_features, producer.out_features)
        if group.kind == "heads"
        else consumer.in_features
    )


def sections(denoiser: nn.Module, group: Group, producer: str) -> list[tuple[str, int]]:
    """Kind and number of a producer's consecutive rows: q, k and v, or gate and up, may be one layer."""
    out, mine = len(denoiser.get_submodule(producer).weight), reads_of(denoiser, group)
    if not group.rows:
        count = max(
            1, out // mine
        )  # fewer rows than columns: keys and values of grouped-query attention
        return [(group.kind, out // count)] * count
    other = denoiser.get_submodule(group.consumers[0]).in_features - mine
    return [
        (kind, mine if kind == group.kind else other)
        for kind in group.rows[group.producers.index(producer)]
    ]


def columns(denoiser: nn.Module, group: Group, count: int) -> Tensor:
    """Columns (count, D) of a consumer that belong to each head, neuron or norm group: heads come first, neurons last."""
    consumer = denoiser.get_submodule(group.consumers[0])
    mine = (
        reads_of(denoiser, group) * consumer.weight[0, 0].numel()
    )  # a channel has a column for each position of the kernel
    first = matrix(consumer).shape[1] - mine if group.kind == "neurons" else 0
    return torch.arange(first, first + mine, device="cpu").view(count, -1)


def rows(denoiser: nn.Module, group: Group, producer: str, count: int) -> Tensor:
    """Rows (count, R) of a producer that belong to each head, neuron or norm group: a gated neuron has one in each half."""
    first, found = 0, []
    for kind, size in sections(denoiser, group, producer):
        if kind == group.kind:
            found.append(torch.arange(first, first + size, device="cpu").view(count, -1))
        first += size
    return torch.cat(found, 1)


def kept_rows(denoiser: nn.Module, group: Group, producer: str, count: int, kept: Tensor) -> Tensor:
    """All rows of a producer that stay, section by section."""
    first, stay = 0, []
    for kind, size in sections(denoiser, group, producer):
        section = torch.arange(first, first + size, device="cpu")
        stay.append(section.view(count, -1)[kept].flatten() if kind == group.kind else section)
        first += size
    return torch.cat(stay)
