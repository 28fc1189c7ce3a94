"""What a denoiser has of parameters, bytes and multiply-accumulates, and how much of it leaves with an item of each group.

All three are linear in the items: a group's layers have fixed widths outside, and what attention computes is the same for every head. So one
item is taken out of a copy on the meta device, which has shapes and no data, and what is missing then is counted:

    parameters  of the layers involved
    bytes       of the stored tensors among them, in the number formats that the model has
    macs        of one whole call of the denoiser, attention's own products included; once for all groups that play the same part
                with the same shapes and as many tokens
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from .architectures import Group
from .errors import UserError
from .meta import macs_or_why_not, on_meta
from .prune_structured import group_name
from .structured_sensitivity import role
from .surgery import items, shrink_

UNITS = {"parameters": "parameters", "macs": "multiply-accumulates", "bytes": "bytes"}
Reads = dict[str, tuple[int, ...]]  # layer -> shape of what it reads in one call


def amount(unit: str, denoiser: nn.Module, inputs: Mapping[str, Any]) -> int:
    """What a denoiser has of a unit; `inputs` are the arguments of one call, of which only shapes are looked at. UserError for operations that can't be
    counted without data."""
    if unit != "macs":
        return size_of(unit, [denoiser])
    found = macs_or_why_not(on_meta_copy(denoiser), dict(inputs))
    if found["total"] is None:
        raise UserError(f"target_macs: expected a denoiser whose operations can be counted; {found['why_not']}; take target_parameters")
    return found["total"]


def of_an_item(unit: str, denoiser: nn.Module, groups: list[Group], inputs: Mapping[str, Any]) -> dict[str, int]:
    """What leaves with one item of each group, by its name; 0 for a group of one item, which stays."""
    model = on_meta_copy(denoiser)
    if unit == "macs":
        return macs_of_an_item(model, groups, inputs)
    found = {}
    for group in groups:
        layers = [model.get_submodule(name) for name in (*group.producers, *group.consumers, *filter(None, [group.norm]))]
        before, count = size_of(unit, layers), items(model, group)
        if count > 1:
            shrink_(model, group, list(range(count - 1)))
        found[group_name(group)] = before - size_of(unit, layers)
    return found


def macs_of_an_item(model: nn.Module, groups: list[Group], inputs: Mapping[str, Any]) -> dict[str, int]:
    """Of a model on the meta device."""
    dense = amount("macs", model, inputs)
    found: dict[str, int] = {}
    for alike in same(model, groups, partial(model, **on_meta(inputs))):
        count = items(model, alike[0])
        smaller = on_meta_copy(model)
        shrink_(smaller, alike[0], list(range(max(1, count - 1))))
        saved = dense - amount("macs", smaller, inputs)
        found |= dict.fromkeys(map(group_name, alike), saved)
    return found


def size_of(unit: str, modules: Iterable[nn.Module]) -> int:
    """Parameters of modules, or bytes of what is stored of them."""
    if unit == "parameters":
        return sum(p.numel() for module in modules for p in module.parameters())
    return sum(t.numel() * t.element_size() for module in modules for t in module.state_dict().values())


def on_meta_copy(model: nn.Module) -> nn.Module:
    """The same module with shapes and number formats, and no data."""
    memo: dict[int, Any] = {}
    for p in model.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def same(model: nn.Module, groups: list[Group], call: Callable[[], Any]) -> list[list[Group]]:
    """Groups that cost the same: of one kind and part, whose layers have the same shapes and read as much in a call."""
    layers = list(dict.fromkeys(name for group in groups for name in (*group.producers, *group.consumers)))
    with noting(model, layers) as reads, torch.no_grad():
        call()
    found: dict[tuple, list[Group]] = {}
    for group in groups:
        names = (*group.producers, *group.consumers)
        shapes = tuple((tuple(model.get_submodule(name).weight.shape), reads.get(name)) for name in names)
        found.setdefault((group.kind, role(group.owner), items(model, group), shapes), []).append(group)
    return list(found.values())


@contextmanager
def noting(model: nn.Module, layers: list[str]) -> Iterator[Reads]:
    """While it is called, the shapes of what layers read, the last call's if there are several."""
    reads: Reads = {}

    def hook(name: str, module: nn.Module, args: tuple) -> None:
        reads[name] = tuple(args[0].shape)

    handles = [model.get_submodule(name).register_forward_pre_hook(partial(hook, name)) for name in layers]
    try:
        yield reads
    finally:
        for handle in handles:
            handle.remove()
