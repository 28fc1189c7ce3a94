"""START HERE: one-shot pruning of a diffusers pipeline by OBS-Diff.

    1. Find the denoiser's blocks and, in them, the linear layers that read the same input   (architectures.py)
       (a convolution is one, too: that of its unfolded input                                 unfolding.py)
    2. Split them, in forward order, into module packages                                    (packages.py)
       (if not every layer gets the same share of zeros: who gets how many                   sensitivity.py, allocation.py, structured_sensitivity.py, budget.py)
    3. For each package: run the calibration prompts through the model as pruned so far and
       gather one Hessian per input, weighted by denoising step                              (gathering.py, calibration.py, hessian.py)
       (for N:M, if asked: neurons and value dimensions in another order first           permuting.py)
    4. Prune every layer of the package with its Hessian                                     (solve.py, pieces.py, solvers/)

so that the Hessians of later packages see what earlier ones broke, and repair it. With calibration "single" all Hessians
come from one pass through the dense model.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025. https://arxiv.org/abs/2510.06751
"""

import contextlib
import time
import warnings
from collections.abc import Iterator, Sequence, Set
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .architectures import uncovered
from .arguments import described_prompts, prompts_hash
from .biases import has_bias
from .budget import Budget, budget_of, kept_to, spent
from .choices import BUDGETS
from .config import PruningConfig
from .dense import require_fitting
from .errors import CalibrationWarning
from .folder import chosen_denoiser
from .gathering import GATHER, DensePass, Site, gather
from .job import Job, job_of
from .journal import Journal, fingerprint
from .latency import meet
from .own_memory import watched
from .packages import Package, room
from .permuting import orders_of, permute_by_
from .pieces import Outcome, Piece, cost, pieces_of
from .progress import Progress
from .pruned_models import mark_pruned_
from .ranks import Ranks, shared_out
from .record import PruningReport
from .running import Prompt, prepared
from .sensitivity import allocate
from .settings import denoisers_besides
from .solve import AtWork
from .store import store
from .structured_sensitivity import Spending, allocate_groups


def prune_(
    pipe: Any,
    prompts: Sequence[Prompt],
    config: PruningConfig | None = None,
    *,
    dense: DensePass | None = None,
    journal: Path | None = None,
    model: dict[str, str] | None = None,
    progress: bool | None = None,
) -> PruningReport:
    """Prune the denoiser of a diffusers pipeline in place, and say what was done.

    prompts: the calibration prompts, as strings, or as dicts with the keyword arguments of one pipeline call each;
    config.num_prompts of them are sampled. dense: what `dense_pass` gathered with this config for several prunings of the
    same model. journal: a folder in which what is solved is kept, and from which a killed run goes on, to the same result; model: what
    `model_hashes` said of this pipeline, if it was asked before. progress: show a display on stderr (default: if it is a
    terminal). The pipeline runs in the number format and on the device it has; config.device moves it first. Everything but
    the pruned weights is left as it was. If it raises, layers pruned until then stay pruned. Where torch.distributed is in use
    all its processes call this together, and end with the same weights.

    Raises UserError (a ValueError) for input that can't be used, CalibrationError for a calibration that can't be
    trusted and NotPositiveDefinite for a Hessian that can't be factored, both with the layer's name.
    """
    config = config or PruningConfig()
    job = job_of(pipe, prompts, config)
    require_fitting(dense, job)
    report = report_of(pipe, job)
    if dense:
        report.seconds["shared dense pass"] = dense.seconds
    if config.device:
        pipe.to(config.device)
    ranks, pieces = Ranks.here(), pieces_of(job.packages, job.groups)
    kept = (
        ranks.agree(lambda: Journal(Path(journal), fingerprint(pipe, job, model)))
        if journal
        else None
    )
    job, budget = aimed(pipe, job, kept, report)
    config = job.config
    solved = set(
        ranks.agree(lambda: [piece.number for piece in pieces if kept and kept.read(piece)])
    )
    owners = shared_out([cost(piece, job.linears) for piece in pieces], ranks.size)
    passes = len(job.packages) if config.calibrating != "single" else 1
    with (
        prepared(pipe, job.scheduler) as run,
        store(room(config, job.packages, job.linears)) as waiting,
        Progress(progress if ranks.rank == 0 else False, passes, job.plan.here) as bar,
        watched() as report.memory,
    ):
        owner_of = {tap: owners[piece.number] for piece in pieces for tap in piece.taps}
        advance = partial(bar.advance_of, run)
        site = Site(
            run,
            job.denoiser,
            job.blocks,
            job.plan,
            waiting,
            config.offload_device,
            advance,
            ranks,
            owner_of,
            config.asymmetric,
        )
        shares, dense = allotted(
            site,
            job,
            dense,
            kept,
            report,
            bar,
            partial(spent, budget, pipe, job) if budget else None,
        )
        dense = in_order(
            site,
            job,
            dense,
            kept,
            report,
            {layer for piece in pieces if piece.number in solved for layer in piece.layers},
        )
        at_work = AtWork(job.denoiser, config, kept, solved, waiting, ranks, owners, shares)
        for outcome in outcomes(site, at_work, job.packages, pieces, dense, report, bar):
            report.layers += outcome.layers
            report.groups += outcome.groups
        if budget and budget.unit != "latency":
            report.budget = kept_to(budget, pipe, job)
    if job.groups:
        setattr(pipe, job.component, mark_pruned_(job.denoiser, report.layout))
        if config.allocation == "uniform":  # else it is what allocation chose
            note_untouched(report, config)
    report.parameters["after"] = sum(p.numel() for p in job.denoiser.parameters())
    if (
        config.method in ("obs", "alps") or config.refine != "none"
    ):  # the diagonal, all that the other methods read, needs few tokens
        note_few_tokens(report)
    note_unrepaired(report)
    if config.correct_bias and not any(
        has_bias(job.denoiser.get_submodule(row.name)) for row in report.layers
    ):
        note(report, "correct_bias: none of the layers that were pruned has a bias")
    return report


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


def in_order(
    site: Site,
    job: Job,
    dense: DensePass | None,
    kept: Journal | None,
    report: PruningReport,
    done: Set[str],
) -> DensePass | None:
    """With permute, neurons and heads' value dimensions put into the order in which the pattern keeps most, and the dense pass as this pruning
    is to read it. A run that goes on finds the order noted; `done` are the layers that it solved."""
    if not job.config.permute:
        return dense
    taps = tuple(tap for package in job.packages for tap in package.taps)
    found = site.ranks.agree(lambda: kept.recall("permutation")) if kept else None
    wanted = [tap for tap in taps if found is None or not done >= set(tap.layers)]
    with seconds(
        report, "calibration"
    ):  # before the model changes: a sum in another order has other bits
        dense = dense or (
            gather(site, wanted, job.config.calibrating) if wanted else DensePass(job.plan)
        )
    with seconds(report, "permutation"):
        found = found or orders_of(site, job.blocks, dense.of(taps), job.config)
        if kept and site.ranks.rank == 0:
            kept.note("permutation", found)
        dense = permute_by_(site, job.blocks, found["orders"], dense, job.config)
    report.permutation = found["record"]
    if not found["orders"]:
        note(
            report,
            f"permute: no layer got another order of its inputs; {found['record']['why_left'] or 'none keeps more in another one'}",
        )
    return dense


def outcomes(
    site: Site,
    at_work: AtWork,
    packages: list[Package],
    pieces: list[Piece],
    dense: DensePass | None,
    report: PruningReport,
    bar: Progress,
) -> Iterator[Outcome]:
    """Steps 3 and 4, package after package."""
    done = {layer for piece in pieces if piece.number in at_work.solved for layer in piece.layers}
    with contextlib.closing(
        GATHER[at_work.config.calibrating](site, packages, dense, done)
    ) as gathered:
        for index in range(len(packages)):
            bar.package(index)
            with seconds(report, "calibration"):
                hessians = next(gathered)
            with seconds(report, "solve"):
                yield from at_work.package(
                    [piece for piece in pieces if piece.package == index], hessians
                )


@contextlib.contextmanager
def seconds(report: PruningReport, phase: str) -> Iterator[None]:
    """Add the seconds of the block to a phase of the report."""
    began = time.perf_counter()
    yield
    report.seconds[phase] = report.seconds.get(phase, 0.0) + time.perf_counter() - began


def report_of(pipe: Any, job: Job) -> PruningReport:
    """The report as it is before anything is pruned."""
    plan = job.plan
    prompts, seeds = plan.drawn
    report = PruningReport(
        job.config.to_dict(),
        plan.settings,
        described_prompts(prompts),
        seeds,
        job.component,
        [list(p.layers) for p in job.packages],
    )
    report.threads = torch.get_num_threads()
    report.hashes["prompts"] = prompts_hash(
        report.prompts, seeds
    )  # what is described is not hashed again
    report.parameters["before"] = sum(p.numel() for p in job.denoiser.parameters())
    if job.config.component is None and (others := denoisers_besides(pipe, job.component)):
        note(report, chosen_denoiser(type(pipe).__name__, job.component, others))
    for layer in uncovered(job.linears, job.blocks, job.config.target):
        note(report, f"{layer}: no table entry covers this layer; it stays dense")
    return report


def note_untouched(report: PruningReport, config: PruningConfig) -> None:
    """One warning for all groups that lost nothing, because they have few heads, or fewer neurons than round_to lets go."""
    whole = [row for row in report.groups if row.kept == row.total]
    if whole and config.removed > 0:
        first = f"{whole[0].owner} keeps all its {whole[0].total} {whole[0].kind}"
        note(
            report,
            f"{len(whole)} of {len(report.groups)} groups lost nothing at sparsity {config.removed:g} and round_to {config.round_to}: {first}",
        )


def note_few_tokens(report: PruningReport) -> None:
    """One warning for all layers that saw fewer distinct tokens than they have columns."""
    few = sorted(
        (row for row in report.layers if row.tokens_per_column < 1),
        key=lambda row: row.tokens_per_column,
    )
    if few:
        worst = f"{few[0].name} has {few[0].tokens_per_column:.2f}"
        note(
            report,
            f"{len(few)} layers saw less than one distinct token per column ({worst}), where OBS can do worse than magnitude: take more prompts or steps",
        )


def note_unrepaired(report: PruningReport) -> None:
    """One warning for all layers whose repair the held-out prompts refused."""
    bare = [row for row in report.layers if row.repaired is False]
    if bare:
        worst = max(bare, key=lambda row: row.held_out_error)
        note(
            report,
            f"{len(bare)} of {len(report.layers)} layers keep their weights unrepaired, since the repair made them worse on the held-out prompts "
            f"(most is lost in {worst.name}, held-out error {worst.held_out_error:.3g}): take more prompts or steps",
        )


def note(report: PruningReport, text: str) -> None:
    """Warn, and keep the warning in the record."""
    report.warnings.append(text)
    warnings.warn(text, CalibrationWarning, stacklevel=3)
