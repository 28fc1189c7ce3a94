"""Optimal Brain Surgeon for whole columns: attention heads and FFN neurons leave, the others repair.

    minimise ||W X - W' X||^2 where chosen columns of W' are zero              (OBS-Diff, section 3.4)

    neuron  L_q = ||W[:, q]||^2 / (2 [H^-1]_qq)                                 (1)
            dW  = -(W[:, q] / [H^-1]_qq) H^-1[q, :]                             (2)
    head    L_j = sum over its columns k of ||W[:, k]||^2 / (2 [H^-1]_kk)       (3)
            dW  = -W[:, S] ([H^-1]_SS)^-1 H^-1[S, :], S the columns of head j   (4)
    joint attention: every stream ranks the heads, most important first; the fused importance of a head is
            S_j = sum over streams of 1 / (60 + rank)                           (5)
    and the least important head leaves all streams, each repaired with its own H.

W (O, I) weight that reads the heads or neurons, H (I, I) Hessian of its input.

H is factored once: R^T R = H^-1, R upper triangular. What leaves is projected out of H^-1 by a Schur complement,

    H^-1 <- H^-1 - F^T F,   F = L^-1 H^-1[S, :],  L L^T = [H^-1]_SS              (6)

whose remaining rows and columns are exactly the inverse of the remaining H: nothing is ever inverted again. H^-1 itself is never
written out. Ranking needs its diagonal, and a removal the rows of S: both come from R and the F of all earlier removals.

Heads leave one at a time, ranked anew each time; neurons leave in shrinking groups, each an eighth of those that have still to leave,
which comes within 0.1 % of the layer errors of one at a time (docs/log.md).

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025. https://arxiv.org/abs/2510.06751
    Ling et al., "SlimGPT: Layer-wise Structured Pruning for Large Language Models", 2024. https://arxiv.org/abs/2412.18110
    Cormack et al., "Reciprocal rank fusion outperforms Condorcet and individual rank learning methods", 2009.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .cholesky import inverse_factor, narrow_

RRF = 60  # k of reciprocal rank fusion
LAST_PART = 8  # the last groups of neurons to leave have this size
PARTS_LEFT = 8  # a group of neurons is one part in so many of those that have still to leave


@dataclass
class Consumer:
    """A weight that reads what is pruned, in the middle of being pruned: W (O, I), R (I, I), the F (C, I) of (6) of every
    removal so far, the diagonal of H^-1 as it is now (I,), which columns are left (I,), and half of what the squared error has grown by."""

    weight: Tensor
    factor: Tensor
    gone: list[Tensor]
    diagonal: Tensor
    left: Tensor
    damping: float
    loss: float = 0.0

    @classmethod
    def begin(cls, weight: Tensor, hessian: Tensor, damping: float) -> "Consumer":
        """Factor H once, in its dtype; all else is in float32, or float64 if the weight is. Inputs that are always zero carry
        nothing: their columns become zero and cost nothing to remove."""
        factor, dead, used = inverse_factor(hessian, damping)
        rows = weight.to(
            hessian.device, torch.promote_types(weight.dtype, torch.float32), copy=True
        )
        factor = narrow_(factor, rows.dtype)
        rows[:, dead] = 0
        return cls(
            rows,
            factor,
            [],
            torch.linalg.vector_norm(factor, dim=0).square(),
            torch.ones_like(dead),
            used,
        )

    @classmethod
    def untouched(cls, weight: Tensor, hessian: Tensor) -> "Consumer":
        """For methods that repair nothing: the weight as it is, and no factor."""
        nothing = hessian.new_empty(0, len(hessian))
        return cls(
            weight.to(hessian, copy=True),
            nothing,
            [],
            hessian.diagonal(),
            hessian.new_ones(len(hessian), dtype=torch.bool),
            0.0,
        )

    def losses(self) -> Tensor:
        """(1) for every column: (I,). Columns that have left count nothing."""
        return torch.where(
            self.left,
            torch.linalg.vector_norm(self.weight, dim=0).square()
            / (2 * self.diagonal.where(self.left, 1)),
            0,
        )

    def inverse_rows(self, columns: Tensor) -> Tensor:
        """Rows (C, I) of the inverse of the remaining H, by (6)."""
        last = int(columns.max()) + 1  # R is upper triangular: below row q its column q is zero
        rows = self.factor[:last, columns].T @ self.factor[:last]
        for half in self.gone:
            rows.addmm_(half[:, columns].T, half, alpha=-1)
        return rows.masked_fill_(~self.left, 0)

    def remove(self, columns: Tensor, compensate: bool = True) -> None:
        """Take columns (C,) out: repair the weight by (4), the inverse by (6)."""
        rows = self.inverse_rows(columns)
        lower, info = torch.linalg.cholesky_ex(rows[:, columns])
        if info.item():
            raise NotPositiveDefinite(
                f"the inverse Hessian of {len(columns)} columns is not positive definite any more; raise the damping (now {self.damping:g})"
            )
        half = torch.linalg.solve_triangular(lower, rows, upper=False)  # F: (C, I)
        share = torch.linalg.solve_triangular(
            lower, self.weight[:, columns].T, upper=False
        )  # (C, O)
        self.loss += share.square().sum().item() / 2
        if compensate:
            self.weight.addmm_(share.T, half, alpha=-1)
        self.diagonal = self.diagonal - half.square().sum(0)
        self.gone.append(half)
        self.drop(columns)

    def finish(self) -> None:
        """Let go of what only further removals would need."""
        self.factor, self.gone = self.factor.new_empty(0, len(self.left)), []

    def drop(self, columns: Tensor) -> None:
        """Zero columns (C,) and repair nothing."""
        self.left[columns] = False
        self.weight[:, columns] = 0


def obs_heads(
    consumers: list[Consumer], columns: list[Tensor], count: int, compensate: bool = True
) -> tuple[list[int], list[float]]:
    """Remove `count` heads, one at a time, from all consumers (streams) together.

    columns[j] (D,) are the columns of head j, the same in every consumer. Returns the removed heads in the order they left,
    and every head's fused importance (5) before the first one left.
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
    """Importance of the heads that are left, by the losses (3) in every stream."""
    losses = []
    for consumer in consumers:
        each = consumer.losses()
        losses.append(torch.stack([each[columns[j]].sum() for j in left]))
    return fused(losses)


def fused(losses: list[Tensor]) -> Tensor:
    """One importance from the losses (N,) in every stream: the loss itself where there is one stream, else (5)."""
    if len(losses) == 1:
        return losses[0]
    ranks = [loss.argsort(descending=True, stable=True).argsort() + 1 for loss in losses]
    return sum(1.0 / (RRF + rank) for rank in ranks)


def obs_neurons(
    consumer: Consumer, columns: Tensor, count: int, compensate: bool = True
) -> tuple[list[int], list[float]]:
    """Remove `count` of the neurons whose columns (N,) the consumer reads, in shrinking groups. Returns the removed ones in the
    order they left, and every neuron's loss (1) before the first one left."""
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
    """How many neurons leave together when `missing` have still to leave."""
    return min(missing, max(LAST_PART, missing // PARTS_LEFT))
