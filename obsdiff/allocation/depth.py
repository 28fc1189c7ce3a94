"""Prune whole blocks: choose them, take them out, repair the block before each gap, record it."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..calibration.context import ALLOCATION, CalibrationContext
from ..calibration.depth_selection import DepthSelection
from ..calibration.plan import PruningPlan
from ..errors import CalibrationError, NotPositiveDefinite
from ..evaluation.metrics import relative_latent_error
from ..layerwise.journal import NullJournal
from ..layerwise.reporting import seconds, warn_and_record
from ..models.depth import remove_blocks_
from ..pipelines.record import GroupRecord, PruningReport
from ..runtime.display import current
from .block_effects import BlockEffects, choose_blocks, in_order, trials_of
from .depth_repair import REPAIR, Gap, gaps_of, gather_gaps, own_weights, write_changes_
from .layer_sensitivity import latents

DAMPINGS = (10.0, 100.0, 1000.0)  # factors of the damping that a repair tries
NO_CHANGE = math.inf  # damping of no repair


def prune_depth_(
    context: CalibrationContext, plan: PruningPlan, journal: NullJournal, report: PruningReport
) -> None:
    """Take the blocks with the least effect out of the denoiser, in place.

    Args:
        context: the model, and how it draws.
        plan: the pruning, with the blocks that may leave.
        journal: stores every measurement; a resumed run reads them.
        report: receives the record.

    Raises:
        CalibrationError: the pipeline does not draw the same latents twice, or no block can leave.
    """
    selection = plan.depth
    assert selection is not None  # plan_pruning sets it for pattern depth
    effects = BlockEffects(context, selection, journal, plan.config, {})
    phases = current()
    phases.plan(ALLOCATION, trials_of(selection), unit="trials")
    phases.drop_unplanned(ALLOCATION)
    with seconds(report, ALLOCATION):
        away = choose_blocks(effects)
    phases.complete(ALLOCATION)
    report.add([], group_records(selection, away, effects))
    report.depth = depth_record(selection, away, effects)
    gaps = gaps_of(plan.denoiser, selection, away, plan.blocks) if fits(plan, report) else []
    base = None
    if gaps:
        phases.plan(REPAIR, fitted(plan), unit="prompts")
        with seconds(report, REPAIR):
            base = effects.draw(context, plan.config)
            gather_gaps(context, gaps, plan.config.allocation_prompts)
    remove_blocks_(plan.denoiser, selection.stacks, away)
    if base is not None:
        with seconds(report, REPAIR):
            report.depth["repair"] = repaired_(context, plan, gaps, base, report)
        phases.complete(REPAIR)


def fitted(plan: PruningPlan) -> int:
    """Return how many calibration prompts a repair is fitted to."""
    return len(plan.calibration_set.prompts) - plan.config.allocation_prompts


def fits(plan: PruningPlan, report: PruningReport) -> bool:
    """Return whether there is a repair; warn if there are no prompts for it, or no dampings."""
    if not plan.config.compensation:
        return False
    if not plan.config.damping:
        warn_and_record(
            report,
            "nothing is repaired: a repair tries multiples of damping, which is 0; raise it, or "
            "choose no-compensation",
        )
        return False
    if fitted(plan) < 1:
        judging, all_ = plan.config.allocation_prompts, len(plan.calibration_set.prompts)
        warn_and_record(
            report,
            f"nothing is repaired: allocation_prompts ({judging}) judge it, and none is left of "
            f"{all_} to fit it to; use more prompts",
        )
        return False
    return True


def repaired_(
    context: CalibrationContext,
    plan: PruningPlan,
    gaps: list[Gap],
    base: Tensor,
    report: PruningReport,
) -> dict[str, Any]:
    """Repair the blocks before the gaps, in place, by the damping with the least error.

    Args:
        context: the model without the blocks, and how it draws.
        plan: the pruning.
        gaps: the gaps, with their sums.
        base: the dense latents.
        report: receives a warning if nothing is repaired, or a layer cannot be.

    Returns:
        The repaired layers, the damping, the relative latent error by damping.
    """
    own = own_weights(gaps)
    found = {NO_CHANGE: report.depth["together"]}
    found |= errors_of_repairs(context, plan, gaps, own, base, report)
    best = min(found, key=lambda damping: found[damping])
    write_changes_(gaps, own, best)
    if best == NO_CHANGE:
        why = "no repair lowers the error" if own else "no layer before a gap is behind a gate"
        warn_and_record(report, f"nothing is repaired: {why}")
    return {
        "layers": list(own) if best != NO_CHANGE else [],
        "damping": best if best != NO_CHANGE else None,
        "error": found[best],
        "tried": [[damping, error] for damping, error in found.items() if damping != NO_CHANGE],
    }


def errors_of_repairs(
    context: CalibrationContext,
    plan: PruningPlan,
    gaps: list[Gap],
    own: dict[str, list[Tensor]],
    base: Tensor,
    report: PruningReport,
) -> dict[float, float]:
    """Return the relative latent error of the repair by each damping, and leave the last in place.

    A damping with which a layer cannot be solved, or the latents are not finite, has none.

    Args:
        context: the model without the blocks, and how it draws.
        plan: the pruning.
        gaps: the gaps, with their sums.
        own: the dense weights of the layers.
        base: the dense latents.
        report: receives one warning if a layer cannot be solved.
    """
    found, failed = {}, []
    dampings = [factor * plan.config.damping for factor in DAMPINGS]
    for damping in dampings:
        try:
            write_changes_(gaps, own, damping)
        except NotPositiveDefinite as why:
            failed.append(str(why))
            continue
        drawn = latents(context, plan.config.allocation_prompts)
        error = relative_latent_error(drawn, base)["value"]
        if error is not None:
            found[damping] = error
    if failed:
        warn_and_record(
            report, f"no repair with {len(failed)} of {len(dampings)} dampings: {failed[0]}"
        )
    return found


def group_records(
    selection: DepthSelection, away: Sequence[str], effects: BlockEffects
) -> list[GroupRecord]:
    """Return the record of each list of blocks; a block's score is the effect of it alone."""
    return [
        GroupRecord(
            owner=owner,
            kind="blocks",
            total=len(blocks),
            kept=len(set(blocks) - set(away)),
            removed=[blocks.index(name) for name in away if name in blocks],
            scores=[finite(effects.known.get((name,))) for name in blocks],
            package=0,
        )
        for owner, blocks in selection.blocks.items()
    ]


def depth_record(
    selection: DepthSelection, away: Sequence[str], effects: BlockEffects
) -> dict[str, Any]:
    """Return what was measured about the blocks that left, and which blocks are left.

    Raises:
        CalibrationError: without these blocks together the latents have inf or NaN.
    """
    together = finite(effects.known.get(in_order(selection, away)))
    if together is None:
        raise CalibrationError(
            f"pattern depth: the latents have inf or NaN without {', '.join(away)}; remove fewer "
            "blocks, or try another --dtype"
        )
    return {
        "removed": [{"name": name, "alone": finite(effects.known.get((name,)))} for name in away],
        "together": together,
        "kept": {
            owner: [i for i, name in enumerate(blocks) if name not in away]
            for owner, blocks in selection.blocks.items()
        },
        "trials": len(effects.known),
        "repair": {},
    }


def finite(effect: float | None) -> float | None:
    """Return an effect as JSON has it: None if it was not measured, or is not finite."""
    return effect if effect is not None and math.isfinite(effect) else None
