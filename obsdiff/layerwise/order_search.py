"""The search for orders of neurons and value dimensions in which an N:M pattern keeps more.

Selects the groups whose order may change, and searches an order for each by
solvers/permutation.py. The formulas and symbols are those of permute.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..calibration.context import CalibratedInputs, CalibrationContext
from ..config import PruningConfig
from ..models.geometry import columns, items, sections
from ..models.linear_view import matrix
from ..models.removable import order_refusal
from ..models.structure import Block, Group
from ..runtime.precision import exact_products
from ..solvers.double_precision import where_double
from ..solvers.permutation import kept, permutation

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
    """Return the group ready for N:M groups of m columns, or why its order cannot change."""
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
    """Return role, first row and number of rows of a producer's sections; None without a role."""
    found: list[tuple[str, int, int]] = []
    first = 0
    kinds = sections(denoiser, group, producer)
    of_kind = sum(kind == group.kind for kind, _ in kinds)
    word = next(
        (ROLES[word] for word in producer.rpartition(".")[2].split("_") if word in ROLES), ""
    )
    own = ["neurons"] * of_kind if group.kind == "neurons" else list(word)
    if len(own) != of_kind:
        return None
    for kind, size in kinds:
        found.append((own.pop(0) if kind == group.kind else "other", first, size))
        first += size
    return found


def reached(
    denoiser: nn.Module, blocks: list[Block], config: PruningConfig, layers: set[str]
) -> tuple[list[Movable], dict[str, str]]:
    """Return the groups of heads and neurons that some layers read.

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
        movable = movable_order(denoiser, group, config.group[1])
        if isinstance(movable, Movable):
            found.append(movable)
        else:
            left |= {layer: movable for layer in group.consumers if layer in layers}
    return found, left


@exact_products()
def orders_of(
    context: CalibrationContext,
    blocks: list[Block],
    inputs: CalibratedInputs,
    config: PruningConfig,
) -> dict[str, Any]:
    """Search the orders; each process searches for some of the groups, and all receive all.

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
        whole = where_double(scores).sum(dtype=torch.float64).cpu()
        if whole > 0:  # else every order keeps the same sum
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
    """Return squared Wanda scores (K, R, D) of a group's columns, as shares of a consumer's sum."""
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
