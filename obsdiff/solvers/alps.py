"""Pruning as one problem over mask and weights, by the alternating direction method of multipliers (ADMM).

    minimise tr((W - W0) A (W - W0)^T)  subject to  W = D, D sparse,   A = H + d I

    W <- (W0 A + rho (D - U)) (A + rho I)^-1                       (1)
    D <- W + U with all but its k largest entries zero             (2)
    U <- U + W - D                                                 (3)

Inputs are scaled so that A has a unit diagonal: then the size of an entry says what removing it alone would cost, and one
rho serves every layer. rho grows step by step, so that W and D meet; k falls step by step from all entries to the
target's, so that early choices stay open. At the end the kept weights are re-solved (lstsq.py).

A column-by-column sweep (obs.py) decides once, from left to right. Here every weight is chosen in sight of all others.

W0 (O, I) weight, O outputs, I inputs, H (I, I), d the damping, U (O, I) the scaled multipliers.

References:
    Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models", 2024. https://arxiv.org/abs/2406.07831
    Boza, "Fast and Effective Weight Update for Pruned Large Language Models", 2024. https://arxiv.org/abs/2401.02938
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .cholesky import LADDER, cholesky_, finite
from .lstsq import conjugate_gradients, damped
from .masks import lowest, lowest_in_groups
from .problem import Inputs, Solution, Target, squared_error

PENALTIES = 8  # values of rho, each of which takes one inverse
EACH = 6  # iterations with each of them
RHO = (0.03, 1.0)  # the first and the last, in units of A's diagonal
RAMP = 24  # iterations after which k is the target's
Keep = Callable[
    [Tensor, float], Tensor
]  # entries (O, I), share of the target's zeros -> True where an entry stays


def alps(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices (O, I) that read the same input, each to the target by itself. Of the inputs the Hessian counts.

    Without compensation the kept weights stay as they were. Returns the weights' dtypes. Raises NotPositiveDefinite if H has entries
    that are not finite or no damping on the ladder makes it positive definite.
    """
    if not finite(inputs.hessian):
        raise NotPositiveDefinite("the Hessian has entries that are inf or NaN")
    if not target.removed and not target.group:
        return [
            Solution(w, torch.ones_like(w, dtype=torch.bool), 0.0, target.damping) for w in weights
        ]
    sizes = [len(w) for w in weights]
    for step in LADDER:
        used = target.damping * step
        square = damped(inputs.hessian, used)
        scale = square.diagonal().sqrt()
        square.div_(scale).div_(scale.unsqueeze(1))
        rows = torch.cat([w.to(square) for w in weights]) * scale
        rows[:, inputs.hessian.diagonal() == 0] = 0
        found = alternate(rows, square, sizes, keeper(sizes, target))
        if found:
            break
    else:
        raise NotPositiveDefinite(
            f"not positive definite with damping {target.damping:g} to {used:g} of the mean diagonal"
        )
    mask, sparse = found
    sparse = (
        conjugate_gradients(rows, mask, square, sparse) / scale
        if target.compensate
        else torch.cat([w.to(rows) for w in weights]) * mask
    )
    parts = zip(weights, sparse.split(sizes), mask.split(sizes), strict=True)
    return [solution(w, part, its, inputs.hessian, used) for w, part, its in parts]


def solution(
    weight: Tensor, pruned: Tensor, kept: Tensor, hessian: Tensor, damping: float
) -> Solution:
    return Solution(
        pruned.to(weight.dtype), kept, squared_error(weight, pruned, hessian) / 2, damping
    )


def keeper(sizes: list[int], target: Target) -> Keep:
    """What (2) keeps: in each n:m group its n largest, or of each matrix of the stack all but a share."""
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
    """Mask and sparse weights (O, I) after (1) to (3): of every matrix of the stack the best ones that a level ended with. None if a
    factorisation fails."""
    right, growth = rows @ square, (RHO[1] / RHO[0]) ** (1 / (PENALTIES - 1))
    sparse, multiplier, best = rows.clone(), torch.zeros_like(rows), Best(rows, square, sizes)
    for level in range(PENALTIES):
        rho = RHO[0] * growth**level
        inverse = inverted(square, rho)
        if inverse is None:
            return None
        for i in range(level * EACH, (level + 1) * EACH):
            multiplier.add_((sparse - multiplier).mul_(rho).add_(right) @ inverse)  # W + U by (1)
            mask = keep(multiplier, share(i))
            sparse = multiplier * mask  # (2)
            multiplier.sub_(sparse)  # (3)
        if share(i) == 1:
            best.see(mask, sparse)
        multiplier.div_(growth)  # U is in units of rho
        del inverse  # before the next one takes its place
    return best.mask, best.sparse


def share(iteration: int) -> float:
    """How much of the target's zeros there are in an iteration: quickly more at first, all of them from RAMP on."""
    return 1 - (1 - min(1.0, (iteration + 1) / RAMP)) ** 3


class Best:
    """Of every matrix of a stack the mask and sparse weights with the least error so far."""

    def __init__(self, rows: Tensor, square: Tensor, sizes: list[int]):
        self.rows, self.square, self.sizes = rows, square, sizes
        self.mask, self.sparse = torch.zeros_like(rows, dtype=torch.bool), torch.zeros_like(rows)
        self.errors = [float("inf")] * len(sizes)

    def see(self, mask: Tensor, sparse: Tensor) -> None:
        change = sparse - self.rows
        errors = [part.sum().item() for part in ((change @ self.square) * change).split(self.sizes)]
        for i, (new, old) in enumerate(zip(errors, self.errors, strict=True)):
            if new < old:
                self.errors[i] = new
                self.mask.split(self.sizes)[i].copy_(mask.split(self.sizes)[i])
                self.sparse.split(self.sizes)[i].copy_(sparse.split(self.sizes)[i])


def inverted(square: Tensor, rho: float) -> Tensor | None:
    """(A + rho I)^-1, or None."""
    lower = square.clone(memory_format=torch.contiguous_format)
    lower.diagonal().add_(rho)
    return torch.cholesky_inverse(lower) if cholesky_(lower) else None
