"""What every group's steps save of a denoising step's time, measured layer by layer on this machine.

Of all groups that cost the same one is timed: the smallest module that holds its layers (an attention, an FFN, a residual block) is called
with what it reads in a real step, dense and with fewer and fewer items, in turn. Medians of rounds at LEVELS, linear in between,
and never less than with fewer steps, since what shrinks does not get slower but for noise.

Layers' times do not add up to the step's exactly. So the table says where items leave; how many is settled by timing whole steps
(allocation/budget.py).

References:
    Kurtic et al., "ZipLM: Inference-Aware Structured Pruning of Language Models", 2023. https://arxiv.org/abs/2302.04089
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise
from statistics import median
from typing import Any

import torch
from torch import nn

from ..config import PruningConfig
from ..models.geometry import items
from ..models.structure import Group
from ..models.surgery import shrink_
from ..runtime.timing import interleaved
from .group_curves import steps_of

Reads = dict[str, tuple[int, ...]]  # layer -> shape of what it reads in one call
TIMED_SIZES = 6  # at so many numbers of items a group is timed, beside the dense one
LAYER_ROUNDS = 9
SHORTEST = 2e-3  # seconds; what is shorter is called several times in a round


def seconds_saved(
    denoiser: nn.Module, groups: list[Group], call: dict[str, Any], config: PruningConfig
) -> tuple[dict[str, list[float]], list[dict[str, Any]]]:
    """Seconds saved after 0, 1, 2 ... steps of each group, by its name, and the table as it was measured: for all groups of a row their `seconds`
    with so many items `left`."""
    found: dict[str, list[float]] = {}
    table = []
    for alike in interchangeable(denoiser, groups, partial(denoiser, **call)):
        group, total = alike[0], items(denoiser, alike[0])
        step, most = steps_of(group, total, config)
        steps = levels(most // step)
        left = [total - step * k for k in steps]
        seconds = timed_sizes(denoiser, group, call, left)
        table.append(
            {
                "groups": [one.name for one in alike],
                "kind": group.kind,
                "left": left,
                "seconds": seconds,
            }
        )
        found |= dict.fromkeys(table[-1]["groups"], between(steps, seconds))
    return found, table


def levels(most: int) -> list[int]:
    """Steps at which a group is timed: none, and up to LEVELS more, evenly, to the most."""
    return sorted({round(most * i / TIMED_SIZES) for i in range(TIMED_SIZES + 1)})


def between(steps: list[int], seconds: list[float]) -> list[float]:
    """Seconds saved at every number of steps, from those at some."""
    saved = list(accumulate((seconds[0] - s for s in seconds), max))
    found = [0.0]
    for i in range(1, len(steps)):
        first, last = steps[i - 1], steps[i]
        found += [
            saved[i - 1] + (saved[i] - saved[i - 1]) * (k - first) / (last - first)
            for k in range(first + 1, last + 1)
        ]
    return found


def timed_sizes(
    denoiser: nn.Module, group: Group, call: dict[str, Any], left: list[int]
) -> list[float]:
    """Median seconds of the module that holds a group's layers, with so many items left."""
    part = part_of(group)
    args, kwargs = recorded_arguments(denoiser, part, call)
    calls = {}
    for count in left:
        alone = apart(denoiser, part)
        shrink_(alone, group, list(range(count)))
        calls[str(count)] = partial(alone.get_submodule(part), *args, **kwargs)
    often = repeats(calls[str(left[0])])
    seconds = interleaved(
        {name: partial(repeated, one, often) for name, one in calls.items()}, LAYER_ROUNDS
    )
    return [median(seconds[str(count)]) / often for count in left]


def part_of(group: Group) -> str:
    """The smallest module that holds all layers of a group and its owner."""
    paths = [name.split(".") for name in (group.owner, *group.producers, *group.consumers)]
    together = []
    for words in zip(*paths, strict=False):
        if len(set(words)) > 1:
            break
        together.append(words[0])
    return ".".join(together)


def recorded_arguments(
    denoiser: nn.Module, part: str, call: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """What a module is called with in a step."""
    found: list[tuple[tuple, dict[str, Any]]] = []
    handle = denoiser.get_submodule(part).register_forward_pre_hook(
        lambda module, args, kwargs: found.append((args, kwargs)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            denoiser(**call)
    finally:
        handle.remove()
    return found[-1]


def apart(denoiser: nn.Module, part: str) -> nn.Module:
    """A copy of one module, at its place in a model that has nothing else."""
    copied = copy.deepcopy(denoiser.get_submodule(part))
    for word in reversed(part.split(".") if part else []):
        above = nn.Module()
        above.add_module(word, copied)
        copied = above
    return copied


def repeats(call: Callable[[], Any]) -> int:
    """How often a call has to be repeated to be timed well."""
    with torch.no_grad():
        call()
        began = time.perf_counter()
        call()
    return max(1, math.ceil(SHORTEST / max(time.perf_counter() - began, 1e-6)))


def repeated(call: Callable[[], Any], often: int) -> None:
    for _ in range(often):
        call()


def interchangeable(
    model: nn.Module, groups: list[Group], call: Callable[[], Any]
) -> list[list[Group]]:
    """Groups that cost the same: of one kind and part, whose layers have the same shapes and read as much in a call."""
    layers = list(
        dict.fromkeys(name for group in groups for name in (*group.producers, *group.consumers))
    )
    with noting(model, layers) as reads, torch.no_grad():
        call()
    found: dict[tuple, list[Group]] = {}
    for group in groups:
        names = (*group.producers, *group.consumers)
        shapes = tuple(
            (tuple(model.get_submodule(name).weight.shape), reads.get(name)) for name in names
        )
        found.setdefault((group.kind, role(group.owner), items(model, group), shapes), []).append(
            group
        )
    return list(found.values())


@contextmanager
def noting(model: nn.Module, layers: list[str]) -> Iterator[Reads]:
    """While it is called, the shapes of what layers read, the last call's if there are several."""
    reads: Reads = {}

    def hook(name: str, module: nn.Module, args: tuple) -> None:
        reads[name] = tuple(args[0].shape)

    handles = [
        model.get_submodule(name).register_forward_pre_hook(partial(hook, name)) for name in layers
    ]
    try:
        yield reads
    finally:
        for handle in handles:
            handle.remove()


def role(owner: str) -> tuple[str, ...]:
    """What an owner is in its block, and the list that its block is in: ("temporal_transformer_blocks", "attn1")."""
    words = owner.split(".")
    lists = [word for word, after in pairwise(words) if after.isdigit()]
    return (*lists[-1:], words[-1])
