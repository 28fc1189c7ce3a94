"""The sweep of Optimal Brain Surgeon over the columns of a layer, from left to right.

Every removal is repaired by the columns to its right. With U U^T = A, the damped Hessian, and the
change D = W - W' of the columns l that are done, the columns b that follow read

    W_b + D_l U_lb R_bb,   R_bb = U_bb^-1                                            (1)

so that only small corners of U are inverted. Inside a block, with R = R_bb,

    error of column q    e_q = w_q / R_qq  where it is removed, else 0               (2)
    repair               w_p <- w_p - e_q R_qp,   p > q                              (3)
    loss                 sum over q of e_q^2 / 2  =  tr(D A D^T) / 2                 (4)

Columns are pruned in blocks with one choice of weights. The sweep is a recursion: it prunes the
left half, repairs the right half by one matrix product, and prunes the right half. It descends to
blocks, and inside them to strips of STRIP columns, which are pruned one by one. All is stored
transposed, so that a column is contiguous.

W (O, I) weight, W' (O, I) pruned weight, O outputs, I inputs, A, U, R (I, I), D (O, I).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .upper_factor import UpperFactor, inverse

STRIP = 16  # columns that are pruned one by one before a matrix product repairs those to the right
Choose = Callable[[Tensor], Tensor]  # saliencies (columns, O) -> True where a weight is removed


@dataclass(frozen=True)
class Plan:
    """How to sweep.

    Attributes:
        choose: function from saliencies to the mask of removed weights. It receives `width`
            columns, or `group` columns each time the sweep reaches a group.
        width: columns of a block; a multiple of `group`.
        group: m of an n:m pattern, None if unstructured.
        compensate: whether the columns to the right are repaired.
    """

    choose: Choose
    width: int
    group: int | None = None
    compensate: bool = True


@dataclass(frozen=True)
class Swept:
    """What a sweep finds.

    Attributes:
        weights: W' (O, I) of each matrix, in its dtype.
        kept: mask (O, I) of each, True where a weight is kept.
        losses: (4) of each.
        changes: ||D||^2 of each, before W' is rounded to its dtype.
    """

    weights: list[Tensor]
    kept: list[Tensor]
    losses: list[float]
    changes: list[float]


def swept(weights: list[Tensor], factor: UpperFactor, plan: Plan) -> Swept:
    """Prune matrices (O, I) that read the same input; they are not changed."""
    sweep = Sweep(weights, factor, plan)
    sweep.halves(0, len(sweep.state), plan.width, sweep.block, sweep.repair)
    losses, changes = (
        torch.stack(sums).cpu().double().sum(0).tolist() for sums in (sweep.losses, sweep.changes)
    )
    return Swept(sweep.weights, sweep.masks, losses, changes)


class Sweep:
    """The state of a sweep.

    Buffers are reused, since an allocation costs more than the operations in it. `state` (I, O)
    stores (D_l U_l)^T for the columns to come, and D^T for those that are done.
    """

    def __init__(self, weights: list[Tensor], factor: UpperFactor, plan: Plan) -> None:
        """Allocate the buffers; arguments as for `swept`."""
        u, width = factor.matrix, min(plan.width, len(factor.matrix))
        self.sources, self.factor, self.plan = weights, factor, plan
        self.alive = None if not bool(factor.dead.any()) else ~factor.dead
        self.sizes = [len(weight) for weight in weights]
        outputs = sum(self.sizes)
        self.weights = [torch.empty_like(w, device=u.device) for w in weights]
        self.masks = [torch.empty_like(w, dtype=torch.bool) for w in self.weights]
        self.losses: list[Tensor] = []  # (4) and ||D||^2 of each matrix, block by block
        self.changes: list[Tensor] = []
        self.state = u.new_zeros(len(u), outputs)
        self.columns, self.scales, self.errors = u.new_empty(3, width, outputs)
        self.removed = u.new_zeros(width, outputs, dtype=torch.bool)
        self.rows = u.new_empty(outputs, width)  # a block of W or W', and its mask
        self.kept = self.removed.new_empty(outputs, width)
        self.strip = -(-STRIP // plan.group) * plan.group if plan.group else STRIP
        self.inverse, self.left = u, 0  # R_bb transposed, and the first column of the block

    def halves(
        self,
        left: int,
        right: int,
        unit: int,
        each: Callable[[int, int], None],
        repair: Callable[[int, int, int], None],
    ) -> None:
        """Call `each` on every unit from left to right; repair a right half after its left half."""
        if right - left <= unit:
            return each(left, right)
        middle = left + -(-(right - left) // (2 * unit)) * unit
        self.halves(left, middle, unit, each, repair)
        if self.plan.compensate:
            repair(left, middle, right)
        self.halves(middle, right, unit, each, repair)

    def repair(self, left: int, middle: int, right: int) -> None:
        """Add what the columns left to middle change in those from middle to right: (1)."""
        across = self.factor.matrix[left:middle, middle:right]
        self.state[middle:right].addmm_(across.T, self.state[left:middle])

    def block(self, left: int, right: int) -> None:
        """Prune a block strip by strip."""
        size, compensate = right - left, self.plan.compensate
        columns, errors, change = self.columns[:size], self.errors[:size], self.state[left:right]
        corner = inverse(self.factor.matrix[left:right, left:right].triu())
        self.inverse, self.left = corner.T.contiguous(), left
        self.read(columns, left, right)
        if compensate:
            columns.addmm_(self.inverse, change)  # (1)
        self.read(change, left, right)
        if not self.plan.group:
            self.mark(0, size)
        self.halves(0, size, self.strip, self.one_by_one, self.repair_inside)
        kept = self.removed[:size].logical_not_()
        columns.mul_(kept)
        change.sub_(columns)
        self.write(columns, kept, left, right)
        self.losses.append(self.energies(errors, errors) / 2)  # (4)
        self.changes.append(self.energies(change, errors))

    def mark(self, left: int, right: int) -> None:
        """Choose the weights to remove from columns left to right of the block."""
        scales, columns = self.scales[left:right], self.columns[left:right]
        diagonal = self.inverse.diagonal()[left:right].unsqueeze(1)
        saliencies = torch.div(columns, diagonal, out=scales).square_()
        self.removed[left:right] = self.plan.choose(saliencies)
        torch.div(self.removed[left:right], diagonal, out=scales)

    def one_by_one(self, left: int, right: int) -> None:
        """Prune the columns of a strip one by one; each is repaired for those to its left."""
        columns, errors, group = self.columns, self.errors, self.plan.group
        for q in range(left, right):
            if group and q % group == 0:
                self.repair_inside(left, q, q + group)
                self.mark(q, q + group)
            first = q - q % group if group else left
            if q > first and self.plan.compensate:  # (3)
                across = self.inverse[q : q + 1, first:q]
                columns[q : q + 1].addmm_(across, errors[first:q], alpha=-1)
            torch.mul(columns[q], self.scales[q], out=errors[q])  # (2)

    def repair_inside(self, left: int, middle: int, right: int) -> None:
        """Repair columns middle to right of the block for the errors of left to middle: (3)."""
        if middle > left and self.plan.compensate:
            across = self.inverse[middle:right, left:middle]
            self.columns[middle:right].addmm_(across, self.errors[left:middle], alpha=-1)

    def energies(self, values: Tensor, spare: Tensor) -> Tensor:
        """Return the sum of squares (matrices,) of each matrix's part of (columns, O) values."""
        squares = torch.mul(values, values, out=spare)
        return torch.stack([part.sum() for part in squares.split(self.sizes, 1)])

    def read(self, columns: Tensor, left: int, right: int) -> None:
        """Copy columns left to right of all matrices; those of always-zero inputs are zero.

        A transpose is fast only between two pieces of memory without gaps.
        """
        rows = self.rows.view(-1)[: columns.numel()].view(-1, right - left)
        for part, weight in zip(rows.split(self.sizes), self.sources, strict=True):
            part.copy_(weight[:, left:right])
        columns.copy_(rows.T)
        if self.alive is not None:
            columns.mul_(self.alive[left:right].unsqueeze(1))

    def write(self, columns: Tensor, kept: Tensor, left: int, right: int) -> None:
        """Copy a block's pruned columns and its mask into the result."""
        rows = self.rows.view(-1)[: columns.numel()].view(-1, right - left)
        mask = self.kept.view(-1)[: columns.numel()].view(-1, right - left)
        rows.copy_(columns.T)
        mask.copy_(kept.T)
        for weight, part in zip(self.weights, rows.split(self.sizes), strict=True):
            weight[:, left:right] = part
        for weight, part in zip(self.masks, mask.split(self.sizes), strict=True):
            weight[:, left:right] = part
