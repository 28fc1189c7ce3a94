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

from .allocation.allocate import allocate, meet_target
from .allocation.budget import kept_to, spent
from .calibration.context import CalibrationContext
from .calibration.dense_pass import require_fitting
from .calibration.gather import DensePass
from .calibration.packages import memory_for_waiting
from .calibration.plan import plan_pruning
from .config import PruningConfig
from .layerwise.bias_correction import has_bias
from .layerwise.executor import Executor, results
from .layerwise.journal import Journal, fingerprint
from .layerwise.permute import permute_layers_
from .layerwise.reporting import (
    begin_report,
    note_few_tokens,
    note_unrepaired,
    note_untouched,
    warn_and_record,
)
from .layerwise.tasks import task_cost, tasks_of
from .models.pruned_classes import mark_pruned_
from .pipelines.call import Prompt
from .pipelines.record import PruningReport
from .pipelines.run import prepared
from .runtime.distributed import Ranks, assign
from .runtime.memory import watched
from .runtime.progress import Progress
from .runtime.scratch import open_scratch


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
    plan = plan_pruning(pipe, prompts, config)
    require_fitting(dense, plan)
    report = begin_report(pipe, plan)
    if dense:
        report.seconds["shared dense pass"] = dense.seconds
    if config.device:
        pipe.to(config.device)
    ranks, tasks = Ranks.here(), tasks_of(plan.packages, plan.groups)
    journal_ = (
        ranks.from_rank_zero(lambda: Journal(Path(journal), fingerprint(pipe, plan, model)))
        if journal
        else None
    )
    plan, budget = meet_target(pipe, plan, journal_, report)
    config = plan.config
    solved = set(
        ranks.from_rank_zero(
            lambda: [task.number for task in tasks if journal_ and journal_.read(task)]
        )
    )
    owners = assign([task_cost(task, plan.shapes) for task in tasks], ranks.size)
    passes = len(plan.packages) if config.calibrating != "single" else 1
    with (
        prepared(pipe, plan.scheduler) as run,
        open_scratch(memory_for_waiting(config, plan.packages, plan.shapes)) as scratch,
        Progress(progress if ranks.rank == 0 else False, passes, plan.calibration_set.here) as bar,
        watched() as report.memory,
    ):
        owner_of = {tap: owners[task.number] for task in tasks for tap in task.taps}
        advance = partial(bar.advance_of, run)
        context = CalibrationContext(
            run,
            plan.denoiser,
            plan.blocks,
            plan.calibration_set,
            scratch,
            config.offload_device,
            advance,
            ranks,
            owner_of,
            config.asymmetric,
        )
        shares, dense = allocate(
            context,
            plan,
            dense,
            journal_,
            report,
            bar,
            partial(spent, budget, pipe, plan) if budget else None,
        )
        dense = permute_layers_(
            context,
            plan,
            dense,
            journal_,
            report,
            {layer for task in tasks if task.number in solved for layer in task.layers},
        )
        executor = Executor(plan.denoiser, config, journal_, solved, scratch, ranks, owners, shares)
        for result in results(context, executor, plan.packages, tasks, dense, report, bar):
            report.layers += result.layers
            report.groups += result.groups
        if budget and budget.unit != "latency":
            report.budget = kept_to(budget, pipe, plan)
    if plan.groups:
        setattr(pipe, plan.component, mark_pruned_(plan.denoiser, report.layout))
        if config.allocation == "uniform":  # else it is what allocation chose
            note_untouched(report, config)
    report.parameters["after"] = sum(p.numel() for p in plan.denoiser.parameters())
    if (
        config.method in ("obs", "alps") or config.refine != "none"
    ):  # the diagonal, all that the other methods read, needs few tokens
        note_few_tokens(report)
    note_unrepaired(report)
    if config.correct_bias and not any(
        has_bias(plan.denoiser.get_submodule(row.name)) for row in report.layers
    ):
        warn_and_record(report, "correct_bias: none of the layers that were pruned has a bias")
    return report
