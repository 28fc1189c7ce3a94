"""The model that the caller holds against the record, and the mark of a shrunk model."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..calibration.plan import PruningPlan
from ..errors import RunFailed
from ..models.geometry import items
from ..models.layout import Layout
from ..models.linear_view import matrix
from ..models.pruned_classes import mark_corrected_, mark_pruned_
from ..pipelines.record import LayerRecord, PruningReport

TOLERANCE = 1e-6  # of a share of zeros


def require_applied(pipe: Any, plan: PruningPlan, report: PruningReport) -> None:
    """Check every layer of the record in the pipeline's own denoiser.

    Args:
        pipe: the pruned pipeline.
        plan: the pruning.
        report: its record.

    Raises:
        RunFailed: a layer's zeros, or its columns, are not those of the record.
    """
    denoiser: nn.Module = getattr(pipe, plan.component)
    for row in report.layers:
        found = difference(denoiser.get_submodule(row.name), row, bool(plan.groups))
        if found:
            raise RunFailed(
                f"{row.name}: {found}: something else sets the layer's weight, such as a hook or "
                "an offload; open the pipeline again with from_pretrained, and prune that"
            )


def difference(layer: nn.Module, row: LayerRecord, structured: bool) -> str | None:
    """Return how a layer differs from its record, or None."""
    weight = matrix(layer)
    if structured:
        wanted = round(row.shape[1] * (1 - row.sparsity))
        if weight.shape[1] == wanted:
            return None
        return f"expected {wanted} columns after pruning, found {weight.shape[1]}"
    zeros = (weight == 0).float().mean().item()
    if abs(zeros - row.sparsity) <= TOLERANCE:
        return None
    return f"expected {row.sparsity:.2%} zeros after pruning, found {zeros:.2%}"


@contextlib.contextmanager
def marked_if_interrupted(pipe: Any, plan: PruningPlan) -> Iterator[None]:
    """Mark a denoiser that has shrunk as one of a pruned class, if the block raises.

    A pipeline whose pruning was interrupted can then be saved and opened again.

    Args:
        pipe: the pipeline; its denoiser is set.
        plan: the pruning that runs inside.
    """
    try:
        yield
    except BaseException:
        setattr(pipe, plan.component, mark_corrected_(plan.denoiser))
        if layout := layout_now(plan):
            setattr(pipe, plan.component, mark_pruned_(plan.denoiser, layout))
        raise


def layout_now(plan: PruningPlan) -> Layout:
    """Return the items of each group that has shrunk: {owner: {kind: count}}."""
    found: Layout = {}
    for prunable in plan.groups:
        group = prunable.group
        left = items(plan.denoiser, group)
        if left < prunable.total:
            found.setdefault(group.owner, {})[group.kind] = left * prunable.each
    return found
