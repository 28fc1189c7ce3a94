"""Optimal Brain Surgeon for a whole layer: unstructured and n:m.

    minimise ||W X - W' X||^2 over sparse W', Hessian of every row H = 2 X X^T     (OBS-Diff, 3.1)

    saliency of weight q       L_q = w_q^2 / (2 [H^-1]_qq)                           (1)
    repair by the others       dw  = -(w_q / [H^-1]_qq) H^-1[:, q]                   (2)

All rows share one order, the columns from left to right. A column that has been passed is fixed;
the columns to its right repair its removals. Then row q of R, the upper Cholesky factor of
H^-1 = R^T R, contains all terms of (1) and (2) at column q: [H^-1]_qq = R_qq^2 and
H^-1[:, q] = R_qq R[q, :], where H is restricted to the columns from q on. One factor serves every
row, and every matrix that reads the same input.

W (O, I) weight, W' (O, I) pruned weight, O outputs, I inputs, X (I, T) inputs, H (I, I),
R (I, I) upper triangular.

Columns are pruned in blocks of BLOCK with one saliency threshold over all rows of a matrix, so that
every block has the target sparsity. N:m groups are chosen when the sweep reaches them. The sweep is
a recursion: it prunes the left half, repairs the right half by one matrix product, and prunes the
right half. It descends to blocks, and inside them to strips of STRIP columns, which are pruned one
by one. W is stored transposed, so that a column is contiguous.

The factor of a float32 H is computed in float32 if that is exact enough, else in float64. The sweep
is computed in float32, or in float64 if the weights are float64.

References:
    Hassibi, Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", 1992.
    Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
        2023. https://arxiv.org/abs/2301.00774
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .cholesky import inverse_factor, narrow_
from .masks import lowest, lowest_in_groups
from .problem import Inputs, Solution, Target

BLOCK = 128  # columns with one saliency threshold
STRIP = 16  # columns that are pruned one by one before a matrix product repairs those to the right
Choose = Callable[[Tensor], Tensor]  # saliencies (columns, O) -> True where a weight is removed


def obs(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices that read the same input by Optimal Brain Surgeon.

    Without compensation, (1) is evaluated on the original weights and no weight is repaired.

    Args:
        weights: matrices (O, I), each pruned to the target by itself.
        inputs: statistics of the I inputs; only the Hessian (I, I) is read.
        target: share to remove, or an n:m group; damping; whether to compensate.

    Returns:
        One solution a matrix, in the same order, in the weights' dtypes.

    Raises:
        NotPositiveDefinite: H has entries that are inf or NaN, or the damping ladder fails.
    """
    return next(obs_each(weights, inputs, [target]))


def obs_each(
    weights: list[Tensor], inputs: Inputs, targets: list[Target]
) -> Iterator[list[Solution]]:
    """Yield the solutions of `obs` for one target after the other, all from one factor.

    Args:
        weights: matrices (O, I), each pruned to every target by itself.
        inputs: statistics of the I inputs; only the Hessian (I, I) is read.
        targets: targets; the damping of the first is used for all.

    Raises:
        NotPositiveDefinite: as for `obs`, at the first target.
    """
    factor, dead, used = inverse_factor(inputs.hessian, targets[0].damping)
    dtype = torch.promote_types(weights[0].dtype, torch.float32)
    factor = narrow_(factor, dtype)
    for target in targets:
        yield swept(weights, factor, dead, used, target)


def swept(
    weights: list[Tensor], factor: Tensor, dead: Tensor, used: float, target: Target
) -> list[Solution]:
    """Sweep matrices (O, I) with R (I, I), the always-zero inputs (I,) and the damping used."""
    sizes = [len(w) for w in weights]
    columns = factor.new_empty(len(factor), sum(sizes))
    for part, w in zip(columns.split(sizes, 1), weights, strict=True):
        part.copy_(w.T)
    columns[dead] = 0
    width, m = BLOCK, target.group[1] if target.group else None
    if m:
        width = -(-BLOCK // m) * m  # rounded up to whole groups
    choose = chooser(sizes, target)
    removed, losses = sweep_(columns, factor, choose, width, m, target.compensate)
    parts = zip(
        weights, columns.split(sizes, 1), removed.split(sizes, 1), losses.split(sizes), strict=True
    )
    return [
        Solution(part.T.to(w.dtype).contiguous(), mask.T.logical_not(), loss.sum().item(), used)
        for w, part, mask, loss in parts
    ]


def chooser(sizes: list[int], target: Target) -> Choose:
    """Return the choice of weights: in each n:m group, or by a threshold for each matrix."""
    if target.group:
        n, m = target.group
        return lambda saliency: lowest_in_groups(saliency.T, n, m).T
    return lambda saliency: torch.cat(
        [lowest(part, round(target.removed * part.numel())) for part in saliency.split(sizes, 1)], 1
    )


def sweep_(
    columns: Tensor,
    factor: Tensor,
    choose: Choose,
    width: int = BLOCK,
    group: int | None = None,
    compensate: bool = True,
) -> tuple[Tensor, Tensor]:
    """Prune columns from the first to the last, in place.

    Args:
        columns: the transpose (I, O) of W.
        factor: R (I, I).
        choose: function from saliencies to the mask of removed weights. It receives `width`
            columns, or `group` columns each time the sweep reaches a group.
        width: columns of a block; a multiple of `group`.
        group: m of an n:m pattern, None if unstructured.
        compensate: whether the columns to the right are repaired.

    Returns:
        The mask of removed weights (I, O), and each output's sum of saliencies (O,).
    """
    sweep = Sweep(columns, factor, choose, width, group, compensate)
    sweep.halves(0, len(columns), width, sweep.block)
    for top in range(0, len(columns), width):
        part, drop = columns[top : top + width], sweep.removed[top : top + width]
        part.addcmul_(part, sweep.spare[: len(part)].copy_(drop), value=-1)
    return sweep.removed, sweep.losses


class Sweep:
    """The state of a sweep.

    Buffers are reused, since an allocation costs more than the operations in it. After a column is
    passed, its removed entries store their error w_q / R_qq until the sweep ends.
    """

    def __init__(
        self,
        columns: Tensor,
        factor: Tensor,
        choose: Choose,
        width: int,
        group: int | None,
        compensate: bool,
    ) -> None:
        """Allocate the buffers; arguments as for `sweep_`."""
        inputs, outputs = columns.shape
        self.columns, self.factor, self.choose = columns, factor, choose
        self.group, self.compensate = group, compensate
        self.removed = columns.new_zeros(inputs, outputs, dtype=torch.bool)
        self.losses = columns.new_zeros(outputs)
        self.strip = -(-STRIP // group) * group if group else STRIP
        self.spare = columns.new_empty(max(1, -(-inputs // (2 * width))) * width, outputs)
        self.scales = columns.new_empty(self.strip, outputs)
        self.errors = columns.new_empty(self.strip, outputs)

    def halves(self, left: int, right: int, unit: int, each: Callable[[int, int], None]) -> None:
        """Call `each` on every unit from left to right; repair a right half after its left half."""
        if right - left <= unit:
            return each(left, right)
        middle = left + -(-(right - left) // (2 * unit)) * unit
        self.halves(left, middle, unit, each)
        if self.compensate:
            done = slice(left, middle)
            error = self.spare[: middle - left].copy_(self.removed[done]).mul_(self.columns[done])
            across = self.factor[left:middle, middle:right]
            self.columns[middle:right].addmm_(across.T, error, alpha=-1)  # (2)
        self.halves(middle, right, unit, each)

    def block(self, left: int, right: int) -> None:
        """Prune a block strip by strip, by one threshold; n:m groups are chosen one by one."""
        if not self.group:
            self.mark(left, right)
        self.halves(left, right, self.strip, self.one_by_one)

    def mark(self, left: int, right: int) -> None:
        """Choose the weights to remove from columns left to right."""
        self.removed[left:right] = self.choose(
            saliency(self.columns, self.factor, left, right, self.spare)
        )

    def one_by_one(self, left: int, right: int) -> None:
        """Prune the columns of a strip one by one; each repairs those to its right."""
        columns, factor, scales, errors = self.columns, self.factor, self.scales, self.errors
        scales[: right - left] = self.removed[left:right]
        for q in range(left, right):
            if self.group and q % self.group == 0:
                self.mark(q, q + self.group)
                scales[q - left : q - left + self.group] = self.removed[q : q + self.group]
            error = torch.mul(columns[q], scales[q - left], out=errors[q - left]).div_(factor[q, q])
            if self.compensate:  # (2), inside the strip
                columns[q + 1 : right].addr_(factor[q, q + 1 : right], error, alpha=-1)
        strip, done = columns[left:right], errors[: right - left]
        strip.addcmul_(strip, scales[: right - left], value=-1).add_(done)
        self.losses.add_(done.square_().sum(0), alpha=0.5)  # (1)


def saliency(columns: Tensor, factor: Tensor, left: int, right: int, spare: Tensor) -> Tensor:
    """Compute twice (1) for columns left to right, (right - left, O), in the spare memory."""
    return torch.div(
        columns[left:right], factor.diagonal()[left:right].unsqueeze(1), out=spare[: right - left]
    ).square_()
