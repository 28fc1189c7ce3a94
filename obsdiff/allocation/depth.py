"""Prune whole blocks: choose them, take them out, record it."""

import math
from typing import Any

from ..calibration.context import ALLOCATION, CalibrationContext
from ..calibration.depth_selection import DepthSelection
from ..calibration.plan import PruningPlan
from ..layerwise.journal import NullJournal
from ..layerwise.reporting import seconds
from ..models.depth import remove_blocks_
from ..pipelines.record import GroupRecord, PruningReport
from ..runtime.display import current
from .block_effects import BlockEffects, choose_blocks, in_order, trials_of


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
    report.add([], [*group_records(selection, away, effects)])
    report.depth = depth_record(selection, away, effects)
    remove_blocks_(plan.denoiser, selection.stacks, away)


def group_records(
    selection: DepthSelection, away: tuple[str, ...], effects: BlockEffects
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
    selection: DepthSelection, away: tuple[str, ...], effects: BlockEffects
) -> dict[str, Any]:
    """Return what was measured about the blocks that left, and of which blocks those left are."""
    return {
        "removed": [{"name": name, "alone": finite(effects.known.get((name,)))} for name in away],
        "together": finite(effects.known.get(in_order(selection, away))),
        "kept": {
            owner: [i for i, name in enumerate(blocks) if name not in away]
            for owner, blocks in selection.blocks.items()
        },
        "trials": len(effects.known),
        "repaired": False,
    }


def finite(effect: float | None) -> float | None:
    """Return an effect as JSON has it: None if it was not measured, or is not finite."""
    return effect if effect is not None and math.isfinite(effect) else None
