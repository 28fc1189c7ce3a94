"""The plan of a pruning: layers, packages, memory, number of denoiser calls. Nothing is run."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from ..allocation.block_effects import trials_of
from ..allocation.budget import size_budget
from ..allocation.depth import DAMPINGS
from ..calibration.depth_selection import select_depth
from ..calibration.groups import at_sparsity, prunable_groups
from ..calibration.modulation_selection import select_modulation
from ..calibration.packages import (
    GIB,
    Package,
    passes,
    plan_packages,
    scratch_room,
    work_bytes,
)
from ..calibration.selection import select, select_groups
from ..calibration.thinning import kept_of_image
from ..config import PruningConfig
from ..errors import RunFailed, UserError
from ..layerwise.run_phases import DRAWN_FIRST, GRADIENT_RUNS
from ..models.call_shapes import CallArguments, has_arguments, reads_text
from ..models.discovery import require_blocks, uncovered
from ..models.linear_view import layer_shapes
from ..models.meta_device import (
    build_on_meta,
    example_inputs,
    require_fitting,
)
from ..models.structure import Block, Shape, Tap
from ..pipelines.folder import Folder
from .call_settings import (
    TokensOf,
    call_defaults,
    frames_of,
    latents_of,
    longest_prompt,
    pixels_of_latent,
    tokens_per_call,
)
from .depth_prediction import predict_depth, selection_of
from .inspection_notes import (
    bits_notes,
    inspection_notes,
    low_rank_notes,
    modulation_notes,
    rounding_notes,
    store_notes,
)
from .inspection_plan import BlockRow, InspectionPlan, MemoryRow, PackageRow, TapRow
from .prediction import as_the_paper_counts, predict


def describe(
    folder: Folder,
    config: PruningConfig,
    prompts: int,
    paper_count: bool = False,
    predicted: bool = True,
) -> InspectionPlan:
    """Plan a pruning; a folder without weights is read by its config.json alone.

    Args:
        folder: the model.
        config: the settings of the pruning.
        prompts: number of calibration prompts, with those held out.
        paper_count: whether to count parameters and "TFLOPs" as the paper does, too.
        predicted: whether to count the sizes after structured pruning.

    Returns:
        The plan.

    Raises:
        UserError: a run would refuse the model or the settings.
    """
    component = folder.denoiser(config.component)
    with config_errors(folder.path / component / "config.json"):
        plan = plan_of(folder, component, config, prompts)
        smaller = config.pattern == "structured" or config.depth or config.modulation is not None
        if not predicted or not smaller:
            return plan
        found = prediction(folder, plan.config, plan.settings, paper_count, plan.dtype)
        return replace(plan, prediction=found)


def plan_of(folder: Folder, component: str, config: PruningConfig, prompts: int) -> InspectionPlan:
    """Plan a pruning of one component, without a prediction; arguments are those of describe."""
    tensors = folder.components[component]
    if tensors.shapes and not tensors.original:
        require_fitting(folder.config(component), tensors.shapes, f"{folder.path / component}")
    shapes = tensors.layers(config.target) or configured_layers(
        json.dumps(folder.config(component)), config.target, folder.config_file(component)
    )
    blocks = require_blocks(shapes, f"{folder.path}/{component}", config.target)
    cls = str(folder.config(component).get("_class_name"))
    ranks = select_modulation(cls, shapes, config)
    if config.depth:
        select_depth(cls, blocks, config)
    units = select(blocks, config, shapes) if config.layerwise else []
    packages = plan_packages(blocks, shapes, config) if config.layerwise else []
    pruned = [layer for package in packages for layer in package.layers]
    settings = call_defaults(folder, config)
    budget = config.budget
    config = at_budget(folder, component, config, settings)
    steps = settings["num_inference_steps"]
    calls, seen = (n * steps if steps else None for n in (prompts, config.calibrating_of(prompts)))
    tokens = tokens_per_call(folder, component, settings)
    return InspectionPlan(
        path=str(folder.source),
        pipeline=folder.pipeline,
        component=component,
        dtype=tensors.dtype,
        bytes=tensors.size,
        parameters=stored_parameters(folder, component),
        targeted_parameters=sum(shapes[layer][0] * shapes[layer][1] for layer in pruned),
        removed=config.removed,
        budget=budget,
        blocks=[BlockRow(block.name, block.entry) for block in blocks],
        layers=len(pruned),
        units=len(units),
        packages=[package_row(p, shapes, tokens, seen, config.kept_tokens) for p in packages],
        settings=settings,
        prompts=prompts,
        calibrating=config.calibrating,
        denoiser_passes=passes_of(packages, config, calls),
        allocation_passes=allocating(folder, blocks, packages, config, settings) * steps
        if steps
        else None,
        memory=planned_memory(packages, shapes, config),
        uncovered=uncovered(shapes, blocks, config.target),
        notes=[
            *inspection_notes(folder, component, config),
            *rounding_notes(blocks, shapes, config),
            *bits_notes([shapes[layer] for layer in pruned], config),
            *low_rank_notes([shapes[layer] for layer in pruned], config),
            *modulation_notes(cls, shapes, ranks, config),
            *store_notes(
                [shapes[layer] for layer in pruned], config.dtype or tensors.dtype, config
            ),
        ],
        prediction=None,
        config=config,
    )


@contextlib.contextmanager
def config_errors(file: Path) -> Iterator[None]:
    """Turn the errors of a plan that a config's values cause into one line.

    Args:
        file: the config, for the message.

    Raises:
        UserError: for an error about types and values, of Python or torch.
    """
    try:
        yield
    except (UserError, RunFailed):
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise UserError(
            f"{file}: no plan can be made with these settings, or with those of the components "
            f"beside it: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        ) from error


def package_row(
    package: Package,
    shapes: Mapping[str, Shape],
    tokens: TokensOf,
    calls: int | None,
    target: float | None = None,
) -> PackageRow:
    """Return the row of a package.

    Args:
        package: the package.
        shapes: layer -> (O, I).
        tokens: tokens of a tap's input from one prompt in one denoising step, by guidance half.
        calls: denoising steps of all calibrating prompts; None if unknown.
        target: tokens that each Hessian keeps per column; None for all.
    """

    def tap_row(tap: Tap) -> TapRow:
        columns, found = shapes[tap.layers[0]][1], tokens(tap)
        if not found or not calls:
            return TapRow(list(tap.layers), columns, None, None)
        each, images = found.each, found.halves * calls
        kept = each if target is None else kept_of_image(each, target * columns, images)
        per_column = [round(count * images / columns, 2) for count in (each, kept)]
        return TapRow(list(tap.layers), columns, *per_column)

    taps = [tap_row(tap) for tap in package.taps]
    return PackageRow(package.hessian_bytes / GIB, len(package.layers), taps)


def passes_of(packages: list[Package], config: PruningConfig, calls: int | None) -> int | None:
    """Return the denoising steps of one prompt that the calibration takes; None if not known."""
    if calls is None:
        return None
    return round(passes(config, len(packages)) * calls) if config.layerwise else 0


def allocating(
    folder: Folder,
    blocks: list[Block],
    packages: list[Package],
    config: PruningConfig,
    settings: dict[str, Any],
) -> int:
    """Return the number of prompts that allocation, or the choice of blocks, draws at most."""
    if not config.depth:
        return drawings(blocks, packages, config)
    component = folder.denoiser(config.component)
    if config.budget:
        selection = selection_of(*meta_call(folder, component, settings), config)
    else:
        selection = select_depth(str(folder.config(component).get("_class_name")), blocks, config)
    prompts = min(config.allocation_prompts, config.num_prompts)
    drawn = trials_of(selection) * prompts
    fitted = config.num_prompts - prompts
    repairs = config.compensation and config.damping and fitted
    return drawn + (fitted + len(DAMPINGS) * prompts if repairs else 0)


def drawings(blocks: list[Block], packages: list[Package], config: PruningConfig) -> int:
    """Return the number of prompts that the allocation draws beside the calibration's.

    "drawn" draws its prompts once for every layer input or group, and twice before; "sensitivity"
    once in all, with gradients.
    """
    prompts = min(config.allocation_prompts, config.num_prompts - config.held_out)
    if config.allocation == "sensitivity":
        return GRADIENT_RUNS * prompts
    if config.allocation != "drawn":
        return 0
    tried = (
        select_groups(blocks, config)
        if config.pattern == "structured"
        else [tap for package in packages for tap in package.taps]
    )
    return (len(tried) + DRAWN_FIRST) * prompts


def planned_memory(
    packages: list[Package], shapes: Mapping[str, Shape], config: PruningConfig
) -> MemoryRow:
    """Return the memory of a run in GiB, without model and activations."""
    hessians = max((package.hessian_bytes for package in packages), default=0)
    work = work_bytes((tap for package in packages for tap in package.taps), shapes, config)
    on_disk = (
        max(0.0, hessians - scratch_room(config, packages, shapes))
        if config.calibrating == "single" and config.memory_budget_gib
        else 0.0
    )
    return MemoryRow(hessians / GIB, on_disk / GIB, work / GIB, config.memory_budget_gib)


def stored_parameters(folder: Folder, component: str) -> int:
    """Return the number of stored parameters, or without weights that of the configured model."""
    tensors = folder.components[component]
    if tensors.shapes and not tensors.original:
        return sum(math.prod(shape) for shape in tensors.shapes.values())
    return configured_parameters(
        json.dumps(folder.config(component)), folder.config_file(component)
    )


@cache
def configured_parameters(text: str, file: Path) -> int:
    """Return the number of parameters of the model of a config.json, by its text."""
    return sum(p.numel() for p in build_on_meta(json.loads(text), file).parameters())


@cache
def configured_layers(text: str, target: str, file: Path) -> dict[str, Shape]:
    """Return the layers of the model of a config.json, by its text; see layer_shapes."""
    return layer_shapes(build_on_meta(json.loads(text), file), target)


def at_budget(
    folder: Folder, component: str, config: PruningConfig, settings: dict[str, Any]
) -> PruningConfig:
    """Return the config with the uniform sparsity that would meet its target.

    Args:
        folder: the model.
        component: the denoiser's name.
        config: the settings of the pruning; without a target they are returned as they are.
        settings: the settings of the pipeline call.

    Raises:
        UserError: the target can't be reached, or its unit can't be counted.
    """
    if not config.budget or config.depth:
        return config
    denoiser, inputs = meta_call(folder, component, settings)
    if inputs is None and config.target_macs is not None:
        raise UserError(
            f"inspect: target_macs: the arguments of {type(denoiser).__name__} are not known here; "
            "use target_parameters"
        )
    groups = prunable_groups(denoiser, config)
    return at_sparsity(config, size_budget(denoiser, groups, config, inputs or {}).sparsity)


def meta_call(
    folder: Folder, component: str, settings: dict[str, Any]
) -> tuple[nn.Module, CallArguments | None]:
    """Return a denoiser on the meta device, and the arguments of a call if they are known."""
    denoiser = build_on_meta(folder.config(component), folder.config_file(component))
    latents, frames = latents_of(folder, settings), frames_of(folder) or 1
    inputs = example_inputs(denoiser, *latents, longest_prompt(folder) or 0, frames)
    return denoiser, inputs


def prediction(
    folder: Folder,
    config: PruningConfig,
    settings: dict[str, Any],
    paper_count: bool,
    dtype: str | None,
) -> dict[str, Any]:
    """Return the sizes of the result, counted on the meta device.

    Args:
        folder: the model.
        config: the settings of the pruning.
        settings: the settings of the pipeline call.
        paper_count: whether to add the counts of the paper.
        dtype: torch name of the format of the stored weights; None if it is not known.

    Raises:
        UserError: the picture's size or the number of text tokens is not known.
    """
    model = folder.config(folder.denoiser(config.component))
    latents, tokens = latents_of(folder, settings), longest_prompt(folder)
    if not tokens and reads_text(model) and has_arguments(model):
        raise UserError(
            f"inspect: the number of text tokens is not known: {folder.path} has no "
            "tokenizer/tokenizer_config.json"
        )
    size, frames = (model, config, latents, tokens or 0), frames_of(folder) or 1
    if config.depth:
        found = predict_depth(*size, frames)
    else:
        found = predict(*size, config.dtype or dtype, frames)
    if paper_count:
        found["as_the_paper_counts"] = as_the_paper_counts(model, config, pixels_of_latent(folder))
    return found
