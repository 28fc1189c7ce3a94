"""Which layer gives up how much: uniform, by one of the allocations, or to a budget."""

from dataclasses import asdict, replace
from typing import Any

from ..calibration.context import Site
from ..calibration.gather import DensePass, gather
from ..calibration.plan import Job
from ..config.choices import BUDGETS
from ..layerwise.journal import Journal
from ..layerwise.reporting import seconds
from ..pipelines.record import PruningReport
from ..pipelines.run import prepared
from ..runtime.distributed import Ranks
from ..runtime.progress import Progress
from .budget import Budget, budget_of
from .group_curves import Spending, allocate_groups
from .layer_sensitivity import allocate
from .uniform_latency import meet


def aimed(
    pipe: Any, job: Job, kept: Journal | None, report: PruningReport
) -> tuple[Job, Budget | None]:
    """The job with the uniform sparsity that meets its target, if it has one, and the budget where allocation is to meet it. A run that goes
    on finds both noted."""
    if not job.config.budget and job.config.target_latency is None:
        return job, None
    name = "budget" if job.config.budget else "latency"

    def found() -> dict[str, Any]:
        note = kept.recall(name) if kept else None
        if note is None:
            with seconds(report, name), prepared(pipe, job.scheduler):
                note = asdict(budget_of(pipe, job)) if name == "budget" else meet(pipe, job)
            if kept:
                kept.note(name, note)
        return note

    note = Ranks.here().agree(found)
    budget = Budget(**note) if name == "budget" else None
    if not budget:
        report.latency = note
    config = replace(job.config, sparsity=note["sparsity"], **dict.fromkeys(BUDGETS))
    report.config = config.to_dict()
    return replace(job, config=config), budget


def allotted(
    site: Site,
    job: Job,
    dense: DensePass | None,
    kept: Journal | None,
    report: PruningReport,
    bar: Progress,
    spending: Spending | None,
) -> tuple[dict[str, float], DensePass | None]:
    """The sparsity of every layer, or what every group keeps, where it is not the config that says so, and the dense pass that it took. A
    run that goes on finds it noted."""
    if job.config.allocation == "uniform":
        return {}, dense
    found = site.ranks.agree(lambda: kept.recall("allocation")) if kept else None
    if found is None:
        taps = [tap for package in job.packages for tap in package.taps]
        with seconds(report, "calibration"):
            dense = dense or gather(site, taps, job.config.calibrating)
        with seconds(report, "allocation"):
            if job.groups:
                found = allocate_groups(
                    site, job.groups, taps, dense, job.config, bar.trying, spending
                )
            else:
                found = allocate(site, taps, dense, job.config, bar.trying)
        if kept and site.ranks.rank == 0:
            kept.note("allocation", found)
    report.sensitivity = found["sensitivity"]
    report.latency = found.get("met") or report.latency
    return found["shares"], dense
