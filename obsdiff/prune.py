"""START HERE: one-shot pruning of a diffusers pipeline by OBS-Diff.

    1. Find the denoiser's blocks and, in them, the linear layers that read the same input   (models/discovery.py)
       (a convolution is one, too: that of its unfolded input                                 models/linear_view.py)
    2. Split them, in forward order, into module packages                                    (calibration/packages.py)
       (if not every layer gets the same share of zeros: who gets how many                   allocation/layer_sensitivity.py, allocation/equal_price.py, allocation/group_curves.py, allocation/budget.py)
    3. For each package: run the calibration prompts through the model as pruned so far and
       gather one Hessian per input, weighted by denoising step                              (calibration/gather.py, calibration/hooks.py, calibration/hessian.py)
       (for N:M, if asked: neurons and value dimensions in another order first           layerwise/permute.py)
    4. Prune every layer of the package with its Hessian                                     (layerwise/executor.py, layerwise/linear.py, solvers/)

so that the Hessians of later packages see what earlier ones broke, and repair it. With calibration "single" all Hessians
come from one pass through the dense model.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025. https://arxiv.org/abs/2510.06751
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .allocation.allocate import aimed, allotted
from .allocation.budget import kept_to, spent
from .calibration.context import Site
from .calibration.dense_pass import require_fitting
from .calibration.gather import DensePass
from .calibration.packages import room
from .calibration.plan import job_of
from .config import PruningConfig
from .layerwise.bias_correction import has_bias
from .layerwise.executor import AtWork, outcomes
from .layerwise.journal import Journal, fingerprint
from .layerwise.permute import in_order
from .layerwise.reporting import note, note_few_tokens, note_unrepaired, note_untouched, report_of
from .layerwise.tasks import cost, pieces_of
from .models.pruned_classes import mark_pruned_
from .pipelines.call import Prompt
from .pipelines.record import PruningReport
from .pipelines.run import prepared
from .runtime.distributed import Ranks, shared_out
from .runtime.memory import watched
from .runtime.progress import Progress
from .runtime.scratch import store


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
