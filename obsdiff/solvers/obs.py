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
sparsity; n:m groups are chosen when the sweep reaches them. Inside a block columns go in strips of STRIP; the repair of
what lies right of a strip, or of a block, is one matrix product.

References:
    Hassibi, Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", 1992.
    Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot", 2023. https://arxiv.org/abs/2301.00774
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025. https://arxiv.org/abs/2510.06751
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .solution import Inputs, Solution, Target, lowest, lowest_in_groups

BLOCK = 128
STRIP = 32
SMALL = 384  # triangular matrices up to this size are inverted by solving for the identity
LADDER = (1, 10, 100, 1000)  # a Cholesky factorisation that fails is tried again with this much more damping

Choose = Callable[[Tensor], Tensor]  # saliencies (O, columns) -> True where a weight goes


def obs(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices (O, I) that read the same input, each to the target by itself. Of the inputs the Hessian counts.

    Without compensation the same kind of weights goes, by (1) with every weight as it was, and nothing is repaired.
    Computes in the Hessian's dtype, returns the weights' dtypes. Raises NotPositiveDefinite if H has entries that are not
    finite or no damping on the ladder makes it positive definite.
    """
    hessian, dead = revive(inputs.hessian)
    factor, used = inverse_factor(hessian, target.damping)
    rows = torch.cat([w.to(hessian) for w in weights]).masked_fill(dead, 0)
    sizes = [len(w) for w in weights]
    width = BLOCK
    if target.group:
        width = -(-BLOCK // target.group[1]) * target.group[1]  # rounded up to whole groups
    swept, kept, losses = sweep(rows, factor, chooser(sizes, target), width, target.group[1] if target.group else None, target.compensate)
    parts = zip(weights, swept.split(sizes), kept.split(sizes), losses.split(sizes), strict=True)
    return [Solution(part.to(w.dtype), mask, loss.sum().item(), used) for w, part, mask, loss in parts]


def revive(hessian: Tensor) -> tuple[Tensor, Tensor]:
    """H whose inputs that are always zero have H_ii = 1 (a copy, if there are any), and a mask (I,) of those inputs."""
    if not finite(hessian):
        raise NotPositiveDefinite("the Hessian has entries that are inf or NaN")
    dead = hessian.diagonal() == 0
    if dead.any():
        hessian = hessian.clone()
        hessian.diagonal()[dead] = 1
    return hessian, dead


def finite(matrix: Tensor) -> bool:
    """Whether every entry is; mostly one pass, since inf and NaN never vanish from a sum."""
    return bool(matrix.sum().isfinite()) or bool(matrix.isfinite().all())


def inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, float]:
    """R (I, I), upper triangular with R^T R = (H + d I)^-1, and the damping that it took, in units of H's mean diagonal.

    One Cholesky and one triangular inverse: with J the reversal, J H J = L L^T gives H = U U^T with U = J L J upper, so
    R = U^-1. A factorisation that fails is repeated with more damping, up the LADDER.
    """
    mean = hessian.diagonal().mean()
    for step in LADDER:
        damped = hessian.flip(0, 1)
        damped.diagonal().add_(damping * step * mean)
        lower, info = torch.linalg.cholesky_ex(damped)
        if info.item() == 0:
            factor = invert_(lower).flip(0, 1)
            if finite(factor):
                return factor, damping * step
    raise NotPositiveDefinite(f"not positive definite with damping {damping:g} to {damping * LADDER[-1]:g} of the mean diagonal")


def invert_(lower: Tensor) -> Tensor:
    """Invert a lower triangular matrix (I, I) in place: its halves by themselves, then one product with each. Solving for the
    identity takes half as much time again."""
    if len(lower) <= SMALL:
        return lower.copy_(torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype, device=lower.device), upper=False))
    half = len(lower) // 2
    first, last = invert_(lower[:half, :half]), invert_(lower[half:, half:])
    lower[half:, :half] = last @ (lower[half:, :half] @ first).neg_()
    return lower


def chooser(sizes: list[int], target: Target) -> Choose:
    """What picks the weights to remove: in each n:m group, or below one threshold for each matrix of the stack."""
    if target.group:
        n, m = target.group
        return lambda saliency: lowest_in_groups(saliency, n, m)
    return lambda saliency: torch.cat([lowest(part, round(target.removed * part.numel())) for part in saliency.split(sizes)])


def sweep(rows: Tensor, factor: Tensor, choose: Choose, width: int = BLOCK, group: int | None = None, compensate: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Prune rows (O, I), changed in place, from left to right. Returns them, the mask of kept weights (O, I) and each row's
    sum of saliencies (O,).

    choose gets the saliencies of `width` columns, or of `group` columns each time the sweep reaches a group.
    """
    columns = rows.shape[1]
    kept = torch.ones_like(rows, dtype=torch.bool)
    losses = rows.new_zeros(len(rows))
    strip = -(-STRIP // group) * group if group else STRIP
    for left in range(0, columns, width):
        right = min(left + width, columns)
        if not group:
            kept[:, left:right] = ~choose(saliency(rows, factor, left, right))
        errors = rows.new_zeros(len(rows), right - left)
        for a in range(left, right, strip):
            b = min(a + strip, right)
            for q in range(a, b):
                if group and q % group == 0:
                    kept[:, q : q + group] = ~choose(saliency(rows, factor, q, q + group))
                removed = rows[:, q].masked_fill(kept[:, q], 0)
                error = removed / factor[q, q]
                losses += error.square() / 2  # (1)
                if compensate:
                    rows[:, q + 1 : b].addr_(error, factor[q, q + 1 : b], alpha=-1)  # (2), inside the strip
                rows[:, q] -= removed
                errors[:, q - left] = error
            if compensate:
                rows[:, b:right].addmm_(errors[:, a - left : b - left], factor[a:b, b:right], alpha=-1)  # (2), inside the block
        if compensate:
            rows[:, right:].addmm_(errors, factor[left:right, right:], alpha=-1)  # (2), all that lies right of it
    return rows, kept, losses


def saliency(rows: Tensor, factor: Tensor, left: int, right: int) -> Tensor:
    """(1) for columns left to right, without its factor 1/2, which changes no order: (O, right - left)."""
    return (rows[:, left:right] / factor.diagonal()[left:right]).square()
