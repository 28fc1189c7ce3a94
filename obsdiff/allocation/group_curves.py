"""How many heads, neurons and channels each group gives up, where they cost least: in all at least as many parameters and
multiply-accumulates as uniform pruning takes, or what a budget of one of them, of bytes or of time says (allocation/budget.py).

Of every group the items leave one step after the other, as pruning takes them; the layer errors on the way are its curve.
For allocation "sensitivity" the curve is scaled to what the group, pruned alone as uniform pruning would, or as little more as does
something at all, does to the final latents.
What an item saves is counted (allocation/savings.py), and prices on it say who gives up how many (allocation/prices.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..calibration.context import CalibrationContext
from ..calibration.gather import DensePass
from ..calibration.hessian import Hessian
from ..calibration.selection import kept_count
from ..config import PruningConfig
from ..config.choices import BUDGETS, MOST_ALLOCATED
from ..errors import NotPositiveDefinite
from ..models.geometry import columns, items
from ..models.linear_view import matrix
from ..models.structure import Group, Tap
from ..pipelines.run import denoiser_call
from ..solvers.obs_structured import Consumer, obs_heads, obs_neurons
from ..solvers.problem import squared_error
from .layer_sensitivity import LEAST_ERROR, Trying, effect_of, first_latents
from .prices import cheapest_steps
from .savings import of_an_item

CURVE_STEPS = 64  # steps in which all neurons of a group would leave
LEAST = 8  # one part in so many of a group's neurons stays at least
NO_TARGET: dict[str, None] = dict.fromkeys(BUDGETS)


@dataclass(frozen=True)
class LossCurve:
    """What a group loses: errors after 0, 1, 2 ... steps of so many items; how many items it has, how many uniform pruning takes, and what
    one saves (R,). Not movable are neurons of a width that round_to does not divide, since what stays has to be a multiple of it: their errors are
    those of none and of what uniform pruning takes."""

    total: int
    step: int
    uniform: int
    errors: list[float]
    saved: tuple[float, ...] = (1.0,)
    effect: float = 0.0
    movable: bool = True

    @property
    def at_uniform(self) -> float:
        """The error of uniform pruning, or inf if the curve ends before it."""
        steps = -(-self.uniform // self.step)
        return self.errors[steps] if steps < len(self.errors) else torch.inf


Spending = Callable[
    [Mapping[str, LossCurve]], dict[str, Any]
]  # a budget's way: {"shares": ..., and what else is to be recorded}


def allocate_groups(
    context: CalibrationContext,
    groups: list[Group],
    taps: list[Tap],
    dense: DensePass,
    config: PruningConfig,
    trying: Trying,
    spending: Spending | None = None,
) -> dict[str, Any]:
    """{"shares": how many items of every group stay, "sensitivity": relative latent error of pruning it alone, where that was measured}, and what `spending`
    says where it is that which shares out."""
    base = first_latents(context, config)
    tap_of = {layer: tap for tap in taps for layer in tap.layers}
    mine = [
        group
        for group in groups
        if context.owners.get(tap_of[group.consumers[0]], 0) == context.ranks.rank
    ]
    own, saved = {}, savings_of(context, groups)
    for i, group in enumerate(mine):
        trying(i, len(mine))
        curve = curve_of(
            context,
            group,
            dense.of(tuple({tap_of[name]: 0 for name in group.consumers})),
            config,
            base,
        )
        own[group.name] = replace(curve, saved=tuple(part[group.name] for part in saved))
    curves: dict[str, LossCurve] = context.ranks.gather_dicts(own)
    names = [group.name for group in groups]
    effects = {
        "sensitivity": {name: curves[name].effect for name in names} if base is not None else {}
    }
    if spending:
        return (
            context.ranks.from_rank_zero(lambda: spending({name: curves[name] for name in names}))
            | effects
        )
    return {
        "shares": dict(zip(names, share_out([curves[name] for name in names]), strict=True))
    } | effects


def savings_of(context: CalibrationContext, groups: list[Group]) -> tuple[dict[str, float], ...]:
    """What an item of each group saves, of parameters and of multiply-accumulates."""
    call = denoiser_call(
        context.run.pipe,
        context.denoiser,
        context.calibration_set.prompts[0],
        context.calibration_set.settings,
    )
    return tuple(
        of_an_item(unit, context.denoiser, groups, call) for unit in ("parameters", "macs")
    )


def share_out(curves: list[LossCurve]) -> list[int]:
    """How many items of each group stay: of the ways that save as much as uniform pruning of every resource one with hardly more than the least
    sum of errors. Uniform pruning is one of them."""
    left = [curve.total - curve.uniform for curve in curves]
    places = [i for i, curve in enumerate(curves) if curve.movable]
    some = [curves[i] for i in places]
    if not some:
        return left
    saved = torch.tensor([curve.saved for curve in some], dtype=torch.float64)
    wanted = torch.tensor([curve.uniform for curve in some], dtype=torch.float64) @ saved
    steps = cheapest_steps(
        [curve.errors for curve in some],
        saved * torch.tensor([[curve.step] for curve in some]),
        wanted,
    )
    if steps and sum(curve.errors[k] for curve, k in zip(some, steps, strict=True)) < sum(
        curve.at_uniform for curve in some
    ):
        for i, curve, k in zip(places, some, steps, strict=True):
            left[i] = curve.total - k * curve.step
    return left


def curve_of(
    context: CalibrationContext,
    group: Group,
    hessians: Mapping[Tap, Hessian],
    config: PruningConfig,
    base: Tensor | None,
) -> LossCurve:
    """Let the group's items leave, and put nothing into the model."""
    denoiser = context.denoiser
    weights = {name: matrix(denoiser.get_submodule(name)) for name in group.consumers}
    by_layer = {layer: hessian for tap, hessian in hessians.items() for layer in tap.layers}
    squares = {name: by_layer[name].matrix() for name in group.consumers}
    energies = [squared_error(weights[name], None, squares[name]) for name in group.consumers]
    try:
        consumers = [
            Consumer.begin(
                weights[name],
                squares.pop(name) if config.compensation else squares[name],
                config.damping,
            )
            for name in group.consumers
        ]
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{group.consumers[0]}: {error}") from None
    total = items(denoiser, group)
    uniform = total - kept_count(group, total, config)
    step, most = steps_of(group, total, config)
    stride, steps = (
        (step, most // step) if is_movable(group, total, config) else (uniform, int(uniform > 0))
    )
    tried = min(max(uniform, stride), steps * stride)  # so many are tried alone
    left, errors, there = columns(denoiser, group, total), [0.0], None
    for k in range(1, steps + 1):
        try:
            left = left[gone_from(group, consumers, left, stride, config.compensation)]
        except NotPositiveDefinite as error:
            if k * stride <= tried:
                raise NotPositiveDefinite(f"{group.consumers[0]}: {error}") from None
            break  # so much can't leave this group
        lost = (
            squared_error(weights[name], consumer.weight, squares[name])
            if squares
            else 2 * consumer.loss
            for name, consumer in zip(group.consumers, consumers, strict=True)
        )
        errors.append(
            sum(loss / energy for loss, energy in zip(lost, energies, strict=True) if energy > 0)
        )
        if there is None and k * stride >= tried and errors[-1] > LEAST_ERROR:
            there = (
                errors[-1],
                {
                    name: consumer.weight.clone()
                    for name, consumer in zip(group.consumers, consumers, strict=True)
                },
            )
    effect = 0.0
    for consumer in consumers:
        consumer.finish()  # drawing needs its memory
    if base is not None and not there:
        errors = [0.0 for _ in errors]
    elif base is not None:
        effect = effect_of(context, there[1], base, config)
        errors = [effect * error / there[0] for error in errors]
    return LossCurve(
        total, step, uniform, errors, effect=effect, movable=is_movable(group, total, config)
    )


def is_movable(group: Group, total: int, config: PruningConfig) -> bool:
    """Whether steps leave a number of items that is allowed."""
    return group.kind != "neurons" or total % config.round_to == 0


def steps_of(group: Group, total: int, config: PruningConfig) -> tuple[int, int]:
    """How many items leave together, and how many may leave at most; all that could leave at once where there are no steps in between."""
    if group.kind != "neurons":
        return 1, total - 1
    if not is_movable(group, total, config):
        most = total - kept_count(
            group, total, replace(config, sparsity=MOST_ALLOCATED["structured"], **NO_TARGET)
        )
        return max(1, most), most
    step = config.round_to * max(1, total // (CURVE_STEPS * config.round_to))
    return step, total - max(step, total // LEAST)


def gone_from(
    group: Group, consumers: list[Consumer], left: Tensor, step: int, compensate: bool
) -> Tensor:
    """Take the next items out of the consumers; which of the columns that were left (N, D) are left then (N,), as a mask."""
    if group.kind == "neurons":
        removed, _ = obs_neurons(consumers[0], left.flatten(), step, compensate)
    else:
        removed, _ = obs_heads(consumers, list(left), step, compensate)
    mask = torch.ones(len(left), dtype=torch.bool)
    mask[removed] = False
    return mask
