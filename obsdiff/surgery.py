"""Take heads and neurons out of a model: the only code that changes shapes.

A layout says what is left: {"transformer_blocks.1.attn": {"heads": 4}, "transformer_blocks.1.ff": {"neurons": 896}}. It
is all that a pruned checkpoint needs to be opened again: the model is built dense, shrunk to the layout, then filled.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .architectures import Group, find_blocks
from .errors import UserError

Layout = dict[str, dict[str, int]]


def linear_shapes(denoiser: nn.Module) -> dict[str, tuple[int, int]]:
    """Name and weight shape (O, I) of every Linear of a module, in registration order."""
    return {name: tuple(module.weight.shape) for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)}


def items(denoiser: nn.Module, group: Group) -> int:
    """How many heads or neurons a group has now."""
    if group.kind == "heads":
        return denoiser.get_submodule(group.owner).heads
    producer, consumer = (denoiser.get_submodule(names[0]) for names in (group.producers, group.consumers))
    return producer.out_features // 2 if gated(producer, consumer) else producer.out_features


def gated(producer: nn.Linear, consumer: nn.Linear) -> bool:
    """Whether an FFN's up projection gives two rows for each neuron (GEGLU, SwiGLU): twice what its consumer reads."""
    return producer.out_features == 2 * consumer.in_features


def columns(denoiser: nn.Module, group: Group, count: int) -> Tensor:
    """Columns (count, D) of a consumer that belong to each head or neuron: heads come first, neurons last."""
    consumer = denoiser.get_submodule(group.consumers[0])
    if group.kind == "neurons":
        return torch.arange(consumer.in_features - count, consumer.in_features, device="cpu").unsqueeze(1)
    width = denoiser.get_submodule(group.producers[0]).out_features // count
    return torch.arange(count * width, device="cpu").view(count, width)


def rows(denoiser: nn.Module, group: Group, producer: str, count: int) -> Tensor:
    """Rows (count, R) of a producer that belong to each head or neuron; a gated FFN has rows i and N + i."""
    layer = denoiser.get_submodule(producer)
    if group.kind == "neurons" and gated(layer, denoiser.get_submodule(group.consumers[0])):
        return torch.arange(2 * count, device="cpu").view(2, count).T
    width = layer.out_features // count
    return torch.arange(count * width, device="cpu").view(count, width)


def shrink_(denoiser: nn.Module, group: Group, kept: list[int]) -> None:
    """Keep only these heads or neurons (in this order) of a group, in place."""
    count = items(denoiser, group)
    index = torch.as_tensor(kept, dtype=torch.long, device="cpu")  # indices stay here, whatever the default device is
    reads, all_rows = columns(denoiser, group, count), {name: rows(denoiser, group, name, count) for name in group.producers}
    for name, wanted in all_rows.items():
        layer = denoiser.get_submodule(name)
        take = wanted[index].T.flatten() if wanted.shape[1] == 2 and group.kind == "neurons" else wanted[index].flatten()
        layer.weight = nn.Parameter(layer.weight.detach()[take.to(layer.weight.device)].clone(), requires_grad=layer.weight.requires_grad)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.detach()[take.to(layer.bias.device)].clone(), requires_grad=layer.bias.requires_grad)
        layer.out_features = len(take)
    for name in group.consumers:
        layer = denoiser.get_submodule(name)
        read = set(reads.flatten().tolist())
        others = [i for i in range(layer.in_features) if i not in read]  # FLUX's single blocks: the columns of the other kind
        stay = torch.as_tensor(others, dtype=torch.long, device="cpu")
        mine = reads[index].flatten()
        take = torch.cat([mine, stay] if group.kind == "heads" else [stay, mine])
        layer.weight = nn.Parameter(layer.weight.detach()[:, take.to(layer.weight.device)].clone(), requires_grad=layer.weight.requires_grad)
        layer.in_features = len(take)
    if group.kind == "heads":
        recount_heads_(denoiser.get_submodule(group.owner), len(kept), reads.shape[1])


def recount_heads_(attention: nn.Module, heads: int, width: int) -> None:
    """The attention module's own figures of its heads."""
    attention.heads = heads
    for name in ("inner_dim", "inner_kv_dim"):
        if hasattr(attention, name):
            setattr(attention, name, heads * width)
    if hasattr(attention, "sliceable_head_dim"):
        attention.sliceable_head_dim = heads


def shrink_to_(denoiser: nn.Module, layout: Mapping[str, Any]) -> None:
    """Give a dense model the shapes of a layout, in place. UserError for a layout that does not fit the model."""
    groups = {(g.owner, g.kind): g for block in find_blocks(linear_shapes(denoiser)) for g in block.groups}
    if not isinstance(layout, Mapping):
        raise UserError(f"pruned layout: expected an object of owners, found {type(layout).__name__}")
    for owner, kinds in layout.items():
        if not isinstance(kinds, Mapping):
            raise UserError(f"pruned layout: {owner!r}: expected an object such as {{'heads': 4}}, found {kinds!r}")
        for kind, left in kinds.items():
            group = groups.get((owner, kind))
            if group is None:
                raise UserError(f"pruned layout: {type(denoiser).__name__} has no {kind!r} in {owner!r}")
            count = items(denoiser, group)
            if type(left) is not int or not 1 <= left <= count:
                raise UserError(f"pruned layout: {owner} has {count} {kind}, so 1 to {count} can be left; found {left!r}")
            shrink_(denoiser, group, list(range(left)))


def refusal(denoiser: nn.Module, group: Group) -> str | None:
    """Why this group can't be pruned exactly, or None: a norm over all heads sees the heads that left."""
    if group.kind != "heads":
        return None
    attention = denoiser.get_submodule(group.owner)
    count = attention.heads
    width = denoiser.get_submodule(group.producers[0]).out_features
    for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        norm = getattr(attention, name, None)
        weight = getattr(norm, "weight", None)
        if weight is not None and weight.numel() == width and count > 1:
            return f"{group.owner}.{name} normalises all {count} heads together"
    return None
