"""ALPS: mask and weights as one problem, by the alternating direction method of multipliers (ADMM).

    minimise tr((W - W0) A (W - W0)^T)  subject to  W = D, D sparse,   A = H + d I

    W <- (W0 A + rho (D - U)) (A + rho I)^-1                       (1)
    D <- W + U with all but its k largest entries zero             (2)
    U <- U + W - D                                                 (3)

Inputs are scaled so that A has a unit diagonal. Then the size of an entry measures the cost of
removing it alone, and one rho serves every layer. rho grows step by step, so that W and D converge
to each other; k falls step by step from all entries to the target's, so that early choices remain
reversible. At the end the kept weights are re-solved (lstsq.py).

A column-by-column sweep (obs.py) decides once, from left to right. Here the choice of every weight
depends on all others.

W0 (O, I) weight, W, D (O, I) dense and sparse copies, O outputs, I inputs, H (I, I) Hessian, d the
damping, U (O, I) the scaled multipliers.

References:
    Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language
        Models", 2024. https://arxiv.org/abs/2406.07831
    Boza, "Fast and Effective Weight Update for Pruned Large Language Models", 2024.
        https://arxiv.org/abs/2401.02938
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .cholesky import LADDER, cholesky_, ladder_failed, require_finite
from .lstsq import conjugate_gradients, damped
from .masks import lowest, lowest_in_groups
from .problem import Inputs, Solution, Target, squared_error

PENALTIES = 8  # values of rho; each needs one inverse
ITERATIONS = 6  # ADMM iterations with each rho
RHO = (0.03, 1.0)  # first and last rho, in units of A's diagonal
RAMP = 24  # iterations until k is the target's
RESOLVED = 1e-3  # `enough` of the re-solve, which starts near its end: half the time of 1e-4
# entries (O, I), share of the target's zeros -> True where an entry is kept
Keep = Callable[[Tensor, float], Tensor]


def alps(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices that read the same input by ALPS.

    Without compensation, the mask is the same and the kept weights are the original ones.

    Args:
        weights: matrices (O, I), each pruned to the target by itself.
        inputs: statistics of the I inputs; only the Hessian (I, I) is read.
        target: share to remove, or an n:m group; damping; whether to compensate.

    Returns:
        One solution a matrix, in the same order, in the weights' dtypes.

    Raises:
        NotPositiveDefinite: H has entries that are inf or NaN, or the damping ladder fails.
    """
    require_finite(inputs.hessian)
    if not target.removed and not target.group:
        return [
            Solution(w, torch.ones_like(w, dtype=torch.bool), 0.0, target.damping) for w in weights
        ]
    for step in LADDER:
        found = solved(weights, inputs.hessian, target, target.damping * step)
        if found is not None:
            return found
    raise ladder_failed(target.damping)


def solved(
    weights: list[Tensor], hessian: Tensor, target: Target, damping: float
) -> list[Solution] | None:
    """Return the solutions of matrices (O, I) with one damping, None if a factorisation fails."""
    sizes, square = [len(w) for w in weights], damped(hessian, damping)
    scale = square.diagonal().sqrt()
    square.div_(scale).div_(scale.unsqueeze(1))
    rows = torch.cat([w.to(square) for w in weights]) * scale
    rows[:, hessian.diagonal() == 0] = 0
    found = alternate(rows, square, sizes, keep_rule(sizes, target))
    if found is None:
        return None
    mask, sparse = found
    sparse = (
        conjugate_gradients(rows, mask, square, sparse, enough=RESOLVED) / scale
        if target.compensate
        else torch.cat([w.to(rows) for w in weights]) * mask
    )
    parts = zip(weights, sparse.split(sizes), mask.split(sizes), strict=True)
    return [solution(w, pruned, kept, hessian, damping) for w, pruned, kept in parts]


def solution(
    weight: Tensor, pruned: Tensor, kept: Tensor, hessian: Tensor, damping: float
) -> Solution:
    """Return the solution of one matrix (O, I); its loss is half of the squared error."""
    loss = squared_error(weight, pruned, hessian) / 2
    return Solution(pruned.to(weight.dtype), kept, loss, damping)


def keep_rule(sizes: list[int], target: Target) -> Keep:
    """Return the choice of (2): n entries of each n:m group, or all but a share of each matrix."""
    if target.group:
        n, m = target.group
        return lambda entries, _: ~lowest_in_groups(entries.abs(), n, m)
    return lambda entries, share: torch.cat(
        [
            ~lowest(part.abs(), round(share * target.removed * part.numel()))
            for part in entries.split(sizes)
        ]
    )


def alternate(
    rows: Tensor, square: Tensor, sizes: list[int], keep: Keep
) -> tuple[Tensor, Tensor] | None:
    """Iterate (1) to (3) and return the best mask and sparse weights found.

    Candidates are the iterates after the last iteration with each rho, once k is the target's.

    Args:
        rows: W0 (O, I) of a stack of matrices, scaled.
        square: A (I, I) with a unit diagonal.
        sizes: rows of each matrix of the stack; the best candidate is chosen for each by itself.
        keep: the choice of (2).

    Returns:
        Mask (O, I) and sparse weights (O, I), or None if a factorisation fails.
    """
    right, growth = rows @ square, (RHO[1] / RHO[0]) ** (1 / (PENALTIES - 1))
    sparse, multiplier, best = rows.clone(), torch.zeros_like(rows), Best(rows, square, sizes)
    for level in range(PENALTIES):
        rho = RHO[0] * growth**level
        inverse = inverted(square, rho)
        if inverse is None:
            return None
        for i in range(level * ITERATIONS, (level + 1) * ITERATIONS):
            multiplier.add_((sparse - multiplier).mul_(rho).add_(right) @ inverse)  # W + U by (1)
            mask = keep(multiplier, share_of_zeros(i))
            sparse = multiplier * mask  # (2)
            multiplier.sub_(sparse)  # (3)
        if share_of_zeros(i) == 1:
            best.update(mask, sparse)
        multiplier.div_(growth)  # U is in units of rho
        del inverse  # frees its memory before the next one is computed
    return best.mask, best.sparse


def share_of_zeros(iteration: int) -> float:
    """Return the share of the target's zeros in an iteration: fast at first, 1 from RAMP on."""
    return 1 - (1 - min(1.0, (iteration + 1) / RAMP)) ** 3


class Best:
    """Mask and sparse weights with the least error so far, for every matrix of a stack.

    Attributes:
        mask: mask (O, I) of the stack.
        sparse: sparse weights (O, I) of the stack.
        errors: squared error of each matrix.
    """

    def __init__(self, rows: Tensor, square: Tensor, sizes: list[int]) -> None:
        """Start without a candidate, for W0 (O, I), A (I, I) and the rows of each matrix."""
        self.rows, self.square, self.sizes = rows, square, sizes
        self.mask, self.sparse = torch.zeros_like(rows, dtype=torch.bool), torch.zeros_like(rows)
        self.errors = [float("inf")] * len(sizes)

    def update(self, mask: Tensor, sparse: Tensor) -> None:
        """Store a candidate, mask and sparse weights (O, I), for the matrices that it improves."""
        change = sparse - self.rows
        errors = [part.sum().item() for part in ((change @ self.square) * change).split(self.sizes)]
        for i, (new, old) in enumerate(zip(errors, self.errors, strict=True)):
            if new < old:
                self.errors[i] = new
                self.mask.split(self.sizes)[i].copy_(mask.split(self.sizes)[i])
                self.sparse.split(self.sizes)[i].copy_(sparse.split(self.sizes)[i])


def inverted(square: Tensor, rho: float) -> Tensor | None:
    """Return (A + rho I)^-1 (I, I), or None if the factorisation fails."""
    lower = square.clone(memory_format=torch.contiguous_format)
    lower.diagonal().add_(rho)
    return torch.cholesky_inverse(lower) if cholesky_(lower) else None
