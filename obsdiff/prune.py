"""START HERE: one-shot pruning of a diffusers pipeline by OBS-Diff.

    1. Find the denoiser's blocks and, in them, the linear layers that read the same input   (architectures.py)
       (a convolution is one, too: that of its unfolded input                                 unfolding.py)
    2. Split them, in forward order, into module packages                                    (packages.py)
    3. For each package: run the pipeline on the calibration prompts as pruned so far and
       gather one Hessian per input, weighted by denoising step                              (calibration.py, hessian.py)
    4. Prune every layer of the package with its Hessian                                     (solvers/)

so that the Hessians of later packages see what earlier ones broke, and repair it.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025. https://arxiv.org/abs/2510.06751
"""

import time
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from .adapters import require_plain
from .architectures import Group, Tap, require_blocks, uncovered
from .calibration import Plan, calibrate
from .config import PruningConfig
from .errors import CalibrationError, CalibrationWarning, NotPositiveDefinite, UserError
from .folder import chosen_denoiser
from .hessian import Hessian
from .packages import Package, plan_packages, select, select_groups
from .progress import Progress
from .prune_structured import prune_groups_, require_prunable
from .pruned_models import mark_pruned_
from .record import LayerRecord, PruningReport
from .running import Prompt, Run, prepared
from .settings import call_settings, check_devices, check_prompts, choose_prompts, denoiser_name, denoisers_besides, scheduler_name
from .solvers import SOLVERS, Inputs, Target
from .solvers.solution import layer_error
from .surgery import layer_shapes
from .unfolding import matrix, refusal, write_


def prune_(pipe: Any, prompts: Sequence[Prompt], config: PruningConfig | None = None, *, progress: bool | None = None) -> PruningReport:
    """Prune the denoiser of a diffusers pipeline in place, and say what was done.

    prompts: the calibration prompts, as strings, or as dicts with the keyword arguments of one pipeline call each;
    config.num_prompts of them are sampled. progress: show a display on stderr (default: if it is a terminal). The
    pipeline runs in the number format and on the device it has; config.device moves it first. Everything but the pruned
    weights is left as it was. If it raises, layers pruned until then stay pruned.

    Raises UserError (a ValueError) for input that can't be used, CalibrationError for a calibration that can't be
    trusted and NotPositiveDefinite for a Hessian that can't be factored, both with the layer's name.
    """
    config = config or PruningConfig()
    check_devices(config)
    name = denoiser_name(pipe, config.component)
    scheduler = scheduler_name(pipe, name)
    denoiser: nn.Module = getattr(pipe, name)
    require_plain(pipe, name)
    linears = layer_shapes(denoiser, config.target)
    blocks = require_blocks(linears, type(denoiser).__name__, config.target)
    packages = plan_packages(select(blocks, config, linears), linears, config)
    groups = select_groups(blocks, config) if config.pattern == "structured" else []
    require_prunable(denoiser, groups)
    require_usable(denoiser, [layer for package in packages for layer in package.layers])
    chosen, seeds = choose_prompts(list(prompts), config)
    check_prompts(pipe, chosen)
    settings = call_settings(pipe, config)
    report = PruningReport(config.to_dict(), settings, chosen, seeds, name, [list(p.layers) for p in packages])
    report.parameters["before"] = sum(p.numel() for p in denoiser.parameters())
    if config.component is None and (others := denoisers_besides(pipe, name)):
        note(report, chosen_denoiser(type(pipe).__name__, name, others))
    for layer in uncovered(linears, blocks, config.target):
        note(report, f"{layer}: no table entry covers this layer; it stays dense")
    if config.device:
        pipe.to(config.device)
    weighting = (config.step_weighting, config.step_weight_min, config.step_weight_max)
    job = Plan(chosen, seeds, settings, config.batch_size, weighting)
    with prepared(pipe, scheduler) as run, Progress(progress, len(packages), len(chosen)) as bar:
        for index, package in enumerate(packages):
            inside = [group for group in groups if group.consumers[0] in package.layers]
            prune_package_(run, denoiser, package, inside, index, job, config, report, bar)
    if groups:
        setattr(pipe, name, mark_pruned_(denoiser, report.layout))
        note_untouched(report, config)
    report.parameters["after"] = sum(p.numel() for p in denoiser.parameters())
    if config.method == "obs":  # the diagonal, all that the other methods read, needs few tokens
        note_few_tokens(report)
    return report


def note_untouched(report: PruningReport, config: PruningConfig) -> None:
    """One warning for all groups that lost nothing, because they have few heads, or fewer neurons than round_to lets go."""
    whole = [row for row in report.groups if row.kept == row.total]
    if whole and config.removed > 0:
        first = f"{whole[0].owner} keeps all its {whole[0].total} {whole[0].kind}"
        note(report, f"{len(whole)} of {len(report.groups)} groups lost nothing at sparsity {config.removed:g} and round_to {config.round_to}: {first}")


def note_few_tokens(report: PruningReport) -> None:
    """One warning for all layers that saw fewer distinct tokens than they have columns."""
    few = sorted((row for row in report.layers if row.tokens_per_column < 1), key=lambda row: row.tokens_per_column)
    if few:
        worst = f"{few[0].name} has {few[0].tokens_per_column:.2f}"
        note(
            report,
            f"{len(few)} layers saw less than one distinct token per column ({worst}), where OBS can do worse than magnitude: take more prompts or steps",
        )


def note(report: PruningReport, text: str) -> None:
    """Warn, and keep the warning in the record."""
    report.warnings.append(text)
    warnings.warn(text, CalibrationWarning, stacklevel=3)


def require_usable(denoiser: nn.Module, layers: list[str]) -> None:
    """UserError for the first layer that is no linear one even when its input is unfolded, CalibrationError for the first
    whose weight has inf or NaN."""
    for layer in layers:
        reason = refusal(denoiser.get_submodule(layer))
        if reason:
            raise UserError(f"{layer}: {reason}; leave it out with --exclude '{layer}'")
        if not denoiser.get_submodule(layer).weight.isfinite().all():
            raise CalibrationError(f"{layer}: its weight has inf or NaN")


def prune_package_(
    run: Run, denoiser: nn.Module, package: Package, groups: list[Group], index: int, job: Plan, config: PruningConfig, report: PruningReport, bar: Progress
) -> None:
    """Steps 3 and 4 for one package."""
    began = time.perf_counter()
    bar.package(index)
    hessians = calibrate(run, denoiser, list(package.taps), job, config.offload_device, lambda prompts: bar.advance(prompts, run.steps))
    report.seconds["calibration"] = report.seconds.get("calibration", 0.0) + time.perf_counter() - began
    began = time.perf_counter()
    if groups:
        layers, chosen = prune_groups_(denoiser, groups, {layer: h for tap, h in hessians.items() for layer in tap.layers}, config, index)
        report.layers += layers
        report.groups += chosen
    for tap in () if groups else package.taps:
        report.layers += prune_tap_(denoiser, tap, hessians.pop(tap), config, index)
    report.seconds["solve"] = report.seconds.get("solve", 0.0) + time.perf_counter() - began


def prune_tap_(denoiser: nn.Module, tap: Tap, hessian: Hessian, config: PruningConfig, package: int) -> list[LayerRecord]:
    """Prune the layers of one tap with their common Hessian, in place."""
    began = time.perf_counter()
    modules = [denoiser.get_submodule(layer) for layer in tap.layers]
    weights = [matrix(module) for module in modules]
    square = hessian.matrix()
    inputs = Inputs(square, hessian.mean(), hessian.variance())
    target = Target(config.removed, config.group, config.damping, config.compensation)
    try:
        solutions = SOLVERS[config.method]([w.to(square.device) for w in weights], inputs, target)
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{tap.layers[0]}: {error}") from None
    records = []
    for layer, module, weight, solution in zip(tap.layers, modules, weights, solutions, strict=True):
        if not solution.weight.isfinite().all():
            raise NotPositiveDefinite(f"{layer}: the pruned weight has inf or NaN; raise the damping (now {solution.damping:g})")
        error = layer_error(weight, solution.weight, square)
        write_(module, solution.weight)
        zeros = (module.weight == 0).float().mean().item()
        seconds = (time.perf_counter() - began) / len(tap.layers)
        per_column = hessian.distinct / hessian.columns
        records.append(LayerRecord(layer, tuple(weight.shape), package, zeros, solution.loss, error, solution.damping, per_column, seconds))
    return records
