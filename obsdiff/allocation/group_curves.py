"""The number of heads, neurons and channels that each group keeps, at the least sum of errors.

In all they save at least as many parameters and multiply-accumulates as uniform pruning, or as
much as a budget of parameters, multiply-accumulates, bytes or time requires (budget.py).

The items of every group are removed step by step, as in pruning; the layer errors after each step
are its loss curve. For allocation "sensitivity" the curve is scaled to the effect on the final
latents of pruning the group alone, as uniform pruning would, or at the first step with any effect.
The saving of an item is counted (savings.py); prices on the savings decide the steps (prices.py).

N items of a group, D columns of one item, R resources.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..calibration.context import CalibratedInputs, CalibrationContext
from ..calibration.gather import DensePass
from ..calibration.groups import PrunableGroup
from ..calibration.plan import PruningPlan
from ..config import PruningConfig
from ..errors import NotPositiveDefinite
from ..layerwise.journal import NullJournal
from ..layerwise.problem import named
from ..models.geometry import columns
from ..models.linear_view import matrix
from ..models.structure import Group
from ..pipelines.run import denoiser_call
from ..runtime.precision import exact_products
from ..solvers.obs_structured import Consumer, obs_heads, obs_neurons
from ..solvers.problem import squared_error
from .candidates import candidates
from .jacobian import effects_of
from .layer_sensitivity import LEAST_ERROR, MEASURED, effect_of, first_latents
from .prices import cheapest_steps
from .savings import of_an_item
from .trials import Trial, all_measured


@dataclass(frozen=True)
class LossCurve:
    """The error of a group by the number of its items that are removed.

    Attributes:
        total: items of the group.
        step: items that one step removes.
        uniform: items that uniform pruning removes.
        errors: the error after 0, 1, 2 ... steps. Of a group that is not movable: of none, and of
            what uniform pruning removes.
        saved: the saving of one item in each resource (R,).
        effect: the relative latent error of pruning the group alone, if measured.
        movable: whether allocation may choose the number of steps.
    """

    total: int
    step: int
    uniform: int
    errors: list[float]
    saved: tuple[float, ...] = (1.0,)
    effect: float = 0.0
    movable: bool = True

    @classmethod
    def of(cls, figures: dict[str, Any]) -> "LossCurve":
        """Return the curve of the figures that a trial stored."""
        return cls(**figures | {"saved": tuple(figures["saved"])})

    @property
    def at_uniform(self) -> float:
        """The error of uniform pruning, or inf if the curve ends before it."""
        steps = -(-self.uniform // self.step)
        return self.errors[steps] if steps < len(self.errors) else torch.inf


# returns {"shares": items that every group keeps, "met": the record of a latency}
Spend = Callable[[Mapping[str, LossCurve]], dict[str, Any]]


def kept_of_groups(
    context: CalibrationContext,
    plan: PruningPlan,
    dense: DensePass,
    journal: NullJournal,
    spend: Spend | None = None,
) -> dict[str, Any]:
    """Return the items that every group keeps.

    Args:
        context: the calibration context; each process measures the groups of its taps.
        plan: the pruning.
        dense: the Hessians.
        journal: stores the measurements.
        spend: allocates to a budget (None: to the saving of uniform pruning).

    Returns:
        {"shares": items that every group keeps, "sensitivity": the relative latent error of pruning
        it alone, if measured}, and the further entries of `spend`.
    """
    tap_of = {layer: tap for tap in plan.taps for layer in tap.layers}
    saved = savings_of(context, [prunable.group for prunable in plan.groups])

    by_name = {prunable.name: prunable for prunable in plan.groups}
    taps = {
        name: tuple({tap_of[layer]: 0 for layer in prunable.group.consumers})
        for name, prunable in by_name.items()
    }
    owners = {name: context.owners.get(some[0], 0) for name, some in taps.items()}

    def sweep(prunable: PrunableGroup) -> SweptGroup:
        return sweep_of(context, prunable, dense.of(taps[prunable.name]), plan.config)

    measure = first_order if plan.config.allocation == "sensitivity" else one_by_one
    curves = measure(context, plan.config, journal, by_name, owners, sweep)
    curves = {
        name: replace(curve, saved=tuple(part[name] for part in saved))
        for name, curve in curves.items()
    }
    measured = plan.config.allocation in MEASURED
    effects = {name: curve.effect for name, curve in curves.items()} if measured else {}
    if spend:
        return context.ranks.from_rank_zero(lambda: spend(curves)) | {"sensitivity": effects}
    shares = dict(zip(curves, share_out(list(curves.values())), strict=True))
    return {"shares": shares, "sensitivity": effects}


def savings_of(context: CalibrationContext, groups: list[Group]) -> tuple[dict[str, float], ...]:
    """Return the parameters and the multiply-accumulates of one item of each group, by its name."""
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
    """Return the items that each group keeps.

    Of all choices that save as much of every resource as uniform pruning, one with nearly the least
    sum of errors, never a larger one than that of uniform pruning.
    """
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


@dataclass(frozen=True)
class SweptGroup:
    """The loss curve of a group, and what is tried of it.

    Attributes:
        curve: the layer errors.
        error: the layer error of the trial; 0 if no step has an effect.
        weights: the weight (O, I) of each consumer there.
    """

    curve: LossCurve
    error: float
    weights: dict[str, Tensor]

    def scaled(self, effect: float) -> LossCurve:
        """Return the curve scaled to the effect of the trial on the latents."""
        factor = effect / self.error if self.error else 0.0
        return replace(
            self.curve, errors=[factor * error for error in self.curve.errors], effect=effect
        )


Sweep = Callable[[PrunableGroup], SweptGroup]


def first_order(
    context: CalibrationContext,
    config: PruningConfig,
    journal: NullJournal,
    groups: Mapping[str, PrunableGroup],
    owners: Mapping[str, int],
    sweep: Sweep,
) -> dict[str, LossCurve]:
    """Return the curve of every group, scaled by the gradients of a few prompts."""

    def swept(prunable: PrunableGroup) -> tuple[SweptGroup, dict[str, Tensor]]:
        found = sweep(prunable)
        return replace(found, weights={}), found.weights

    with candidates(context, groups, owners, swept) as (found, changes):
        effects = effects_of(context, journal, changes, config)
    return {name: found[name].scaled(effects.get(name, 0.0)) for name in groups}


def one_by_one(
    context: CalibrationContext,
    config: PruningConfig,
    journal: NullJournal,
    groups: Mapping[str, PrunableGroup],
    owners: Mapping[str, int],
    sweep: Sweep,
) -> dict[str, LossCurve]:
    """Return the curve of every group, each a trial of its own."""

    def trial(name: str) -> Trial:
        return Trial(
            name,
            owners[name],
            lambda base: asdict(curve_of(context, groups[name], sweep, base, config)),
        )

    rows = all_measured(context, journal, [trial(name) for name in groups], first_latents, config)
    return {name: LossCurve.of(rows[name]) for name in groups}


def curve_of(
    context: CalibrationContext,
    prunable: PrunableGroup,
    sweep: Sweep,
    base: Tensor | None,
    config: PruningConfig,
) -> LossCurve:
    """Return the loss curve of one group, scaled to its drawn effect if there are dense latents."""
    found = sweep(prunable)
    if base is None:
        return found.curve
    effect = effect_of(context, found.weights, base, config) if found.error else 0.0
    return found.scaled(effect)


@exact_products()
def sweep_of(
    context: CalibrationContext,
    prunable: PrunableGroup,
    inputs: CalibratedInputs,
    config: PruningConfig,
) -> SweptGroup:
    """Return the loss curve of one group; the model is unchanged.

    Args:
        context: the model.
        prunable: the group.
        inputs: the sums of its consumers' taps; unchanged.
        config: the settings.
    """
    sweep = GroupSweep.of(context, prunable.group, inputs, config)
    stride, steps = prunable.step, prunable.most // prunable.step
    if not prunable.movable:
        stride, steps = prunable.uniform, int(prunable.uniform > 0)
    tried = min(max(prunable.uniform, stride), steps * stride)  # items removed in the trial
    left, errors = columns(context.denoiser, prunable.group, prunable.total), [0.0]
    error = 0.0
    weights: dict[str, Tensor] = {}
    for k in range(1, steps + 1):
        try:
            left = left[sweep.remove(left, stride)]
        except NotPositiveDefinite:
            if k * stride <= tried:
                raise
            break  # no more items can be removed
        errors.append(sweep.error())
        if not weights and k * stride >= tried and errors[-1] > LEAST_ERROR:
            error, weights = errors[-1], sweep.weights()
    sweep.finish()  # drawing needs its memory
    curve = LossCurve(
        prunable.total, prunable.step, prunable.uniform, errors, movable=prunable.movable
    )
    return SweptGroup(curve, error, weights)


@dataclass
class GroupSweep:
    """The removal of a group's items, step by step.

    Attributes:
        group: the group.
        dense: the weight (O, I) of each consumer.
        hessians: the Hessian (I, I) of each consumer; empty if the sweep sums its losses itself.
        energies: tr(W H W^T) of each consumer.
        consumers: the state of each consumer.
        compensate: whether the remaining columns are repaired.
    """

    group: Group
    dense: list[Tensor]
    hessians: list[Tensor]
    energies: list[float]
    consumers: list[Consumer]
    compensate: bool

    @classmethod
    def of(
        cls,
        context: CalibrationContext,
        group: Group,
        inputs: CalibratedInputs,
        config: PruningConfig,
    ) -> "GroupSweep":
        """Return the sweep of a group with all its items."""
        dense = [matrix(context.denoiser.get_submodule(name)) for name in group.consumers]
        by_layer = {layer: calibrated for tap, calibrated in inputs.items() for layer in tap.layers}
        hessians = [by_layer[name].matrix() for name in group.consumers]
        energies = [squared_error(w, None, h) for w, h in zip(dense, hessians, strict=True)]
        kept: list[Tensor] = [] if config.compensation else hessians
        consumers: list[Consumer] = []
        with named(group.consumers[0]):
            for weight in dense:
                hessian = hessians.pop(0) if config.compensation else hessians[len(consumers)]
                consumers.append(Consumer.begin(weight, hessian, config.damping))
        return cls(group, dense, kept, energies, consumers, config.compensation)

    def remove(self, left: Tensor, count: int) -> Tensor:
        """Remove the next `count` items; return a mask (N,) of the columns (N, D) that remain."""
        with named(self.group.consumers[0]):
            if self.group.kind == "neurons":
                removed, _ = obs_neurons(self.consumers[0], left.flatten(), count, self.compensate)
            else:
                removed, _ = obs_heads(self.consumers, list(left), count, self.compensate)
        mask = torch.ones(len(left), dtype=torch.bool)
        mask[removed] = False
        return mask

    def error(self) -> float:
        """Return the sum of the layer errors of the consumers."""
        lost = [2 * consumer.loss for consumer in self.consumers]
        if self.hessians:
            lost = [
                squared_error(weight, consumer.weight, hessian)
                for weight, consumer, hessian in zip(
                    self.dense, self.consumers, self.hessians, strict=True
                )
            ]
        pairs = zip(lost, self.energies, strict=True)
        return sum(loss / energy for loss, energy in pairs if energy > 0)

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the weight (O, I) of each consumer, by layer."""
        pairs = zip(self.group.consumers, self.consumers, strict=True)
        return {name: consumer.weight.clone() for name, consumer in pairs}

    def finish(self) -> None:
        """Release the factors."""
        for consumer in self.consumers:
            consumer.finish()
