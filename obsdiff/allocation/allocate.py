"""The allocation of a run: uniform, by one of the methods, or to a budget."""

from dataclasses import asdict, replace
from typing import Any

from ..calibration.context import ALLOCATION, CalibrationContext
from ..calibration.gather import DensePass, gather_dense
from ..calibration.groups import at_sparsity
from ..calibration.plan import PruningPlan
from ..layerwise.journal import NullJournal
from ..layerwise.reporting import seconds
from ..layerwise.tasks import Allocation
from ..pipelines.record import PruningReport
from ..pipelines.run import prepared
from ..runtime.display import current
from ..runtime.distributed import Ranks
from .budget import Budget, budget_from, budget_of, call_of
from .depth_target import at_budget, block_budget
from .group_curves import kept_of_groups
from .layer_sensitivity import layer_sparsities
from .uniform_latency import sparsity_for_latency


def meet_target(
    pipe: Any, plan: PruningPlan, journal: NullJournal, report: PruningReport
) -> tuple[PruningPlan, Budget | None]:
    """Return the plan at the uniform sparsity, or with the blocks, that meet its target.

    Args:
        pipe: the dense pipeline.
        plan: the pruning; without a target it is returned unchanged.
        journal: stores what was found; a resumed run reads it.
        report: records the latency and the time.

    Returns:
        The plan, and the budget that allocation has to keep, if the config allocates.

    Raises:
        UserError: the target cannot be reached.
    """
    config = plan.config
    if not config.budget and config.target_latency is None:
        return plan, None
    phase, ranks = "budget" if config.budget else "latency", Ranks.here()

    def measure() -> dict[str, Any]:
        with seconds(report, phase), prepared(pipe, plan.scheduler):
            if plan.depth:
                call = call_of(pipe, plan)
                return asdict(block_budget(plan.depth, plan.denoiser, config, call))
            if config.budget:
                return asdict(budget_of(pipe, plan))
            return sparsity_for_latency(pipe, plan)

    current().plan(phase)
    found = journal.once(phase, lambda: ranks.from_rank_zero(measure), ranks)
    current().complete(phase)
    if not config.budget:
        report.latency = found
    if plan.depth:
        budget = budget_from(found)
        return replace(plan, depth=at_budget(plan.depth, budget)), budget
    plan = plan.at(at_sparsity(config, found["sparsity"]))
    report.config = plan.config.to_dict()
    return plan, budget_from(found) if config.budget else None


def allocate(
    context: CalibrationContext,
    plan: PruningPlan,
    dense: DensePass | None,
    journal: NullJournal,
    report: PruningReport,
    budget: Budget | None,
) -> tuple[Allocation, DensePass | None]:
    """Return the sparsity of every layer, or the items that every group keeps.

    Args:
        context: the calibration context.
        plan: the pruning; a uniform one needs no allocation.
        dense: a dense pass made before (None: one is made if it is needed).
        journal: stores every measurement and the allocation; a resumed run reads them.
        report: records sensitivities, latency and time.
        budget: what has to be saved (None: as much as uniform pruning saves).

    Returns:
        The allocation, and the dense pass, if there is one now.
    """
    if plan.config.allocation == "uniform":
        return Allocation(given=plan.given), dense
    own = dense

    def find() -> dict[str, Any]:
        nonlocal own
        with seconds(report, "calibration"):
            own = own or gather_dense(context, list(plan.taps), plan.config.calibrating)
        with seconds(report, "allocation"):
            if plan.groups:
                spend = budget.spend(context, plan) if budget else None
                return kept_of_groups(context, plan, own, journal, spend)
            return layer_sparsities(context, plan, own, journal)

    found = journal.once("allocation", find, context.ranks)
    current().complete(ALLOCATION)
    report.sensitivity = found["sensitivity"]
    report.latency = found.get("met") or report.latency
    shares = found["shares"]
    return Allocation(kept=shares) if plan.groups else Allocation(sparsity=shares), own


def record_budget(
    pipe: Any, plan: PruningPlan, budget: Budget | None, report: PruningReport
) -> None:
    """Record the size of the pruned denoiser, counted anew, if there is a budget.

    Args:
        pipe: the pruned pipeline.
        plan: the pruning.
        budget: the target; nothing is recorded for None.
        report: receives the record.
    """
    if budget:
        report.budget = budget.kept(pipe, plan)
