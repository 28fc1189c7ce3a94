"""Heads and neurons, the remaining Hessian inverted anew for every removal.

    neuron q   ||W[:, q]||^2 / (2 [H^-1]_qq)        head: the sum over its columns
    repair     W -= W[:, S] ([H^-1]_SS)^-1 H^-1[S, :], S the removed columns

W (O, I), H (I, I). Where joint attention has two streams, each ranks the heads and the head with
the smallest sum of 1 / (60 + rank) is removed from both. Heads are removed one at a time, neurons
in shrinking groups.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
    Ling et al., "SlimGPT: Layer-wise Structured Pruning for Large Language Models", 2024.
        https://arxiv.org/abs/2412.18110
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .solve import DAMPING

Stream = tuple[Tensor, Tensor]  # W (O, I), H (I, I)


def remove_parts(
    streams: list[Stream],
    parts: list[Tensor],
    count: int,
    heads: bool,
    invert: Callable[[Tensor], Tensor] = torch.linalg.inv,
    damping: float = DAMPING,
) -> tuple[list[int], list[Tensor]]:
    """Remove `count` of the parts, columns (D,) each, from every stream. Returns their indices, in
    the order of removal, and the weights, zero there."""
    weights = [w.to(h.dtype, copy=True) for w, h in streams]
    damped = [
        h + damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype) for _, h in streams
    ]
    left, removed = list(range(len(parts))), []
    others = other_columns(parts, damped[0].shape[0])
    while len(removed) < count:
        columns = torch.cat([others, *(parts[j] for j in left)]).sort().values
        inverses = [inverse_of_left(h, columns, invert) for h in damped]
        losses = [
            losses_of(w, inverse, [parts[j] for j in left])
            for w, inverse in zip(weights, inverses, strict=True)
        ]
        group = 1 if heads else shrinking_group(count - len(removed))
        weakest = [left[i] for i in importance(losses).argsort(stable=True)[:group].tolist()]
        gone = torch.cat([parts[j] for j in weakest])
        for w, inverse in zip(weights, inverses, strict=True):
            w -= torch.linalg.solve(inverse[gone][:, gone], w[:, gone].T).T @ inverse[gone]
            w[:, gone] = 0
        removed += weakest
        left = [j for j in left if j not in set(weakest)]
    return removed, weights


def other_columns(parts: list[Tensor], columns: int) -> Tensor:
    """Columns that belong to no part."""
    others = torch.ones(columns, dtype=torch.bool)
    others[torch.cat(parts)] = False
    return others.nonzero().flatten()


def inverse_of_left(hessian: Tensor, columns: Tensor, invert: Callable[[Tensor], Tensor]) -> Tensor:
    """The inverse of the Hessian of the columns that are left, at full size with zeros
    elsewhere."""
    inverse = torch.zeros_like(hessian)
    inverse[columns.unsqueeze(1), columns] = invert(hessian[columns][:, columns])
    return inverse


def losses_of(weight: Tensor, inverse: Tensor, parts: list[Tensor]) -> Tensor:
    """The loss of removing each part: (parts,)."""
    each = weight.square().sum(0) / (
        2 * inverse.diagonal().clamp(min=torch.finfo(weight.dtype).tiny)
    )
    return each[torch.stack(parts)].sum(1)


def importance(losses: list[Tensor]) -> Tensor:
    """One stream: its losses. Two: the fusion of their ranks, the most important first."""
    if len(losses) == 1:
        return losses[0]
    ranks = [loss.argsort(descending=True, stable=True).argsort() + 1 for loss in losses]
    return sum(1 / (60 + rank) for rank in ranks)


def shrinking_group(missing: int) -> int:
    """An eighth of the remaining removals, eight at least: obsdiff's schedule, so the same neurons
    are removed."""
    return min(missing, max(8, missing // 8))


def by_cholesky(matrix: Tensor) -> Tensor:
    """A faster inverse than torch.linalg.inv, to separate its share of a speed-up."""
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))
