"""Structured pruning to a budget: the share of parameters, operations, bytes or time to keep.

1. Before the calibration: the saving of each step of each group (savings.py, layer_latency.py), and
   the uniform sparsity that would meet the budget, at which sensitivities are measured
2. After it: the steps with the least sum of errors that save enough, over groups of all kinds
   (knapsack.py)
3. For time, whose savings do not add up exactly: the whole step is timed, and 2 is repeated with
   more or less to save, until the budget is met
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from ..calibration.context import CalibrationContext
from ..calibration.groups import PrunableGroup, at_sparsity
from ..calibration.plan import PruningPlan
from ..config import PruningConfig
from ..errors import UserError
from ..models.surgery import sharing_weights, shrink_
from ..pipelines.run import denoiser_call
from .bisection import bisect
from .group_curves import LossCurve, Spend
from .knapsack import cheapest_saving
from .layer_latency import seconds_saved
from .savings import amount_of, of_an_item
from .uniform_latency import MORE_ROUNDS, MOST, ROUNDS, Timing, confirm, time_ratio

BUDGET_BISECTIONS = 12
CORRECTIONS = 10  # how often the time to save is corrected, at most
NEAR = 0.02  # a time this little below its target meets it
MORE = 1.05  # the factor of the saving if a measurement with more rounds misses the target
Kept = dict[str, int]  # items that each group keeps, by its name


@dataclass(frozen=True)
class Budget:
    """A share of the dense denoiser's parameters, multiply-accumulates or bytes to keep.

    Attributes:
        unit: parameters, macs or bytes.
        target: the share.
        dense: the amount of the dense denoiser.
        sparsity: the uniform sparsity that would meet the target; of pattern depth the largest
            share of the blocks that meeting it takes.
        savings: the saving of each group after 0, 1, 2 ... steps, by its name; of pattern depth
            that of each block, after 0 and 1.
    """

    unit: str
    target: float
    dense: float
    sparsity: float
    savings: dict[str, list[float]]

    @property
    def wanted(self) -> float:
        """The amount that has to be saved."""
        return self.dense - math.floor(self.target * self.dense)

    def out_of_reach(self, least: float) -> UserError:
        """Return the error for a target below the least share that can be reached."""
        why = f"at least {math.ceil(least * 1e4) / 1e4:g} stays"
        return unreachable(self.unit, self.target, why)

    def saved_at(self, prunable: PrunableGroup, kept: int) -> float:
        """Return the saving of a group that keeps `kept` items."""
        return along(self.savings[prunable.name], (prunable.total - kept) / prunable.step)

    def spend(self, context: CalibrationContext, plan: PruningPlan) -> Spend:
        """Return a function that allocates the budget by the groups' loss curves."""
        return lambda curves: {"shares": chosen(self, curves, self.wanted), "met": {}}

    def kept(self, pipe: Any, plan: PruningPlan) -> dict[str, Any]:
        """Return the record of the budget, with the amount of the pruned denoiser, counted anew."""
        left = amount_of(
            self.unit, plan.denoiser, call_of(pipe, plan) if self.unit == "macs" else {}
        )
        return {
            "unit": self.unit,
            "target": self.target,
            "sparsity": self.sparsity,
            "dense": self.dense,
            "left": left,
            "share": left / self.dense,
        }


@dataclass(frozen=True)
class LatencyBudget(Budget):
    """A share of the time of the dense denoiser's step; `dense` and `savings` are seconds.

    Attributes:
        table: the measured savings, one row for groups of equal cost.
    """

    table: list[dict[str, Any]] = field(default_factory=list)

    @property
    def wanted(self) -> float:
        """The seconds that have to be saved."""
        return self.dense * (1 - self.target)

    def out_of_reach(self, least: float) -> UserError:
        """Return the error for a target below the least share of time."""
        why = f"with the fewest items a step takes {least:.3f} of dense's"
        return unreachable(self.unit, self.target, why)

    def spend(self, context: CalibrationContext, plan: PruningPlan) -> Spend:
        """Return a function that allocates the budget by loss curves, and times whole steps."""
        call = call_of(context.run.pipe, plan)

        def timed_share(kept: Kept, rounds: int) -> Timing:
            return time_ratio(plan.denoiser, shrunk_to(plan, kept), call, rounds)

        return lambda curves: corrected_by_timing(self, partial(chosen, self, curves), timed_share)

    def kept(self, pipe: Any, plan: PruningPlan) -> dict[str, Any]:
        """Return an empty record: the report's latency has the measured times."""
        return {}


def budget_from(found: Mapping[str, Any]) -> Budget:
    """Return the budget of a dict that `asdict` returned."""
    return (LatencyBudget if found["unit"] == "latency" else Budget)(**found)


def call_of(pipe: Any, plan: PruningPlan) -> dict[str, Any]:
    """Return the arguments of the denoiser's call for one picture."""
    prompts, settings = plan.calibration_set.prompts, plan.calibration_set.settings
    return denoiser_call(pipe, plan.denoiser, prompts[0], settings)


def unreachable(unit: str, target: float, why: str) -> UserError:
    """Return the error for a target that no pruning meets."""
    return UserError(
        f"target_{unit}: expected a share that pruning can reach, found {target:g}; {why}"
    )


def budget_of(pipe: Any, plan: PruningPlan) -> Budget:
    """Return the budget of a plan, for the pipeline as it is now; UserError if it cannot be met."""
    assert plan.config.budget is not None
    unit, target = plan.config.budget
    call = call_of(pipe, plan)
    if unit != "latency":
        return size_budget(plan.denoiser, plan.groups, plan.config, call)
    savings, table = seconds_saved(plan.denoiser, plan.groups, call)
    least = {prunable.name: kept_at_least(prunable) for prunable in plan.groups}
    share, _, dense = time_ratio(plan.denoiser, shrunk_to(plan, least), call, ROUNDS)
    found = LatencyBudget(unit, target, dense, 0.0, savings, table)
    if share > target:
        raise found.out_of_reach(share)
    return replace(found, sparsity=uniform_sparsity(found, plan.groups, plan.config))


def size_budget(
    denoiser: nn.Module,
    groups: list[PrunableGroup],
    config: PruningConfig,
    inputs: Mapping[str, Any],
) -> Budget:
    """Return the budget of parameters, bytes or operations that the config names.

    Args:
        denoiser: the dense model, which may be on the meta device.
        groups: the groups that may be pruned.
        config: the settings.
        inputs: the arguments of one call.

    Raises:
        UserError: the target cannot be met.
    """
    assert config.budget is not None
    unit, target = config.budget
    dense = amount_of(unit, denoiser, inputs)
    each = of_an_item(unit, denoiser, [prunable.group for prunable in groups], inputs)
    savings = {
        g.name: [float(each[g.name] * g.step * k) for k in range(g.most // g.step + 1)]
        for g in groups
    }
    found = Budget(unit, target, dense, 0.0, savings)
    most = sum(found.saved_at(prunable, kept_at_least(prunable)) for prunable in groups)
    if most < found.wanted:
        raise found.out_of_reach(1 - most / dense)
    return replace(found, sparsity=uniform_sparsity(found, groups, config))


def kept_at_least(prunable: PrunableGroup) -> int:
    """Return the fewest items that a group may keep."""
    return prunable.total - prunable.most // prunable.step * prunable.step


def along(row: list[float], place: float) -> float:
    """Return the saving at a number of steps that need not be whole.

    On the line between its neighbours, or past the last two.
    """
    k = min(int(place), len(row) - 2)
    return row[k] + (place - k) * (row[k + 1] - row[k]) if len(row) > 1 else 0.0


def uniform_sparsity(budget: Budget, groups: list[PrunableGroup], config: PruningConfig) -> float:
    """Return the least sparsity at which uniform pruning would save enough; MOST if none would."""

    def too_little(sparsity: float) -> bool:
        at = at_sparsity(config, sparsity)
        saved = sum(budget.saved_at(prunable, prunable.kept_at(at)) for prunable in groups)
        return saved < budget.wanted

    enough = bisect(too_little, 0.0, MOST, BUDGET_BISECTIONS)[1]
    return math.ceil(enough * 10_000) / 10_000  # up, or an item less would leave


def chosen(budget: Budget, curves: Mapping[str, LossCurve], wanted: float) -> Kept:
    """Return the items that every group keeps.

    Of all choices that save `wanted`, the one with the least sum of errors. A group that is not
    movable keeps as many as in uniform pruning.

    Raises:
        UserError: the curves end before they save enough.
    """
    fixed = {
        name: curve.total - curve.uniform for name, curve in curves.items() if not curve.movable
    }
    free = {name: curve for name, curve in curves.items() if curve.movable}
    saved = sum(
        along(budget.savings[name], curves[name].uniform / curves[name].step) for name in fixed
    )
    savings = [budget.savings[name][: len(curve.errors)] for name, curve in free.items()]
    most = sum(row[-1] for row in savings)
    if most < wanted - saved and not isinstance(budget, LatencyBudget):
        raise budget.out_of_reach(1 - (most + saved) / budget.dense)
    steps = cheapest_saving(
        [curve.errors for curve in free.values()], savings, min(wanted - saved, most)
    )
    return fixed | {
        name: curve.total - curve.step * k
        for (name, curve), k in zip(free.items(), steps, strict=True)
    }


def corrected_by_timing(
    budget: LatencyBudget,
    choose: Callable[[float], Kept],
    timed_share: Callable[[Kept, int], Timing],
) -> dict[str, Any]:
    """Correct the seconds to save by the table until the timed step meets the target.

    Args:
        budget: the seconds to save.
        choose: the items that every group keeps, by the seconds to save by the table.
        timed_share: the share of the dense step's time, and both times, by items and rounds.

    Returns:
        {"shares": the items that every group keeps, "met": the record of the latency}.

    Raises:
        UserError: the step exceeds the target with the fewest items that groups may keep.
    """
    tried: list[tuple[float, float]] = []
    most = sum(row[-1] for row in budget.savings.values())
    wanted = min(most, budget.wanted)
    too_little, enough = 0.0, None  # the most that missed the target, the least that met it
    for _ in range(CORRECTIONS):
        share = timed_share(choose(wanted), ROUNDS)[0]
        tried.append((wanted / budget.dense, share))
        if share <= budget.target:
            enough = wanted if enough is None else min(wanted, enough)
        else:
            too_little = max(wanted, too_little)
        if budget.target - NEAR <= share <= budget.target or too_little >= most:
            break
        in_proportion = wanted * min(
            2.0, max(0.5, (1 - budget.target + NEAR / 2) / max(1 - share, 1e-3))
        )
        wanted = (too_little + enough) / 2 if too_little and enough else min(most, in_proportion)

    def measure(wanted: float) -> Timing:
        timing = timed_share(choose(wanted), MORE_ROUNDS)
        tried.append((wanted / budget.dense, timing[0]))
        return timing

    wanted, measured = confirm(measure, enough or most, most, lambda w: MORE * w, budget.target)
    if measured[0] > budget.target:
        raise budget.out_of_reach(measured[0])
    share, seconds, dense_seconds = measured
    met = {
        "target": budget.target,
        "sparsity": budget.sparsity,
        "measured": share,
        "seconds": seconds,
        "dense_seconds": dense_seconds,
    }
    return {"shares": choose(wanted), "met": met | {"tried": tried, "table": budget.table}}


def shrunk_to(plan: PruningPlan, kept: Kept) -> nn.Module:
    """Return a copy of the denoiser whose groups keep their first items, as many as in `kept`."""
    model = sharing_weights(plan.denoiser)
    for prunable in plan.groups:
        shrink_(model, prunable.group, list(range(kept[prunable.name])))
    return model
