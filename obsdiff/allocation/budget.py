"""Structured pruning to a budget: a share of the dense denoiser's parameters, operations, bytes or time that may stay.

1. Before the calibration: what each step of each group saves (allocation/savings.py, allocation/layer_latency.py), and the uniform sparsity that would meet the
   budget, at which sensitivities are measured
2. After it: the steps with the least sum of errors that save enough, between groups of all kinds     (allocation/knapsack.py)
3. Of time, which does not add up exactly: the whole step is timed, and 2 is repeated with more or less to save, until the budget is met
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..calibration.plan import PruningPlan
from ..calibration.selection import kept_count
from ..config import PruningConfig
from ..errors import UserError
from ..models.geometry import items
from ..models.structure import Group
from ..models.surgery import shrink_
from ..pipelines.run import denoiser_call
from .group_curves import NO_TARGET, LossCurve, is_movable, steps_of
from .knapsack import cheapest_saving
from .layer_latency import seconds_saved
from .savings import amount_of, of_an_item
from .uniform_latency import MORE_ROUNDS, MOST, ROUNDS, time_ratio

BUDGET_BISECTIONS = 12
CORRECTIONS = 10  # how often what has to be saved of time is corrected at most
NEAR = 0.02  # a time that is so little below its target is near enough
MORE = (
    1.05  # what is saved more, where a measurement with more rounds finds that a little is missing
)
Left = dict[str, int]  # group's name -> items that stay


@dataclass(frozen=True)
class Budget:
    """The share `target` of what the dense denoiser has (`dense`, in parameters, macs, bytes, or seconds of a step for latency) that may stay; the uniform
    `sparsity` that would meet it; what each group saves after 0, 1, 2 ... steps; the measured table behind seconds, else empty."""

    unit: str
    target: float
    dense: float
    sparsity: float
    savings: dict[str, list[float]]
    table: list[dict[str, Any]] = field(default_factory=list)

    @property
    def wanted(self) -> float:
        """What has to be saved."""
        return (
            self.dense * (1 - self.target)
            if self.unit == "latency"
            else self.dense - math.floor(self.target * self.dense)
        )


def budget_of(pipe: Any, plan: PruningPlan) -> Budget:
    """For the pipeline as it is now. UserError if the target can't be reached."""
    unit, target = plan.config.budget
    call = denoiser_call(
        pipe, plan.denoiser, plan.calibration_set.prompts[0], plan.calibration_set.settings
    )
    if unit != "latency":
        return counted(unit, target, plan.denoiser, plan.groups, plan.config, call)
    savings, table = seconds_saved(plan.denoiser, plan.groups, call, plan.config)
    most = {group.name: left_at_most(plan.denoiser, group, plan.config) for group in plan.groups}
    share, _, dense = time_ratio(
        plan.denoiser, shrunk_to(plan.denoiser, plan.groups, most), call, ROUNDS
    )
    if share > target:
        raise out_of_reach(unit, target, share)
    found = Budget(unit, target, dense, 0.0, savings, table)
    return replace(found, sparsity=uniform_sparsity(found, plan.denoiser, plan.groups, plan.config))


def counted(
    unit: str,
    target: float,
    denoiser: nn.Module,
    groups: list[Group],
    config: PruningConfig,
    inputs: Mapping[str, Any],
) -> Budget:
    """Of parameters, bytes or operations. `inputs` are the arguments of one call; the denoiser may be one without data."""
    dense, each = amount_of(unit, denoiser, inputs), of_an_item(unit, denoiser, groups, inputs)
    savings = {}
    for group in groups:
        name = group.name
        step, most = steps_of(group, items(denoiser, group), config)
        savings[name] = [float(each[name] * step * k) for k in range(most // step + 1)]
    found = Budget(unit, target, dense, 0.0, savings)
    most_saved = sum(
        saved_at(found, denoiser, group, left_at_most(denoiser, group, config), config)
        for group in groups
    )
    if most_saved < found.wanted:
        raise out_of_reach(unit, target, 1 - most_saved / dense)
    return replace(found, sparsity=uniform_sparsity(found, denoiser, groups, config))


def out_of_reach(unit: str, target: float, least: float) -> UserError:
    why = (
        f"with all that can leave a step takes {least:.3f} of dense's"
        if unit == "latency"
        else f"at least {math.ceil(least * 1e4) / 1e4:g} stays"
    )
    return UserError(
        f"target_{unit}: expected a share that pruning can reach, found {target:g}; {why}"
    )


def left_at_most(denoiser: nn.Module, group: Group, config: PruningConfig) -> int:
    """Items that stay of a group that gives all it can."""
    total = items(denoiser, group)
    if not is_movable(group, total, config):
        return kept_count(group, total, replace(config, sparsity=MOST, **NO_TARGET))
    step, most = steps_of(group, total, config)
    return total - most // step * step


def saved_at(
    budget: Budget, denoiser: nn.Module, group: Group, left: int, config: PruningConfig
) -> float:
    """What a group saves with so many items left."""
    total = items(denoiser, group)
    return along(budget.savings[group.name], (total - left) / steps_of(group, total, config)[0])


def along(row: list[float], place: float) -> float:
    """What is saved at a number of steps that need not be whole: on the line between its neighbours, or past the last two."""
    k = min(int(place), len(row) - 2)
    return row[k] + (place - k) * (row[k + 1] - row[k]) if len(row) > 1 else 0.0


def uniform_sparsity(
    budget: Budget, denoiser: nn.Module, groups: list[Group], config: PruningConfig
) -> float:
    """The least sparsity at which uniform pruning would save what is wanted; MOST where none up to there would."""
    few, many = 0.0, MOST
    for _ in range(BUDGET_BISECTIONS):
        middle = (few + many) / 2
        at = replace(config, sparsity=middle, **NO_TARGET)
        saved = sum(
            saved_at(budget, denoiser, group, kept_count(group, items(denoiser, group), at), at)
            for group in groups
        )
        few, many = (middle, many) if saved < budget.wanted else (few, middle)
    return round(many, 4)


def chosen(budget: Budget, curves: Mapping[str, LossCurve], wanted: float) -> Left:
    """Items that stay of every group: of all ways that save `wanted` the one with the least sum of errors. Where round_to does not divide a width,
    what uniform pruning leaves. UserError where curves end too early for it."""
    fixed = {
        name: curve.total - curve.uniform for name, curve in curves.items() if not curve.movable
    }
    free = {name: curve for name, curve in curves.items() if curve.movable}
    saved = sum(
        along(budget.savings[name], curves[name].uniform / curves[name].step) for name in fixed
    )
    savings = [budget.savings[name][: len(curve.errors)] for name, curve in free.items()]
    most = sum(row[-1] for row in savings)
    if most < wanted - saved and budget.unit != "latency":
        raise out_of_reach(budget.unit, budget.target, 1 - (most + saved) / budget.dense)
    steps = cheapest_saving(
        [curve.errors for curve in free.values()], savings, min(wanted - saved, most)
    )
    return fixed | {
        name: curve.total - curve.step * k
        for (name, curve), k in zip(free.items(), steps, strict=True)
    }


def spent(
    budget: Budget, pipe: Any, plan: PruningPlan, curves: Mapping[str, LossCurve]
) -> dict[str, Any]:
    """{"shares": items that stay of every group, "met": for latency what was measured on the way}."""
    if budget.unit != "latency":
        return {"shares": chosen(budget, curves, budget.wanted), "met": {}}
    call = denoiser_call(
        pipe, plan.denoiser, plan.calibration_set.prompts[0], plan.calibration_set.settings
    )
    return in_turn(
        budget,
        lambda wanted: chosen(budget, curves, wanted),
        lambda left, rounds: time_ratio(
            plan.denoiser, shrunk_to(plan.denoiser, plan.groups, left), call, rounds
        ),
    )


def in_turn(
    budget: Budget,
    choose: Callable[[float], Left],
    race: Callable[[Left, int], tuple[float, float, float]],
) -> dict[str, Any]:
    """Save more or less by the table until the whole step, timed, takes at most the target's share, and little less. UserError if it takes more even
    where all is saved that can be."""
    tried: list[tuple[float, float]] = []
    most = sum(row[-1] for row in budget.savings.values())
    wanted, little, enough = (
        min(most, budget.wanted),
        0.0,
        None,
    )  # little: what was saved and was not enough; enough: what was
    for _ in range(CORRECTIONS):
        share = race(choose(wanted), ROUNDS)[0]
        tried.append((wanted / budget.dense, share))
        if share <= budget.target:
            enough = wanted if enough is None else min(wanted, enough)
        else:
            little = max(wanted, little)
        if budget.target - NEAR <= share <= budget.target or little >= most:
            break
        in_proportion = wanted * min(
            2.0, max(0.5, (1 - budget.target + NEAR / 2) / max(1 - share, 1e-3))
        )
        wanted = (little + enough) / 2 if little and enough else min(most, in_proportion)
    wanted = enough or most
    left = choose(wanted)
    measured = race(left, MORE_ROUNDS)
    tried.append((wanted / budget.dense, measured[0]))
    while measured[0] > budget.target and wanted < most:
        wanted = min(most, MORE * wanted)
        left = choose(wanted)
        measured = race(left, MORE_ROUNDS)
        tried.append((wanted / budget.dense, measured[0]))
    if measured[0] > budget.target:
        raise out_of_reach(budget.unit, budget.target, measured[0])
    share, seconds, dense_seconds = measured
    met = {
        "target": budget.target,
        "sparsity": budget.sparsity,
        "measured": share,
        "seconds": seconds,
        "dense_seconds": dense_seconds,
    }
    return {"shares": left, "met": met | {"tried": tried, "table": budget.table}}


def shrunk_to(dense: nn.Module, groups: list[Group], left: Left) -> nn.Module:
    """A copy of a denoiser with so many items left of every group, whichever."""
    model = copy.deepcopy(dense)
    for group in groups:
        shrink_(model, group, list(range(left[group.name])))
    return model


def kept_to(budget: Budget, pipe: Any, plan: PruningPlan) -> dict[str, Any]:
    """What the record says of a budget: unit, target, what the dense denoiser has, what the pruned one has, counted anew, and the share."""
    call = (
        denoiser_call(
            pipe, plan.denoiser, plan.calibration_set.prompts[0], plan.calibration_set.settings
        )
        if budget.unit == "macs"
        else {}
    )
    left = amount_of(budget.unit, plan.denoiser, call)
    return {
        "unit": budget.unit,
        "target": budget.target,
        "sparsity": budget.sparsity,
        "dense": budget.dense,
        "left": left,
        "share": left / budget.dense,
    }
