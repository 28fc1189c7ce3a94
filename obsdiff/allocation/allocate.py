"""Which layer gives up how much: uniform, by one of the allocations, or to a budget."""

from dataclasses import asdict, replace
from typing import Any

from ..calibration.context import CalibrationContext
from ..calibration.gather import DensePass, gather
from ..calibration.plan import PruningPlan
from ..config.choices import BUDGETS
from ..layerwise.journal import Journal
from ..layerwise.reporting import seconds
from ..pipelines.record import PruningReport
from ..pipelines.run import prepared
from ..runtime.distributed import Ranks
from ..runtime.progress import Progress
from .budget import Budget, budget_of
from .group_curves import Spending, allocate_groups
from .layer_sensitivity import layer_sparsities
from .uniform_latency import sparsity_for_latency


def meet_target(
    pipe: Any, plan: PruningPlan, journal_: Journal | None, report: PruningReport
) -> tuple[PruningPlan, Budget | None]:
    """The job with the uniform sparsity that meets its target, if it has one, and the budget where allocation is to meet it. A run that goes
    on finds both noted."""
    if not plan.config.budget and plan.config.target_latency is None:
        return plan, None
    name = "budget" if plan.config.budget else "latency"

    def found() -> dict[str, Any]:
        note = journal_.recall(name) if journal_ else None
        if note is None:
            with seconds(report, name), prepared(pipe, plan.scheduler):
                note = (
                    asdict(budget_of(pipe, plan))
                    if name == "budget"
                    else sparsity_for_latency(pipe, plan)
                )
            if journal_:
                journal_.note(name, note)
        return note

    note = Ranks.here().from_rank_zero(found)
    budget = Budget(**note) if name == "budget" else None
    if not budget:
        report.latency = note
    config = replace(plan.config, sparsity=note["sparsity"], **dict.fromkeys(BUDGETS))
    report.config = config.to_dict()
    return replace(plan, config=config), budget


def allocate(
    context: CalibrationContext,
    plan: PruningPlan,
    dense: DensePass | None,
    journal_: Journal | None,
    report: PruningReport,
    bar: Progress,
    spending: Spending | None,
) -> tuple[dict[str, float], DensePass | None]:
    """The sparsity of every layer, or what every group keeps, where it is not the config that says so, and the dense pass that it took. A
    run that goes on finds it noted."""
    if plan.config.allocation == "uniform":
        return {}, dense
    found = (
        context.ranks.from_rank_zero(lambda: journal_.recall("allocation")) if journal_ else None
    )
    if found is None:
        taps = [tap for package in plan.packages for tap in package.taps]
        with seconds(report, "calibration"):
            dense = dense or gather(context, taps, plan.config.calibrating)
        with seconds(report, "allocation"):
            if plan.groups:
                found = allocate_groups(
                    context, plan.groups, taps, dense, plan.config, bar.trying, spending
                )
            else:
                found = layer_sparsities(context, taps, dense, plan.config, bar.trying)
        if journal_ and context.ranks.rank == 0:
            journal_.note("allocation", found)
    report.sensitivity = found["sensitivity"]
    report.latency = found.get("met") or report.latency
    return found["shares"], dense
