"""Take heads, neurons and channels out of a model: the only code that changes shapes.

A layout says what is left: {"transformer_blocks.1.attn": {"heads": 4}, "transformer_blocks.1.ff": {"neurons": 896}}. It
is all that a pruned checkpoint needs to be opened again: the model is built dense, shrunk to the layout, then filled.

The channels between the two convolutions of a residual block pass a GroupNorm, which takes mean and variance over each of its groups.
So whole norm groups leave: those that stay are normalised as before, and the shrunk model is exactly the masked one.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .architectures import Group, find_blocks
from .errors import UserError
from .unfolding import matrix
from .unfolding import refusal as not_unfolded

Layout = dict[str, dict[str, int]]

HEADS = (
    "heads",
    "num_heads",
    "num_attention_heads",
    "n_heads",
)  # what attention modules call the number of their query heads
COUNTS = {  # figures of a module that shrink with its heads or neurons
    "heads": (
        *HEADS,
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
# attention processors for which all heads must be there: with at most so many output projections, and why
FIXED = {
    "EasyAnimateAttnProcessor2_0": (
        1,
        "the text gets the heads themselves, past the output projection",
    ),
    "MochiAttnProcessor2_0": (
        2,
        "every head has rotary frequencies of its own, which all blocks share",
    ),
    "OmniGenAttnProcessor2_0": (1, "its processor wants as many channels of heads as of outputs"),
}


def layer_shapes(denoiser: nn.Module, target: str = "linear") -> dict[str, tuple[int, int]]:
    """Name and weight shape (O, I) of every Linear of a module, in registration order; for target conv of every Conv2d, too, by the
    shape of its weight as a matrix, (O, C kh kw)."""
    kinds = (nn.Linear, nn.Conv2d) if target == "conv" else nn.Linear
    return {
        name: tuple(matrix(module).shape)
        for name, module in denoiser.named_modules()
        if isinstance(module, kinds)
    }


def items(denoiser: nn.Module, group: Group) -> int:
    """How many heads, neurons or norm groups of channels a group has now. Query heads that share a key head leave together, and
    count as one."""
    if group.kind == "neurons":
        return reads_of(denoiser, group)
    if group.kind == "channels":
        return denoiser.get_submodule(group.norm).num_groups
    width = reads_of(denoiser, group) // heads(denoiser.get_submodule(group.owner))
    return min(
        size // width
        for name in group.producers
        for kind, size in sections(denoiser, group, name)
        if kind == "heads"
    )


def unit(denoiser: nn.Module, group: Group) -> int:
    """How many channels one norm group has; heads and neurons are counted one by one."""
    return reads_of(denoiser, group) // items(denoiser, group) if group.kind == "channels" else 1


def heads(attention: nn.Module) -> int:
    """An attention module's own count of its query heads."""
    return next(getattr(attention, name) for name in HEADS if hasattr(attention, name))


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
    for name in COUNTS.get(kind, ()):
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
            count, each = items(denoiser, group), unit(denoiser, group)
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


def refusal(denoiser: nn.Module, group: Group) -> str | None:
    """Why this group can't be pruned exactly, or None: a norm over all heads, or all neurons, sees those that left."""
    if group.kind == "channels":
        return refusal_of_channels(denoiser, group)
    owner = denoiser.get_submodule(group.owner)
    if group.refused:
        return f"{group.owner}: {group.refused}"
    processor = type(getattr(owner, "processor", None)).__name__
    if group.kind == "heads" and processor in FIXED and len(group.consumers) <= FIXED[processor][0]:
        return f"{group.owner}: {FIXED[processor][1]}"
    count = items(denoiser, group)
    widths = {
        size
        for name in group.producers
        for kind, size in sections(denoiser, group, name)
        if kind == group.kind
    }
    for name, norm in owner.named_modules():
        if (
            "norm" in type(norm).__name__.lower()
            and count > 1
            and normalised(norm) in widths
            and (group.kind == "neurons" or is_of_heads(name))
        ):
            return f"{group.owner}.{name} normalises all {count} {group.kind} together"
    return None


def refusal_of_channels(denoiser: nn.Module, group: Group) -> str | None:
    """The same for a residual block: what is between its convolutions must be a plain GroupNorm."""
    norm = getattr(denoiser.get_submodule(group.owner), group.norm.rpartition(".")[2], None)
    if not isinstance(norm, nn.GroupNorm):
        return f"{group.norm} is a {type(norm).__name__}, not a GroupNorm"
    reasons = {
        name: not_unfolded(denoiser.get_submodule(name))
        for name in (*group.producers, *group.consumers)
    }
    return next((f"{name}: {reason}" for name, reason in reasons.items() if reason), None)


def normalised(norm: nn.Module) -> int | None:
    """How many channels a norm takes together."""
    weight = getattr(norm, "weight", getattr(norm, "gamma", None))
    shape = getattr(norm, "normalized_shape", None) or getattr(norm, "dim", None)
    if weight is not None:
        return weight.numel()
    return math.prod(shape) if isinstance(shape, tuple | list | torch.Size) else shape


def is_of_heads(name: str) -> bool:
    """Whether a norm's name says that it is of queries, keys or values, not of what they are made from."""
    words = set(name.rpartition(".")[2].split("_"))
    return bool({"q", "k", "v", "query", "key", "value"} & words) and "pre" not in words
