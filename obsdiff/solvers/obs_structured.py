"""Optimal Brain Surgeon for whole columns: attention heads and FFN neurons are removed.

    minimise ||W X - W' X||^2 where chosen columns of W' are zero              (OBS-Diff, 3.4)

    neuron  L_q = ||W[:, q]||^2 / (2 [H^-1]_qq)                                 (1)
            dW  = -(W[:, q] / [H^-1]_qq) H^-1[q, :]                             (2)
    head    L_j = sum over its columns k of ||W[:, k]||^2 / (2 [H^-1]_kk)       (3)
            dW  = -W[:, S] ([H^-1]_SS)^-1 H^-1[S, :], S the columns of head j   (4)
    joint attention: every stream ranks the heads, most important first; the fused importance of a
            head is S_j = sum over streams of 1 / (60 + rank)                   (5)
    and the least important head is removed from all streams, each repaired with its own H.

H is factored once: R^T R = H^-1, R upper triangular. A removal updates H^-1 by a Schur complement,

    H^-1 <- H^-1 - F^T F,   F = L^-1 H^-1[S, :],  L L^T = [H^-1]_SS              (6)

whose remaining rows and columns are exactly the inverse of the remaining H: nothing is inverted
again. H^-1 itself is never stored. The ranking reads its diagonal, and a removal the rows of S.
Both are computed from R and the F of all earlier removals.

Heads are removed one at a time and ranked again each time. Neurons are removed in shrinking groups,
each an eighth of those that remain to be removed. The layer errors are within 0.1 % of those of
one at a time (docs/log.md).

W (O, I) weight that reads the heads or neurons, O outputs, I inputs, X (I, T) inputs, H (I, I)
Hessian of X, R (I, I), F (C, I), C columns of a removal, L (C, C).

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
    Ling et al., "SlimGPT: Layer-wise Structured Pruning for Large Language Models", 2024.
        https://arxiv.org/abs/2412.18110
    Cormack et al., "Reciprocal rank fusion outperforms Condorcet and individual rank learning
        methods", 2009.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .cholesky import inverse_factor, narrow_

RRF = 60  # k of reciprocal rank fusion
LAST_PART = 8  # size of the last groups of neurons
PARTS_LEFT = 8  # a group of neurons is this part of those that remain to be removed


@dataclass
class Consumer:
    """A weight that reads the heads or neurons, while they are removed.

    Attributes:
        weight: W (O, I), repaired after every removal.
        factor: R (I, I); (0, I) if nothing is repaired, or after `finish`.
        gone: F (C, I) of every removal so far.
        diagonal: diagonal of the present H^-1 (I,).
        left: mask (I,), True for columns that are not removed.
        damping: damping used, in units of H's mean diagonal.
        loss: increase of half of the squared error so far.
    """

    weight: Tensor
    factor: Tensor
    gone: list[Tensor]
    diagonal: Tensor
    left: Tensor
    damping: float
    loss: float = 0.0

    @classmethod
    def begin(cls, weight: Tensor, hessian: Tensor, damping: float) -> "Consumer":
        """Factor H once, and return a consumer from which nothing is removed.

        The factor is computed in H's dtype; all else in float32, or float64 if the weight is
        float64. Columns of inputs that are always zero become zero; their removal costs nothing.

        Args:
            weight: W (O, I); copied.
            hessian: H (I, I).
            damping: first damping tried, in units of H's mean diagonal; at least 0.

        Raises:
            NotPositiveDefinite: H has entries that are inf or NaN, or the damping ladder fails.
        """
        factor, dead, used = inverse_factor(hessian, damping)
        dtype = torch.promote_types(weight.dtype, torch.float32)
        rows = weight.to(hessian.device, dtype, copy=True)
        factor = narrow_(factor, rows.dtype)
        rows[:, dead] = 0
        diagonal = torch.linalg.vector_norm(factor, dim=0).square()
        return cls(rows, factor, [], diagonal, torch.ones_like(dead), used)

    @classmethod
    def untouched(cls, weight: Tensor, hessian: Tensor) -> "Consumer":
        """Return a consumer without a factor, for methods that repair nothing.

        Args:
            weight: W (O, I); copied.
            hessian: H (I, I); only its dtype, device and diagonal are used.
        """
        empty = hessian.new_empty(0, len(hessian))
        left = hessian.new_ones(len(hessian), dtype=torch.bool)
        return cls(weight.to(hessian, copy=True), empty, [], hessian.diagonal(), left, 0.0)

    def losses(self) -> Tensor:
        """Return (1) for every column (I,); 0 for removed columns."""
        energy = torch.linalg.vector_norm(self.weight, dim=0).square()
        return torch.where(self.left, energy / (2 * self.diagonal.where(self.left, 1)), 0)

    def inverse_rows(self, columns: Tensor) -> Tensor:
        """Return the rows (C, I) of the inverse of the remaining H for columns (C,), by (6)."""
        last = int(columns.max()) + 1  # R is upper triangular: below row q its column q is zero
        rows = self.factor[:last, columns].T @ self.factor[:last]
        for half in self.gone:
            rows.addmm_(half[:, columns].T, half, alpha=-1)
        return rows.masked_fill_(~self.left, 0)

    def remove(self, columns: Tensor, compensate: bool = True) -> None:
        """Remove columns: repair the weight by (4), update the inverse by (6).

        Args:
            columns: indices of the columns (C,), none removed before.
            compensate: whether the weight is repaired.

        Raises:
            NotPositiveDefinite: the block of the inverse is not positive definite.
        """
        rows = self.inverse_rows(columns)
        lower, info = torch.linalg.cholesky_ex(rows[:, columns])
        if info.item():
            raise NotPositiveDefinite(
                f"the inverse Hessian of {len(columns)} columns is no longer positive definite; "
                f"raise the damping (now {self.damping:g})"
            )
        half = torch.linalg.solve_triangular(lower, rows, upper=False)  # F: (C, I)
        share = torch.linalg.solve_triangular(lower, self.weight[:, columns].T, upper=False)
        self.loss += share.square().sum().item() / 2  # share: (C, O)
        if compensate:
            self.weight.addmm_(share.T, half, alpha=-1)
        self.diagonal = self.diagonal - half.square().sum(0)
        self.gone.append(half)
        self.drop(columns)

    def finish(self) -> None:
        """Free the tensors that only further removals need."""
        self.factor, self.gone = self.factor.new_empty(0, len(self.left)), []

    def drop(self, columns: Tensor) -> None:
        """Set columns (C,) to zero without a repair."""
        self.left[columns] = False
        self.weight[:, columns] = 0


def obs_heads(
    consumers: list[Consumer], columns: list[Tensor], count: int, compensate: bool = True
) -> tuple[list[int], list[float]]:
    """Remove heads one at a time, from all consumers (streams) together.

    Args:
        consumers: one consumer for each stream; changed in place.
        columns: the columns (D,) of each head, the same in every consumer.
        count: heads to remove.
        compensate: whether the weights are repaired.

    Returns:
        The removed heads, first removed first, and every head's fused importance (5) before any
        removal.

    Raises:
        NotPositiveDefinite: a block of an inverse Hessian is not positive definite.
    """
    left = list(range(len(columns)))
    first = fuse(consumers, columns, left)
    removed = []
    for _ in range(count):
        importance = fuse(consumers, columns, left)
        weakest = left[int(importance.argmin())]
        for consumer in consumers:
            consumer.remove(columns[weakest], compensate)
        left.remove(weakest)
        removed.append(weakest)
    return removed, first.tolist()


def fuse(consumers: list[Consumer], columns: list[Tensor], left: list[int]) -> Tensor:
    """Return the importance (N,) of the N remaining heads, by the losses (3) in every stream."""
    losses = []
    for consumer in consumers:
        each = consumer.losses()
        losses.append(torch.stack([each[columns[j]].sum() for j in left]))
    return fused(losses)


def fused(losses: list[Tensor]) -> Tensor:
    """Return one importance (N,) from the losses (N,) in every stream.

    With one stream it is the loss itself, else (5).
    """
    if len(losses) == 1:
        return losses[0]
    ranks = [loss.argsort(descending=True, stable=True).argsort() + 1 for loss in losses]
    return sum((1.0 / (RRF + rank) for rank in ranks), start=torch.zeros(()))


def obs_neurons(
    consumer: Consumer, columns: Tensor, count: int, compensate: bool = True
) -> tuple[list[int], list[float]]:
    """Remove neurons in shrinking groups.

    Args:
        consumer: the consumer; changed in place.
        columns: its column for each of the N neurons (N,).
        count: neurons to remove, 0 to N.
        compensate: whether the weight is repaired.

    Returns:
        The removed neurons, first removed first, and every neuron's loss (1) before any removal.

    Raises:
        NotPositiveDefinite: a block of the inverse Hessian is not positive definite.
    """
    first = consumer.losses()[columns]
    left = torch.arange(len(columns), device=columns.device)
    removed: list[int] = []
    while len(removed) < count:
        group = next_group(count - len(removed))
        losses = consumer.losses()[columns[left]]
        weakest = left[losses.argsort(stable=True)[:group].to(left.device)]
        consumer.remove(columns[weakest], compensate)
        left = left[~torch.isin(left, weakest)]
        removed += weakest.tolist()
    return removed, first.tolist()


def next_group(missing: int) -> int:
    """Return the number of neurons to remove together if `missing` remain to be removed."""
    return min(missing, max(LAST_PART, missing // PARTS_LEFT))
