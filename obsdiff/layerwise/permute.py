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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.context import CalibratedInputs, CalibrationContext
from ..calibration.gather import DensePass, gather_dense
from ..calibration.plan import PruningPlan
from ..config import PruningConfig
from ..models.geometry import columns, items, sections
from ..models.linear_view import layer_at, matrix
from ..models.removable import order_refusal
from ..models.structure import Block, Group
from ..pipelines.record import PruningReport
from ..runtime.mapped_weights import spill_, unmap_
from ..solvers.permutation import kept, permutation
from .journal import NullJournal
from .reporting import seconds, warn_and_record

ROLES = {
    "q": "q",
    "query": "q",
    "k": "k",
    "key": "k",
    "v": "v",
    "value": "v",
    "qkv": "qkv",
    "kv": "kv",
    "gate": "g",
    "g": "g",
}  # by words of a layer's name
MOVED = ("v", "g", "neurons")  # rows that follow P: values, gates on the heads' outputs, neurons
TINY = 1e-30


@dataclass(frozen=True)
class Movable:
    """A group whose order may change.

    Attributes:
        group: the group.
        sets: K.
        width: D.
        rows: first row and number of rows of the sections of each producer that follow P.
    """

    group: Group
    sets: int
    width: int
    rows: Mapping[str, list[tuple[int, int]]]


def movable_order(denoiser: nn.Module, group: Group, m: int) -> Movable | str:
    """The group ready for N:M groups of m columns, or why its order stays."""
    if reason := order_refusal(denoiser, group):
        return reason
    count = items(denoiser, group) if group.kind == "heads" else 1
    reads = columns(denoiser, group, count)
    rows: dict[str, list[tuple[int, int]]] = {}
    widths: set[int] = set()
    for name in group.producers:
        parts = parts_of(denoiser, group, name)
        if parts is None:
            return f"{name}: which of its rows are values is not known"
        rows[name] = [(first, size) for role, first, size in parts if role in MOVED]
        widths |= {size for role, _, size in parts if role in ("v", "neurons")}
    width = widths.pop() // count
    if (
        widths
        or reads.shape[1] % width
        or any(size % (count * width) for parts in rows.values() for _, size in parts)
    ):
        return f"{group.owner}: rows and columns of its {group.kind} do not fit each other"
    if width % m or int(reads[0, 0]) % m:
        what = "the width of a head" if group.kind == "heads" else "where its neurons begin and end"
        return f"{group.owner}: {m} does not divide {what}"
    return Movable(group, count, width, rows)


def parts_of(denoiser: nn.Module, group: Group, producer: str) -> list[tuple[str, int, int]] | None:
    """Role, first row and number of rows of a producer's sections; None if its name tells none."""
    found: list[tuple[str, int, int]] = []
    first = 0
    its = sections(denoiser, group, producer)
    of_kind = sum(kind == group.kind for kind, _ in its)
    word = next(
        (ROLES[word] for word in producer.rpartition(".")[2].split("_") if word in ROLES), ""
    )
    own = ["neurons"] * of_kind if group.kind == "neurons" else list(word)
    if len(own) != of_kind:
        return None
    for kind, size in its:
        found.append((own.pop(0) if kind == group.kind else "other", first, size))
        first += size
    return found


def reached(
    denoiser: nn.Module, blocks: list[Block], config: PruningConfig, layers: set[str]
) -> tuple[list[Movable], dict[str, str]]:
    """The groups of heads and neurons that some layers read.

    Args:
        denoiser: the model.
        blocks: its blocks.
        config: the settings, with an N:M pattern.
        layers: the layers to prune.

    Returns:
        The groups whose order may change; and for the layers that read others, the reason.
    """
    assert config.group is not None
    found: list[Movable] = []
    left: dict[str, str] = {}
    for group in (
        group
        for block in blocks
        for group in block.groups
        if group.kind in ("heads", "neurons") and layers & set(group.consumers)
    ):
        mine = movable_order(denoiser, group, config.group[1])
        if isinstance(mine, Movable):
            found.append(mine)
        else:
            left |= {layer: mine for layer in group.consumers if layer in layers}
    return found, left


def orders_of(
    context: CalibrationContext,
    blocks: list[Block],
    inputs: CalibratedInputs,
    config: PruningConfig,
) -> dict[str, Any]:
    """Searches the orders; each process searches for some of the groups, and all receive all.

    Args:
        context: the model and the processes.
        blocks: the blocks of the model.
        inputs: the sums of the layers to prune.
        config: the settings, with an N:M pattern.

    Returns:
        {"orders": the order (K, D) of each group, by its name, "record": for the report}.
    """
    assert config.group is not None
    n, m = config.group
    mine = {
        tap: hessian
        for tap, hessian in inputs.items()
        if context.owners.get(tap, context.ranks.rank) == context.ranks.rank
    }
    diagonals = context.ranks.gather_dicts(
        {layer: hessian.diagonal().cpu() for tap, hessian in mine.items() for layer in tap.layers}
    )
    found, left = reached(context.denoiser, blocks, config, set(diagonals))
    orders: dict[str, Any] = {}
    shares: dict[str, list[float]] = {}
    for movable in found[context.ranks.rank :: context.ranks.size]:
        scores, name = scores_of(context.denoiser, movable, diagonals), movable.group.name
        order = permutation(scores, n, m, seed=config.seed)
        whole = scores.sum(dtype=torch.float64)
        if whole > 0:  # else every order keeps all there is
            shares[name] = [
                (kept(scores, places, n, m).sum() / whole).item() for places in (None, order)
            ]
        if not torch.equal(
            order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        ):
            orders[name] = order.tolist()
    orders = context.ranks.gather_dicts(orders)
    rows = list(context.ranks.gather_dicts(shares).values())
    layers = {
        layer
        for movable in found
        for layer in movable.group.consumers
        if layer in diagonals and movable.group.name in orders
    }
    before, after = (sum(row[i] for row in rows) / max(1, len(rows)) for i in range(2))
    record = {
        "layers": len(layers),
        "left": len(left),
        "kept_before": before,
        "kept_after": after,
        "why_left": next(iter(left.values()), ""),
    }
    return {"orders": orders, "record": record}


def scores_of(denoiser: nn.Module, movable: Movable, diagonals: Mapping[str, Tensor]) -> Tensor:
    """Squared Wanda scores (K, R, D) of a group's columns, relative to each consumer's sum."""
    reads, parts = columns(denoiser, movable.group, movable.sets).flatten(), []
    for name in (name for name in movable.group.consumers if name in diagonals):
        weight = matrix(denoiser.get_submodule(name))
        places = reads.to(weight.device)
        scores = weight[:, places].float().square_().mul_(diagonals[name].to(weight.device)[places])
        scores /= scores.sum().clamp(min=TINY)
        parts.append(
            scores.view(len(scores), movable.sets, -1, movable.width)
            .permute(1, 0, 2, 3)
            .flatten(1, 2)
        )
    return torch.cat(parts, 1)


def permute_by_(
    context: CalibrationContext,
    blocks: list[Block],
    orders: Mapping[str, Any],
    dense: DensePass,
    config: PruningConfig,
) -> DensePass:
    """Reorders the groups in the model.

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
        mine = movable_order(context.denoiser, group, config.group[1])
        assert isinstance(mine, Movable)  # it has been searched
        order = torch.tensor(orders[group.name], device="cpu")
        changed = [name for name, parts in mine.rows.items() if parts] + list(group.consumers)
        if config.memory_budget_gib:
            unmap_(context.denoiser, changed)
        permute_(context.denoiser, mine, order)
        if config.memory_budget_gib:
            spill_(context.denoiser, changed, context.scratch)
        for name in group.consumers:  # which may read both heads and neurons
            take = reading(context.denoiser, mine, order, name)
            takes[name] = takes[name][take] if name in takes else take
    return replace(
        dense,
        inputs={
            name: calibrated.reordered(takes[name]) if name in takes else calibrated
            for name, calibrated in dense.inputs.items()
        },
    )


def permute_(denoiser: nn.Module, movable: Movable, order: Tensor) -> None:
    """Reorders a group (K, D) in place: its rows in all producers, its columns in all consumers."""
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
    """The order (C,) of all columns of a consumer; columns of another group stay."""
    reads = columns(denoiser, movable.group, movable.sets).flatten()
    take = torch.arange(matrix(denoiser.get_submodule(consumer)).shape[1], device="cpu")
    take[reads] = placed(order, reads)
    return take


def placed(order: Tensor, places: Tensor) -> Tensor:
    """Indices (K g D,) reordered by an order (K, D), D at a time."""
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
    """With config.permute: reorders neurons and value dimensions so that N:M keeps most.

    Args:
        context: where the calibration runs.
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
        found = found or orders_of(context, plan.blocks, dense.of(taps), plan.config)
        if context.ranks.rank == 0:
            journal.note("permutation", found)
        dense = permute_by_(context, plan.blocks, found["orders"], dense, plan.config)
    report.permutation = found["record"]
    if not found["orders"]:
        warn_and_record(
            report,
            "permute: no layer got another order of its inputs; "
            f"{found['record']['why_left'] or 'none keeps more in another one'}",
        )
    return dense
