"""The time that the steps of every group save, measured module by module on this machine.

One of all groups of equal cost is timed: the smallest module that holds its layers (an attention,
an FFN, a residual block) is called with its arguments of a real step, dense and with fewer and
fewer items, in turn. Medians of rounds at TIMED_SIZES, linear in between; a saving never falls as
items are removed, since a smaller module is slower only by noise.

The times of modules do not add up to the step's exactly. So the table decides which groups lose
items, and timing of whole steps decides how many (budget.py).

References:
    Kurtic et al., "ZipLM: Inference-Aware Structured Pruning of Language Models", 2023.
        https://arxiv.org/abs/2302.04089
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

from ..calibration.groups import PrunableGroup
from ..models.linear_view import layer_at
from ..models.structure import Group
from ..models.surgery import shrink_
from ..pipelines.run import hooked
from ..runtime.machine import synchronise
from ..runtime.timing import interleaved

Reads = dict[str, tuple[int, ...]]  # layer -> shape of what it reads in one call
TIMED_SIZES = 6  # numbers of items at which a group is timed, beside the dense one
LAYER_ROUNDS = 9
SHORTEST = 2e-3  # seconds; a shorter call is repeated within a round


def seconds_saved(
    denoiser: nn.Module, groups: list[PrunableGroup], call: dict[str, Any]
) -> tuple[dict[str, list[float]], list[dict[str, Any]]]:
    """Return the seconds that each group saves.

    Args:
        denoiser: the dense model.
        groups: the groups that may be pruned.
        call: the arguments of one step.

    Returns:
        Seconds saved after 0, 1, 2 ... steps of each group, by its name; and the measured table,
        one row for groups of equal cost: the `seconds` with `left` items.
    """
    found: dict[str, list[float]] = {}
    table = []
    for alike in interchangeable(denoiser, groups, partial(denoiser, **call)):
        one = alike[0]
        steps = levels(one.most // one.step)
        left = [one.total - one.step * k for k in steps]
        seconds = timed_sizes(denoiser, one.group, call, left)
        names = [prunable.name for prunable in alike]
        row = {"groups": names, "kind": one.group.kind, "left": left, "seconds": seconds}
        table.append(row)
        found |= dict.fromkeys(names, between(steps, seconds))
    return found, table


def levels(most: int) -> list[int]:
    """Return the numbers of steps at which a group is timed: 0 and up to TIMED_SIZES others."""
    return sorted({round(most * i / TIMED_SIZES) for i in range(TIMED_SIZES + 1)})


def between(steps: list[int], seconds: list[float]) -> list[float]:
    """Return the seconds saved at every number of steps, from the seconds measured at some."""
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
    """Return the median seconds of the module of a group's layers, with each number of items."""
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
    """Return the smallest module that holds all layers of a group and its owner."""
    paths = [name.split(".") for name in (group.owner, *group.producers, *group.consumers)]
    together: list[str] = []
    for words in zip(*paths, strict=False):
        if len(set(words)) > 1:
            break
        together.append(words[0])
    return ".".join(together)


def recorded_arguments(
    denoiser: nn.Module, part: str, call: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """Return the arguments of a module in a step."""
    found: list[tuple[tuple, dict[str, Any]]] = []
    handle = denoiser.get_submodule(part).register_forward_pre_hook(
        lambda module, args, kwargs: found.append((args, kwargs)), with_kwargs=True
    )
    with hooked([handle]), torch.no_grad():
        denoiser(**call)
    return found[-1]


def apart(denoiser: nn.Module, part: str) -> nn.Module:
    """Return a copy of one module, under its name in an otherwise empty model."""
    copied = copy.deepcopy(denoiser.get_submodule(part))
    for word in reversed(part.split(".") if part else []):
        above = nn.Module()
        above.add_module(word, copied)
        copied = above
    return copied


def repeats(call: Callable[[], Any]) -> int:
    """Return how often a call has to be repeated to last SHORTEST seconds."""
    with torch.no_grad():
        call()
        synchronise()
        began = time.perf_counter()
        call()
        synchronise()
    return max(1, math.ceil(SHORTEST / max(time.perf_counter() - began, 1e-6)))


def repeated(call: Callable[[], Any], often: int) -> None:
    """Call a function several times."""
    for _ in range(often):
        call()


def interchangeable(
    model: nn.Module, groups: list[PrunableGroup], call: Callable[[], Any]
) -> list[list[PrunableGroup]]:
    """Group groups of equal cost: of one kind and role, with layers and inputs of equal shapes."""
    layers = list(dict.fromkeys(name for prunable in groups for name in layers_of(prunable)))
    with noting(model, layers) as reads, torch.no_grad():
        call()
    found: dict[tuple, list[PrunableGroup]] = {}
    for prunable in groups:
        group = prunable.group
        shapes = tuple(
            (tuple(layer_at(model, name).weight.shape), reads.get(name))
            for name in layers_of(prunable)
        )
        key = (group.kind, role(group.owner), prunable.total, shapes)
        found.setdefault(key, []).append(prunable)
    return list(found.values())


def layers_of(prunable: PrunableGroup) -> tuple[str, ...]:
    """Return the layers that shrink with a group."""
    return (*prunable.group.producers, *prunable.group.consumers)


@contextmanager
def noting(model: nn.Module, layers: list[str]) -> Iterator[Reads]:
    """Record the input shapes of layers, those of the last call if there are several."""
    reads: Reads = {}

    def hook(name: str, module: nn.Module, args: tuple) -> None:
        reads[name] = tuple(args[0].shape)

    with hooked(
        model.get_submodule(name).register_forward_pre_hook(partial(hook, name)) for name in layers
    ):
        yield reads


def role(owner: str) -> tuple[str, ...]:
    """Return the list of an owner's block and its name, such as ("transformer_blocks", "attn1")."""
    words = owner.split(".")
    lists = [word for word, after in pairwise(words) if after.isdigit()]
    return (*lists[-1:], words[-1])
