"""The plan of a pruning: denoiser, layers, packages, groups and prompts, checked before it runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..config import PruningConfig
from ..errors import CalibrationError, UserError
from ..models.adapters import require_plain
from ..models.discovery import require_blocks
from ..models.folded import foldable
from ..models.linear_view import layer_at, layer_shapes, unfolding_refusal
from ..models.low_rank import correctable, ranks_of
from ..models.own_weights import require_own_weights
from ..models.pruned_classes import require_pruned_class
from ..models.state import require_ready
from ..models.structure import Block, Shape, Tap
from ..pipelines.call import (
    Prompt,
    call_settings,
    check_devices,
    check_prompts,
    choose_prompts,
    denoiser_name,
    scheduler_name,
)
from ..pipelines.known_words import require_known_words
from ..pipelines.low_bits import grids_of
from ..pipelines.saveable import require_saveable
from ..runtime.distributed import Ranks
from ..runtime.extras import require_extra
from .calibration_set import CalibrationSet
from .depth_selection import DepthSelection, select_depth
from .given import Given, GivenRemoval, given_groups, given_masks, selecting
from .groups import PrunableGroup, counted_groups
from .modulation_selection import select_modulation, why_none
from .packages import Package, plan_packages
from .rounded_too import rounded_beside
from .selection import select_groups
from .step_weights import StepWeights


@dataclass(frozen=True)
class PruningPlan:
    """One pruning of one pipeline.

    Attributes:
        config: the settings.
        component: the name of the denoiser.
        scheduler: the name of the scheduler that counts its steps.
        denoiser: the module.
        shapes: (O, I) of every layer that the target covers.
        blocks: the blocks of the denoiser, in forward order.
        packages: the module packages, in forward order.
        groups: the groups to prune; empty unless the pattern is structured.
        calibration_set: the prompts, and how they run.
        depth: of pattern depth the blocks that may leave; such a plan has no packages.
        modulation: the modulation layers to fold, each with its largest rank; a plan that does
            nothing else has no packages.
        unfolded: why there are none although the config asks for them; else "".
        given: what leaves, if the caller decides it.
        rounded_too: linear layers that are rounded beside those of the packages, without Hessians,
            unless they are folded.
    """

    config: PruningConfig
    component: str
    scheduler: str
    denoiser: nn.Module
    shapes: Mapping[str, Shape]
    blocks: list[Block]
    packages: list[Package]
    groups: list[PrunableGroup]
    calibration_set: CalibrationSet
    depth: DepthSelection | None = None
    modulation: Mapping[str, int] = field(default_factory=dict)
    unfolded: str = ""
    given: GivenRemoval | None = None
    rounded_too: Sequence[str] = ()

    def at(self, config: PruningConfig) -> "PruningPlan":
        """Return the plan with another config, which differs in the sparsity or the allocation."""
        return replace(self, config=config, groups=[group.at(config) for group in self.groups])

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The taps of all packages."""
        return tuple(tap for package in self.packages for tap in package.taps)


def plan_pruning(
    pipe: Any, prompts: Sequence[Prompt], config: PruningConfig, removed: Given | None = None
) -> PruningPlan:
    """Check the input of a pruning and plan it.

    Args:
        pipe: the diffusers pipeline.
        prompts: the calibration prompts; config.num_prompts of them are sampled.
        config: the settings.
        removed: what leaves, if the caller decides it; see `prune_`.

    Raises:
        UserError: the pipeline cannot be pruned, or the prompts cannot run, as configured.
        CalibrationError: a weight has inf or NaN.
    """
    if not isinstance(config, PruningConfig):
        raise UserError(f"config: expected a PruningConfig, found {type(config).__name__}")
    if not hasattr(pipe, "components"):
        raise UserError(f"pipe: expected a diffusers pipeline, found {type(pipe).__name__}")
    check_devices(config)
    name = denoiser_name(pipe, config.component)
    scheduler = scheduler_name(pipe, name)
    denoiser: nn.Module = getattr(pipe, name)
    require_ready(pipe, name)
    require_plain(pipe, name)
    shapes = layer_shapes(denoiser, config.target)
    blocks = require_blocks(shapes, type(denoiser).__name__, config.target)
    if removed is not None:
        config = selecting(removed, blocks, config)
    depth = select_depth(type(denoiser).__name__, blocks, config) if config.depth else None
    packages = plan_packages(blocks, shapes, config) if config.layerwise else []
    modulation = select_modulation(type(denoiser).__name__, shapes, config)
    selected = select_groups(blocks, config) if config.pattern == "structured" else []
    if selected:
        require_pruned_class(denoiser)
    require_uncorrected(denoiser)
    require_unrounded(denoiser)
    if config.bits is not None:
        require_extra("torchao", "bits")
    if config.low_rank is not None:
        require_pruned_class(denoiser, "low_rank")
    if modulation:
        require_pruned_class(denoiser, "modulation")
        require_foldable(denoiser, modulation)
    groups = counted_groups(denoiser, selected, config)
    layers = [layer for package in packages for layer in package.layers]
    leaving = None
    if removed is not None and selected:
        groups, leaving = given_groups(removed, groups)
    elif removed is not None:
        leaving = given_masks(removed, layers, shapes, config)
    if leaving:
        config = leaving.sparsity_of(config)
    producers = [layer for prunable in groups for layer in prunable.group.producers]
    written = repairable(blocks, depth) if depth and config.compensation else []
    written += modulation
    beside = rounded_beside(denoiser, layers, config)
    written += beside
    require_own_weights(pipe, name, dict.fromkeys(layers + producers + written))
    require_finite_weights(denoiser, layers + written)
    if config.low_rank is not None:
        require_correctable(denoiser, layers)
    require_saveable(pipe, name)
    chosen, seeds = choose_prompts(prompts, config)
    check_prompts(pipe, chosen)
    require_known_words(pipe, chosen)
    weights = StepWeights(config.step_weighting, config.step_weight_min, config.step_weight_max)
    ranks = Ranks.here()
    count = config.calibrating_of(len(chosen))
    calibration_set = CalibrationSet(
        chosen[:count],
        seeds[:count],
        call_settings(pipe, config),
        config.batch_size,
        weights,
        ranks.rank,
        ranks.size,
        tokens_per_column=config.kept_tokens,
    )
    if config.held_out:
        calibration_set = replace(
            calibration_set,
            held_out=replace(calibration_set, prompts=chosen[count:], seeds=seeds[count:]),
        )
    for part in calibration_set.parts:
        require_batches(part)
    return PruningPlan(
        config,
        name,
        scheduler,
        denoiser,
        shapes,
        blocks,
        packages,
        groups,
        calibration_set,
        depth,
        modulation,
        why_none(type(denoiser).__name__, modulation, config),
        leaving,
        beside,
    )


def repairable(blocks: list[Block], depth: DepthSelection) -> list[str]:
    """Return the layers that a repair after the removal of blocks may change."""
    groups = [group for block in blocks for group in block.groups if group.kind == "neurons"]
    return [*depth.entries, *(layer for group in groups for layer in group.consumers)]


def require_batches(calibration_set: CalibrationSet) -> None:
    """Raise UserError if one of several processes would run no batch."""
    if len(list(replace(calibration_set, rank=0, ranks=1).batches())) < calibration_set.ranks:
        raise UserError(
            f"batch_size: {calibration_set.ranks} processes share {len(calibration_set.prompts)} "
            f"prompts in batches of {calibration_set.batch_size}, so some would have none"
        )


def require_uncorrected(denoiser: nn.Module) -> None:
    """Raise UserError for a model that was pruned with low_rank before."""
    if corrected := ranks_of(denoiser):
        raise UserError(
            f"{next(iter(corrected))}: expected a weight without a correction of low rank, found "
            "one; obsdiff export --to padded merges them, or prune the dense model"
        )


def require_unrounded(denoiser: nn.Module) -> None:
    """Raise UserError for a model that was rounded to few bits before."""
    if rounded := grids_of(denoiser):
        name, grid = next(iter(rounded.items()))
        raise UserError(
            f"{name}: expected weights that are not rounded, found {grid.bits} bits of an earlier "
            "run; open the dense model, and prune and round it in one run"
        )


def require_correctable(denoiser: nn.Module, layers: list[str]) -> None:
    """Raise UserError for a layer of a class that computes otherwise than torch.nn.Linear."""
    for layer in layers:
        module = denoiser.get_submodule(layer)
        if not correctable(module):
            raise UserError(
                f"low_rank: expected torch.nn.Linear at {layer}, found {type(module).__name__}; "
                f"leave the layer out with --exclude '{layer}', or leave low_rank out"
            )


def require_foldable(denoiser: nn.Module, layers: Iterable[str]) -> None:
    """Raise UserError for a modulation layer of a class that computes otherwise."""
    for layer in layers:
        module = denoiser.get_submodule(layer)
        if not foldable(module):
            raise UserError(
                f"modulation: expected torch.nn.Linear at {layer}, found {type(module).__name__}; "
                "fold the model as from_pretrained opens it, or leave modulation out"
            )


def require_finite_weights(denoiser: nn.Module, layers: list[str]) -> None:
    """Check the layers to prune.

    Raises:
        UserError: a layer is not linear, not even with its input unfolded.
        CalibrationError: a weight has inf or NaN.
    """
    for layer in layers:
        reason = unfolding_refusal(denoiser.get_submodule(layer))
        if reason:
            raise UserError(f"{layer}: {reason}; leave it out with --exclude '{layer}'")
        if not layer_at(denoiser, layer).weight.isfinite().all():
            raise CalibrationError(f"{layer}: its weight has inf or NaN")
