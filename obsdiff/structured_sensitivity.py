"""How many heads, neurons or channels each group gives up: in all as many as uniform pruning takes, where they cost least, or as
many as a budget of parameters, operations, bytes or time needs (budget.py).

Groups of one kind, of the same shapes and with as many tokens cost the same parameters and operations an item, so items are
moved between these alone: the model gets as small and as fast as by uniform pruning, exactly. With a budget they move between all groups.

Of every group the items leave one step after the other, as pruning takes them; the layer errors on the way are its curve.
For allocation "sensitivity" the curve is scaled to what the group, pruned alone as uniform pruning would, does to the final latents.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .architectures import Group, Tap
from .config import PruningConfig
from .errors import NotPositiveDefinite
from .gathering import DensePass, Site
from .hessian import Hessian
from .prune_structured import group_name, left_of
from .sensitivity import Trying, effect_of, first_latents
from .solvers.solution import squared_error
from .solvers.structured import Consumer, obs_heads, obs_neurons
from .surgery import columns, items
from .unfolding import matrix

LEVELS = 64  # steps in which all neurons of a group would leave
LEAST = 8  # one part in so many of a group's neurons stays at least


@dataclass(frozen=True)
class Curve:
    """What a group loses: errors after 0, 1, 2 ... steps of so many items; how many items it has, and how many uniform pruning takes;
    `kind` is the same for groups whose items cost the same; `least` items stay at least. Not movable are neurons of a width that round_to does not
    divide, since what stays has to be a multiple of it."""

    kind: tuple
    total: int
    step: int
    uniform: int
    errors: list[float]
    effect: float = 0.0
    least: int = 1
    movable: bool = True


Spending = Callable[[Mapping[str, Curve]], dict[str, Any]]  # a budget's way: {"shares": ..., and what else is to be recorded}


def allocate_groups(
    site: Site, groups: list[Group], taps: list[Tap], dense: DensePass, config: PruningConfig, trying: Trying, spending: Spending | None = None
) -> dict[str, Any]:
    """{"shares": how many items of every group stay, "sensitivity": relative latent error of pruning it alone, where that was measured}, and what `spending`
    says where it is that which shares out."""
    base = first_latents(site, config)
    tap_of = {layer: tap for tap in taps for layer in tap.layers}
    mine = [group for group in groups if site.owners.get(tap_of[group.consumers[0]], 0) == site.ranks.rank]
    own = {}
    for i, group in enumerate(mine):
        trying(i, len(mine))
        own[group_name(group)] = curve_of(site, group, dense.of(tuple({tap_of[name]: 0 for name in group.consumers})), config, base, spending is not None)
    curves: dict[str, Curve] = site.ranks.collect(own)
    names = [group_name(group) for group in groups]
    effects = {"sensitivity": {name: curves[name].effect for name in names} if base is not None else {}}
    if spending:
        return site.ranks.agree(lambda: spending({name: curves[name] for name in names})) | effects
    left = {}
    for kind in dict.fromkeys(curves[name].kind for name in names):
        some = [name for name in names if curves[name].kind == kind]
        left |= dict(zip(some, spread([curves[name] for name in some]), strict=True))
    return {"shares": left} | effects


def spread(curves: list[Curve]) -> list[int]:
    """How many items of each group stay: of all ways to take as many as uniform pruning does, in steps, the one with the least sum of
    errors. What does not fill a step goes where most goes. Where no step fits, every group gives what uniform pruning takes."""
    step, wanted = curves[0].step, sum(curve.uniform for curve in curves)
    errors = [curve.errors for curve in curves]
    steps = min(round(wanted / step), sum(len(row) - 1 for row in errors))
    if not curves[0].movable or not steps:
        return [curve.total - curve.uniform for curve in curves]
    gone = [step * k for k in cheapest(errors, steps)]
    for i in sorted(range(len(gone)), key=gone.__getitem__, reverse=True):
        most = curves[i].total - curves[i].least
        more = max(-gone[i], min(wanted - sum(gone), most - gone[i]))
        gone[i] += more
    return [curve.total - away for curve, away in zip(curves, gone, strict=True)]


def cheapest(errors: list[list[float]], steps: int) -> list[int]:
    """Steps for each group, `steps` in all, with the least sum of errors[group][steps]; by dynamic programming over the groups."""
    best = torch.full((steps + 1,), torch.inf, dtype=torch.float64)
    best[0] = 0
    taken = []
    for row in errors:
        tries = torch.full((len(row), steps + 1), torch.inf, dtype=torch.float64)
        for k, error in enumerate(row[: steps + 1]):
            tries[k, k:] = best[: steps + 1 - k] + error
        best, which = tries.min(0)
        taken.append(which)
    found, left = [], steps
    for which in reversed(taken):
        found.append(int(which[left]))
        left -= found[-1]
    return found[::-1]


def curve_of(site: Site, group: Group, hessians: Mapping[Tap, Hessian], config: PruningConfig, base: Tensor | None, every: bool = False) -> Curve:
    """Let the group's items leave, and put nothing into the model. `every`: also a group from which uniform pruning would take nothing is measured."""
    denoiser = site.denoiser
    weights = {name: matrix(denoiser.get_submodule(name)) for name in group.consumers}
    by_layer = {layer: hessian for tap, hessian in hessians.items() for layer in tap.layers}
    squares = {name: by_layer[name].matrix() for name in group.consumers}
    energies = [squared_error(weights[name], None, squares[name]) for name in group.consumers]
    try:
        consumers = [Consumer.begin(weights[name], squares.pop(name), config.damping) for name in group.consumers]
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{group.consumers[0]}: {error}") from None
    total = items(denoiser, group)
    uniform = total - left_of(group, total, config)
    step, most = steps_of(group, total, config)
    left, errors, there = columns(denoiser, group, total), [0.0], None
    for k in range(1, most // step + 1):
        try:
            left = left[gone_from(group, consumers, left, step)]
        except NotPositiveDefinite as error:
            if k * step <= uniform:
                raise NotPositiveDefinite(f"{group.consumers[0]}: {error}") from None
            break  # so much can't leave this group
        errors.append(sum(2 * consumer.loss / energy for consumer, energy in zip(consumers, energies, strict=True) if energy > 0))
        if there is None and k * step >= uniform:
            there = (errors[-1], {name: consumer.weight.clone() for name, consumer in zip(group.consumers, consumers, strict=True)})
    effect = 0.0
    for consumer in consumers:
        consumer.finish()  # drawing needs its memory
    if base is not None and there and (uniform or every):
        effect = effect_of(site, there[1], base, config)
        errors = [effect * error / there[0] if there[0] > 0 else 0.0 for error in errors]
    shapes = tuple(tuple(denoiser.get_submodule(name).weight.shape) for name in (*group.producers, *group.consumers))
    samples = tuple(by_layer[name].samples for name in group.consumers)
    least = config.round_to if group.kind == "neurons" else 1
    return Curve((group.kind, role(group.owner), total, shapes, samples), total, step, uniform, errors, effect, least, movable(group, total, config))


def role(owner: str) -> tuple[str, ...]:
    """What an owner is in its block, and the list that its block is in: ("temporal_transformer_blocks", "attn1")."""
    words = owner.split(".")
    lists = [word for word, after in pairwise(words) if after.isdigit()]
    return (*lists[-1:], words[-1])


def movable(group: Group, total: int, config: PruningConfig) -> bool:
    """Whether steps leave a number of items that is allowed."""
    return group.kind != "neurons" or total % config.round_to == 0


def steps_of(group: Group, total: int, config: PruningConfig) -> tuple[int, int]:
    """How many items leave together, and how many may leave at most."""
    if group.kind != "neurons":
        return 1, total - 1
    step = config.round_to * max(1, total // (LEVELS * config.round_to))
    return step, total - max(step, total // LEAST)


def gone_from(group: Group, consumers: list[Consumer], left: Tensor, step: int) -> Tensor:
    """Take the next items out of the consumers; which of the columns that were left (N, D) are left then (N,), as a mask."""
    if group.kind == "neurons":
        removed, _ = obs_neurons(consumers[0], left.flatten(), step)
    else:
        removed, _ = obs_heads(consumers, list(left), step)
    mask = torch.ones(len(left), dtype=torch.bool)
    mask[removed] = False
    return mask
