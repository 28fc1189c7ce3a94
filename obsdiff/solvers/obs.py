"""Optimal Brain Surgeon for a whole layer: unstructured and n:m.

    minimise ||W X - W' X||^2 over sparse W', Hessian of every row H = 2 X X^T     (OBS-Diff, section 3.1)

    saliency of weight q       L_q = w_q^2 / (2 [H^-1]_qq)                           (1)
    repair by the others       dw  = -(w_q / [H^-1]_qq) H^-1[:, q]                   (2)

All rows share one order, the columns from left to right: a column that has been passed is fixed, and what its removal
broke is repaired by the columns to its right. Then row q of R, the upper Cholesky factor of H^-1 = R^T R, holds all
that (1) and (2) need at column q: [H^-1]_qq = R_qq^2 and H^-1[:, q] = R_qq R[q, :], H being what the columns from q on
leave of it. One factor serves every row, and every matrix that reads the same input.

W (O, I) weight, O outputs, I inputs, H (I, I), R (I, I) upper triangular.

Columns go in blocks of BLOCK with one saliency threshold over all rows of a matrix, so that every block has the target
sparsity; n:m groups are chosen when the sweep reaches them. The sweep is a recursion: the left half first, then one matrix
product repairs the right half, then the right half; down to blocks, and inside them to strips of STRIP columns, which go one
by one. W is kept transposed meanwhile, so that a column is contiguous.

The factor of a float32 H is computed in float32 if that is exact enough, else in float64; the sweep in float32, or float64 if the
weights are.

References:
    Hassibi, Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", 1992.
    Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2023. https://arxiv.org/abs/2301.00774
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025. https://arxiv.org/abs/2510.06751
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .cholesky import inverse_factor, narrow_
from .masks import lowest, lowest_in_groups
from .problem import Inputs, Solution, Target

BLOCK = 128
STRIP = 16
Choose = Callable[[Tensor], Tensor]  # saliencies (columns, O) -> True where a weight goes


def obs(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices (O, I) that read the same input, each to the target by itself. Of the inputs the Hessian counts.

    Without compensation the same kind of weights goes, by (1) with every weight as it was, and nothing is repaired.
    Returns the weights' dtypes. Raises NotPositiveDefinite if H has entries that are not
    finite or no damping on the ladder makes it positive definite.
    """
    return next(obs_each(weights, inputs, [target]))


def obs_each(
    weights: list[Tensor], inputs: Inputs, targets: list[Target]
) -> Iterator[list[Solution]]:
    """The same for one target after the other, from one factor; they have one damping."""
    factor, dead, used = inverse_factor(inputs.hessian, targets[0].damping)
    dtype = torch.promote_types(weights[0].dtype, torch.float32)
    factor = narrow_(factor, dtype)
    for target in targets:
        yield swept(weights, factor, dead, used, target)


def swept(
    weights: list[Tensor], factor: Tensor, dead: Tensor, used: float, target: Target
) -> list[Solution]:
    sizes = [len(w) for w in weights]
    columns = factor.new_empty(len(factor), sum(sizes))
    for part, w in zip(columns.split(sizes, 1), weights, strict=True):
        part.copy_(w.T)
    columns[dead] = 0
    width = BLOCK
    if target.group:
        width = -(-BLOCK // target.group[1]) * target.group[1]  # rounded up to whole groups
    gone, losses = sweep_(
        columns,
        factor,
        chooser(sizes, target),
        width,
        target.group[1] if target.group else None,
        target.compensate,
    )
    parts = zip(
        weights, columns.split(sizes, 1), gone.split(sizes, 1), losses.split(sizes), strict=True
    )
    return [
        Solution(part.T.to(w.dtype).contiguous(), mask.T.logical_not(), loss.sum().item(), used)
        for w, part, mask, loss in parts
    ]


def chooser(sizes: list[int], target: Target) -> Choose:
    """What picks the weights to remove: in each n:m group, or below one threshold for each matrix of the stack."""
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
    """Prune columns (I, O), the transpose of W, from the first to the last. Returns the mask of removed weights (I, O) and each
    output's sum of saliencies (O,).

    choose gets the saliencies of `width` columns, or of `group` columns each time the sweep reaches a group.
    """
    sweep = Sweep(columns, factor, choose, width, group, compensate)
    sweep.halves(0, len(columns), width, sweep.block)
    for top in range(0, len(columns), width):
        part, away = columns[top : top + width], sweep.gone[top : top + width]
        part.addcmul_(part, sweep.spare[: len(part)].copy_(away), value=-1)
    return sweep.gone, sweep.losses


class Sweep:
    """A sweep on its way. Buffers are reused: new memory costs more than what is computed in it."""

    def __init__(
        self,
        columns: Tensor,
        factor: Tensor,
        choose: Choose,
        width: int,
        group: int | None,
        compensate: bool,
    ):
        inputs, outputs = columns.shape
        self.columns, self.factor, self.choose, self.group, self.compensate = (
            columns,
            factor,
            choose,
            group,
            compensate,
        )
        self.gone, self.losses = (
            columns.new_zeros(inputs, outputs, dtype=torch.bool),
            columns.new_zeros(outputs),
        )
        self.strip = -(-STRIP // group) * group if group else STRIP
        self.spare = columns.new_empty(max(1, -(-inputs // (2 * width))) * width, outputs)
        self.scales, self.errors = (
            columns.new_empty(self.strip, outputs),
            columns.new_empty(self.strip, outputs),
        )

    def halves(self, left: int, right: int, unit: int, each: Callable[[int, int], None]) -> None:
        """`each` unit from left to right; after a left half its right half is repaired. Where a weight went, its error is kept."""
        if right - left <= unit:
            return each(left, right)
        middle = left + -(-(right - left) // (2 * unit)) * unit
        self.halves(left, middle, unit, each)
        if self.compensate:
            half = (
                self.spare[: middle - left]
                .copy_(self.gone[left:middle])
                .mul_(self.columns[left:middle])
            )
            self.columns[middle:right].addmm_(
                self.factor[left:middle, middle:right].T, half, alpha=-1
            )  # (2)
        self.halves(middle, right, unit, each)

    def block(self, left: int, right: int) -> None:
        """One threshold, then strip after strip; groups have thresholds of their own."""
        if not self.group:
            self.mark(left, right)
        self.halves(left, right, self.strip, self.one_by_one)

    def mark(self, left: int, right: int) -> None:
        self.gone[left:right] = self.choose(
            saliency(self.columns, self.factor, left, right, self.spare)
        )

    def one_by_one(self, left: int, right: int) -> None:
        columns, factor, scales, errors = self.columns, self.factor, self.scales, self.errors
        scales[: right - left] = self.gone[left:right]
        for q in range(left, right):
            if self.group and q % self.group == 0:
                self.mark(q, q + self.group)
                scales[q - left : q - left + self.group] = self.gone[q : q + self.group]
            error = torch.mul(columns[q], scales[q - left], out=errors[q - left]).div_(factor[q, q])
            if self.compensate:
                columns[q + 1 : right].addr_(
                    factor[q, q + 1 : right], error, alpha=-1
                )  # (2), inside the strip
        done = errors[: right - left]
        columns[left:right].addcmul_(columns[left:right], scales[: right - left], value=-1).add_(
            done
        )
        self.losses.add_(done.square_().sum(0), alpha=0.5)  # (1)


def saliency(columns: Tensor, factor: Tensor, left: int, right: int, spare: Tensor) -> Tensor:
    """(1) for columns left to right, without its factor 1/2, which changes no order: (right - left, O), in the spare memory."""
    return torch.div(
        columns[left:right], factor.diagonal()[left:right].unsqueeze(1), out=spare[: right - left]
    ).square_()
