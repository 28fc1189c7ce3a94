"""Optimal Brain Surgeon for whole columns: attention heads and FFN neurons are removed.

    minimise ||W X - W' X||^2 where chosen columns of W' are zero              (OBS-Diff)

    neuron  L_q = ||W[:, q]||^2 / (2 [H^-1]_qq)                                 (1)
            dW  = -(W[:, q] / [H^-1]_qq) H^-1[q, :]                             (2)
    head    L_j = sum over its columns k of ||W[:, k]||^2 / (2 [H^-1]_kk)       (3)
            dW  = -W[:, S] ([H^-1]_SS)^-1 H^-1[S, :], S the columns of head j   (4)
    joint attention: the streams' rankings are fused to one importance          (5)
    and the least important head is removed from all streams, each repaired with its own H.

H is factored once: R^T R = H^-1, R upper triangular. A removal updates H^-1 by a Schur complement,

    H^-1 <- H^-1 - F^T F,   F = L^-1 H^-1[S, :],  L L^T = [H^-1]_SS              (6)

whose remaining rows and columns are exactly the inverse of the remaining H: nothing is inverted
again. H^-1 itself is never stored. The ranking reads its diagonal, and a removal the rows of S.
Both are computed from R and the F of all earlier removals.

Heads are removed one at a time and ranked again each time. Neurons are removed in shrinking groups.
The layer errors are within 0.1 % of those of one at a time (docs/log.md). ranking.py has (5), the
sizes of the groups, and in what the authors' code differs.

W (O, I) weight that reads the heads or neurons, O outputs, I inputs, X (I, T) inputs, H (I, I)
Hessian of X, R (I, I), F (C, I), C columns of a removal, L (C, C).

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
    Ling et al., "SlimGPT: Layer-wise Structured Pruning for Large Language Models", 2024.
        https://arxiv.org/abs/2412.18110
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .cholesky import inverse_factor, narrow_
from .ranking import EQUATIONS, Ranking


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

    def conditional_losses(self, parts: list[Tensor]) -> Tensor:
        """Return (3) of ranking.py for every part, columns (D,) of it, as (N, D).

        Raises:
            NotPositiveDefinite: the block of a part is not positive definite.
        """
        energy = torch.linalg.vector_norm(self.weight, dim=0).square()
        blocks = torch.stack([self.inverse_block(columns) for columns in parts])
        lower = self.factored(blocks, len(parts[0]))
        each = torch.stack([energy[columns] for columns in parts])
        return each / (2 * lower.diagonal(dim1=-2, dim2=-1).square())

    def inverse_block(self, columns: Tensor) -> Tensor:
        """Return the block (C, C) of the inverse of the remaining H for columns (C,), by (6)."""
        own = self.factor[: int(columns.max()) + 1, columns]
        block = own.T @ own
        for half in self.gone:
            block.addmm_(half[:, columns].T, half[:, columns], alpha=-1)
        return block

    def factored(self, blocks: Tensor, count: int) -> Tensor:
        """Return the lower Cholesky factors of blocks (..., C, C) of the inverse; or raise."""
        lower, info = torch.linalg.cholesky_ex(blocks)
        if info.any():
            raise NotPositiveDefinite(
                f"the inverse Hessian of {count} columns is no longer positive definite; "
                f"raise the damping (now {self.damping:g})"
            )
        return lower

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
        lower = self.factored(rows[:, columns], len(columns))
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
    consumers: list[Consumer],
    columns: list[Tensor],
    count: int,
    compensate: bool = True,
    ranking: Ranking = EQUATIONS,
) -> tuple[list[int], list[float]]:
    """Remove heads one at a time, from all consumers (streams) together.

    Args:
        consumers: one consumer for each stream; changed in place.
        columns: the columns (D,) of each head, the same in every consumer.
        count: heads to remove.
        compensate: whether the weights are repaired.
        ranking: which head is the least important.

    Returns:
        The removed heads, first removed first, and every head's importance (5) before any removal.

    Raises:
        NotPositiveDefinite: a block of an inverse Hessian is not positive definite.
    """
    left = list(range(len(columns)))
    first = importance(consumers, columns, left, ranking)
    removed = []
    for _ in range(count):
        present = importance(consumers, columns, left, ranking)
        weakest = left[int(present.argmin())]
        for consumer in consumers:
            consumer.remove(columns[weakest], compensate)
        left.remove(weakest)
        removed.append(weakest)
    return removed, first.tolist()


def importance(
    consumers: list[Consumer], columns: list[Tensor], left: list[int], ranking: Ranking
) -> Tensor:
    """Return the importance (N,) of the N remaining heads, by their losses in every stream."""
    parts, losses = [columns[j] for j in left], []
    for consumer in consumers:
        if ranking.conditional:
            losses.append(consumer.conditional_losses(parts).sum(1))
        else:
            each = consumer.losses()
            losses.append(torch.stack([each[part].sum() for part in parts]))
    return ranking.fuse(losses)


def obs_neurons(
    consumer: Consumer,
    columns: Tensor,
    count: int,
    compensate: bool = True,
    ranking: Ranking = EQUATIONS,
) -> tuple[list[int], list[float]]:
    """Remove neurons in shrinking groups.

    Args:
        consumer: the consumer; changed in place.
        columns: its column for each of the N neurons (N,).
        count: neurons to remove, 0 to N.
        compensate: whether the weight is repaired.
        ranking: how many leave together.

    Returns:
        The removed neurons, first removed first, and every neuron's loss (1) before any removal.

    Raises:
        NotPositiveDefinite: the block of the inverse Hessian is not positive definite.
    """
    first = consumer.losses()[columns]
    left = torch.arange(len(columns), device=columns.device)
    removed: list[int] = []
    for group in ranking.groups(count):
        losses = consumer.losses()[columns[left]]
        weakest = left[losses.argsort(stable=True)[:group].to(left.device)]
        consumer.remove(columns[weakest], compensate)
        left = left[~torch.isin(left, weakest)]
        removed += weakest.tolist()
    return removed, first.tolist()


def remove_given(
    consumers: list[Consumer], columns: Tensor, items: Sequence[int], compensate: bool = True
) -> tuple[list[int], list[float]]:
    """Remove given heads, neurons or norm groups together, from all consumers.

    Args:
        consumers: one consumer for each stream; changed in place.
        columns: the columns (N, D) of each of the N items, the same in every consumer.
        items: the indices of those that leave.
        compensate: whether the weights are repaired.

    Returns:
        The removed items, and every item's loss (1) before any removal, summed over its columns and
        the consumers.

    Raises:
        NotPositiveDefinite: the block of an inverse Hessian is not positive definite.
    """
    first = torch.stack([consumer.losses()[columns].sum(1) for consumer in consumers]).sum(0)
    for consumer in consumers if items else ():
        consumer.remove(columns[list(items)].flatten(), compensate)
    return list(items), first.tolist()
