"""Orders of FFN neurons and of value dimensions in which an N:M pattern keeps more.

    y = D f(U x) = (D P^T) f(P U x)     f entry by entry (gates, too), P permutes the neurons
    y = O A V x  = (O P^T) A (P V x)    A the attention's weights; P permutes inside each head

The function of the model does not change, and no operation is added: P is applied to the rows of
the producers and the columns of the consumers before pruning (solvers/permutation.py finds it).
One attention has one P for all of its streams, and query heads that share a value head share its P.
Queries and keys, with their norms and rotary embeddings, keep their order.

The sums of the dense pass have the old order; a pruning reads them in its own
(`CalibratedInput.reordered`).

K heads (neurons are one set), D value dimensions of a head, or neurons; g query heads that share a
value head; C columns, R rows of a consumer.
"""

from collections.abc import Mapping, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.context import CalibrationContext
from ..calibration.gather import DensePass, gather_dense
from ..calibration.plan import PruningPlan
from ..config import PruningConfig
from ..models.geometry import columns
from ..models.linear_view import layer_at, matrix
from ..models.structure import Block
from ..pipelines.record import PruningReport
from ..runtime.display import current
from ..runtime.mapped_weights import spill_, unmap_
from .journal import NullJournal
from .order_search import Movable, movable_order, orders_of
from .reporting import seconds, warn_and_record


def permute_by_(
    context: CalibrationContext,
    blocks: list[Block],
    orders: Mapping[str, Any],
    dense: DensePass,
    config: PruningConfig,
) -> DensePass:
    """Reorder the groups in the model.

    Args:
        context: the model and the scratch storage.
        blocks: the blocks of the model.
        orders: the order (K, D) of each group, by its name.
        dense: the dense pass in the old order; it is unchanged.
        config: the settings, with an N:M pattern.

    Returns:
        The dense pass in the new order.
    """
    assert config.group is not None
    takes: dict[str, Tensor] = {}
    for group in (group for block in blocks for group in block.groups if group.name in orders):
        movable = movable_order(context.denoiser, group, config.group[1])
        assert isinstance(movable, Movable)  # else it has no order
        order = torch.tensor(orders[group.name], device="cpu")
        changed = [name for name, parts in movable.rows.items() if parts] + list(group.consumers)
        if config.memory_budget_gib:
            unmap_(context.denoiser, changed)
        permute_(context.denoiser, movable, order)
        if config.memory_budget_gib:
            spill_(context.denoiser, changed, context.scratch)
        for name in group.consumers:  # which may read both heads and neurons
            take = reading(context.denoiser, movable, order, name)
            takes[name] = takes[name][take] if name in takes else take
    return replace(
        dense,
        inputs={
            name: calibrated.reordered(takes[name]) if name in takes else calibrated
            for name, calibrated in dense.inputs.items()
        },
    )


def permute_(denoiser: nn.Module, movable: Movable, order: Tensor) -> None:
    """Reorder a group (K, D) in place: its rows in all producers, its columns in all consumers."""
    for name, parts in movable.rows.items():
        layer = layer_at(denoiser, name)
        take = torch.arange(len(layer.weight), device="cpu")
        for first, size in parts:
            take[first : first + size] = placed(order, take[first : first + size])
        for parameter in (layer.weight, layer.bias) if parts else ():
            if parameter is not None:
                parameter.data.copy_(parameter.data[take.to(parameter.device)])
    for name in movable.group.consumers:
        weight = layer_at(denoiser, name).weight
        weight.data.copy_(weight.data[:, reading(denoiser, movable, order, name).to(weight.device)])


def reading(denoiser: nn.Module, movable: Movable, order: Tensor, consumer: str) -> Tensor:
    """Return the order (C,) of all columns of a consumer; another group's keep their place."""
    reads = columns(denoiser, movable.group, movable.sets).flatten()
    take = torch.arange(matrix(denoiser.get_submodule(consumer)).shape[1], device="cpu")
    take[reads] = placed(order, reads)
    return take


def placed(order: Tensor, places: Tensor) -> Tensor:
    """Return indices (K g D,) reordered by an order (K, D), D at a time."""
    parts = places.view(len(order), -1, order.shape[1])
    return parts.gather(2, order.unsqueeze(1).expand_as(parts)).flatten()


def permute_layers_(
    context: CalibrationContext,
    plan: PruningPlan,
    dense: DensePass | None,
    journal: NullJournal,
    report: PruningReport,
    done: Set[str],
) -> DensePass | None:
    """Reorder neurons and value dimensions so that N:M keeps most, if config.permute is set.

    Args:
        context: the calibration context.
        plan: the pruning.
        dense: a dense pass made before (None: one is made if it is needed).
        journal: stores the orders; a resumed run reads them.
        report: records them.
        done: the layers that a resumed run has solved.

    Returns:
        The dense pass in the new order.
    """
    if not plan.config.permute:
        return dense
    taps = plan.taps
    found = context.ranks.from_rank_zero(lambda: journal.recall("permutation"))
    wanted = [tap for tap in taps if found is None or not done >= set(tap.layers)]
    if dense is None:
        dense = DensePass(plan.calibration_set)
        if wanted:  # before the model changes: sums in another order have other bits
            with seconds(report, "calibration"):
                dense = gather_dense(context, wanted, plan.config.calibrating)
    with seconds(report, "permutation"):
        if found is None:
            found = orders_of(context, plan.blocks, dense.of(taps), plan.config)
            if context.ranks.rank == 0:
                journal.note("permutation", found)
        dense = permute_by_(context, plan.blocks, found["orders"], dense, plan.config)
    current().complete("permutation")
    report.permutation = found["record"]
    if not found["orders"]:
        warn_and_record(
            report,
            "permute: no layer got another order of its inputs; "
            f"{found['record']['why_left'] or 'none keeps more in another one'}",
        )
    return dense
