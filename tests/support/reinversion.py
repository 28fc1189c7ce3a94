"""The oracle of structured pruning: the plain algorithm, which inverts the Hessian of what is left anew for every removal."""

from collections.abc import Callable

import torch
from torch import Tensor

from obsdiff.solvers.structured import fused, next_group

DAMPING = 0.01


def by_cholesky(matrix: Tensor) -> Tensor:
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))


def inverse_of(hessian: Tensor, left: Tensor, invert: Callable[[Tensor], Tensor]) -> Tensor:
    """The inverse of the Hessian of the columns that are left, at full size with zeros elsewhere."""
    inverse = torch.zeros_like(hessian)
    inverse[left.unsqueeze(1), left] = invert(hessian[left][:, left])
    return inverse


def plain(
    streams: list[tuple[Tensor, Tensor]], parts: list[Tensor], count: int, heads: bool, invert: Callable[[Tensor], Tensor] = torch.linalg.inv
) -> tuple[list[int], list[Tensor]]:
    """Remove `count` of the parts (columns (D,) each) from every stream, inverting anew each time."""
    weights = [w.clone() for w, _ in streams]
    damped = [h + DAMPING * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype) for _, h in streams]
    left, removed = list(range(len(parts))), []
    while len(removed) < count:
        columns = torch.cat([parts[j] for j in left]).sort().values
        inverses = [inverse_of(h, columns, invert) for h in damped]
        losses = []
        for w, inverse in zip(weights, inverses, strict=True):
            each = w.square().sum(0) / (2 * inverse.diagonal().clamp(min=torch.finfo(w.dtype).tiny))
            losses.append(torch.stack([each[parts[j]].sum() for j in left]) if heads else each[columns])
        group = 1 if heads else next_group(count - len(removed))
        weakest = [left[i] for i in fused(losses).argsort(stable=True)[:group].tolist()]
        s = torch.cat([parts[j] for j in weakest])
        for w, inverse in zip(weights, inverses, strict=True):
            w -= torch.linalg.solve(inverse[s][:, s], w[:, s].T).T @ inverse[s]
            w[:, s] = 0
        removed += weakest
        left = [j for j in left if j not in set(weakest)]
    return removed, weights
