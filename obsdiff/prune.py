"""START HERE: one-shot pruning of a diffusers pipeline by OBS-Diff.

    1. Find the denoiser's blocks and, in them, the layers that read the same input  models/
       (a convolution is a linear layer of its unfolded input                        linear_view.py)
    2. Split them, in forward order, into module packages                            calibration/
    3. For each package: run the calibration prompts through the model as pruned so
       far, and sum one Hessian per input, weighted by denoising step                hooks.py
    4. Prune every layer of the package with its Hessian                             layerwise/
       by a method that reads tensors alone                                          solvers/

so that the Hessians of later packages are those of the pruned model. With calibration "single" all
Hessians come from one pass through the dense model. Before step 3, if configured, allocation/
decides the sparsity of each layer, and layerwise/permute.py orders the inputs for N:M. For pattern
depth allocation/depth.py measures which blocks leave, without Hessians. Modulation layers are
folded apart from all that, by layerwise/modulation.py.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .allocation.allocate import allocate, meet_target, record_budget
from .allocation.depth import prune_depth_
from .calibration.context import prepared_run
from .calibration.dense_pass import require_fitting
from .calibration.devices import device_rooms
from .calibration.gather import DensePass, gather
from .calibration.given import Given
from .calibration.packages import scratch_room
from .calibration.plan import PruningPlan, plan_pruning
from .calibration.rounded_too import with_factors
from .config import PruningConfig
from .config.given import config_of
from .layerwise.applied import marked_if_interrupted, require_applied
from .layerwise.executor import Executor
from .layerwise.journal import JournalPlace, open_journal
from .layerwise.linear import prune_layers_
from .layerwise.modulation import find_factors, fold_all_
from .layerwise.permute import permute_layers_
from .layerwise.reporting import begin_report, timed, warn_of
from .layerwise.rounding import round_to_nearest_
from .layerwise.run_phases import plan_phases
from .layerwise.structured import prune_structured_
from .layerwise.tasks import owners_of, tasks_of
from .models.pruned_classes import mark_corrected_, mark_folded_, mark_pruned_
from .pipelines.call import Prompt
from .pipelines.general_prompts import general_prompts
from .pipelines.placement import placed
from .pipelines.record import PruningReport
from .runtime.distributed import Ranks
from .runtime.machine import device_watched
from .runtime.memory import watched
from .runtime.scratch import open_scratch
from .runtime.torch_state import plain_torch


@plain_torch()
def prune_(
    pipe: Any,
    prompts: Sequence[Prompt] | None = None,
    config: PruningConfig | None = None,
    *,
    removed: Given | None = None,
    dense: DensePass | None = None,
    journal: Path | str | JournalPlace | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> PruningReport:
    """Prune the denoiser of a diffusers pipeline in place.

    The pipeline runs in its own dtype and on its own device; config.device moves it first. All but
    the pruned weights is restored. If the call raises, layers pruned before remain pruned, and a
    model that has shrunk is of its pruned class. torch.autocast and other states of torch around
    the call do not count. Under torch.distributed all processes call this together, and end with
    the same weights.

    Args:
        pipe: the diffusers pipeline.
        prompts: the calibration prompts: strings, or dicts with the keyword arguments of one
            pipeline call each. config.num_prompts of them are sampled. Default: obsdiff's general
            captions; captions like those that will be drawn are better.
        config: the settings (default: PruningConfig(**settings)).
        removed: what leaves, where the caller decides it: the indices of heads, neurons or channels
            by their group, such as "transformer_blocks.1.attn heads", or with another pattern than
            structured a mask by layer, (O, I) or in the shape of the weight, True where a weight
            leaves. All else stays; what is left of the layers is repaired. The config's sparsity
            does not count.
        dense: a dense pass that `dense_pass` made with this config, for several prunings.
        journal: a folder that stores what is solved, from which a killed run resumes, to the same
            result.
        progress: False shows nothing. True and None show the phases and the time left on stderr:
            on a terminal or in a notebook in place, else as a line from time to time.
        settings: settings of PruningConfig, such as sparsity=0.5, instead of `config`.

    Returns:
        The record of the pruning, which `save_pruned` stores.

    Raises:
        UserError: the input cannot be used (a ValueError).
        CalibrationError: the calibration is not complete or not finite, with the layer's name.
        NotPositiveDefinite: a Hessian cannot be factored, with the layer's name.
        RunFailed: at the end a layer is not as recorded.
    """
    given = general_prompts() if prompts is None else prompts
    plan = plan_pruning(pipe, given, config_of(config, settings), removed)
    require_fitting(dense, plan)
    with placed(pipe, plan.component, plan.config):
        return prune_planned(pipe, plan, dense, journal, progress)


def prune_planned(
    pipe: Any,
    plan: PruningPlan,
    dense: DensePass | None,
    journal: Path | str | JournalPlace | None,
    progress: bool | None,
) -> PruningReport:
    """Prune the denoiser of a placed pipeline; the other arguments are those of `prune_`."""
    report = begin_report(pipe, plan, dense.seconds if dense else None)
    ranks = Ranks.here()
    stored = ranks.from_rank_zero(lambda: open_journal(journal, pipe, plan))
    report.fingerprint = stored.fingerprint
    plan, budget = meet_target(pipe, plan, stored, report)
    tasks = tasks_of(plan.packages, plan.groups)
    prune_task_ = prune_structured_ if plan.groups else prune_layers_
    room = ranks.least(scratch_room(plan.config, plan.packages, plan.shapes))
    with (
        open_scratch(room, device_rooms(pipe, [plan], ranks)) as scratch,
        prepared_run(
            pipe, plan, scratch, owners_of(tasks, plan.shapes, ranks), progress
        ) as context,
        watched() as report.memory,
        device_watched(report.memory),
        marked_if_interrupted(pipe, plan),
    ):
        if ranks.size == 1:
            context = replace(context, recording=stored.recording)
        factors = find_factors(context, plan, report)
        if plan.depth:
            prune_depth_(context, plan, stored, report)
        elif plan.packages:
            executor = Executor.of(context, plan, tasks, stored)
            plan_phases(plan, dense, executor)
            allocation, dense = allocate(context, plan, dense, stored, report, budget)
            dense = permute_layers_(context, plan, dense, stored, report, executor.solved_layers)
            gathered = gather(context, plan, dense, executor.solved_layers)
            for package, inputs in timed(report, "calibration", gathered):
                work = partial(prune_task_, plan.denoiser, inputs, plan.config, allocation)
                for result in timed(report, "solve", executor.run(package, work)):
                    report.add(result.layers, result.groups)
        record_budget(pipe, plan, budget, report)
    if plan.groups:
        setattr(pipe, plan.component, mark_pruned_(plan.denoiser, report.layout))
    setattr(pipe, plan.component, mark_corrected_(plan.denoiser))
    fold_all_(plan.denoiser, factors)
    setattr(pipe, plan.component, mark_folded_(plan.denoiser))
    beside = with_factors(plan.denoiser, plan.rounded_too, plan.config)
    report.rounded_too = round_to_nearest_(plan.denoiser, beside, plan.config)
    require_applied(pipe, plan, report)
    report.parameters["after"] = sum(p.numel() for p in plan.denoiser.parameters())
    warn_of(report, plan)
    return report
