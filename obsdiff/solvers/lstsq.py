"""Exact re-solve of the weights that a mask keeps.

    minimise tr((W' - W) A (W' - W)^T)  over W' that is zero where the mask is,  A = H + d I

A row with kept columns S has the solution W'_S = ([A]_SS)^-1 (W A)_S. A sweep repairs a column only by those that come
after it; here all that is kept repairs all that is gone, whichever method chose the mask.

Rows that share a mask share a factor of [A]_SS. Where nearly every row has its own, all rows go together by conjugate
gradients, preconditioned by A's diagonal and masked: a step costs one product with A, and every step makes every row's
error smaller. When to stop follows from what the last steps took off (Strakos and Tichy).

W (O, I) weight, O outputs, I inputs, H (I, I), d the damping.

References:
    Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952.
    Strakos and Tichy, "On error estimation in the conjugate gradient method and why it works in finite precision computations", 2002.
    Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models", 2024. https://arxiv.org/abs/2406.07831
"""

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .cholesky import finite
from .problem import Solution, squared_error

SHARING = 8  # at least so many rows to a mask, and masks are solved one by one
MAX_ITERATIONS = 300  # of conjugate gradients at most
DELAY, ENOUGH = (
    5,
    1e-4,
)  # steps that together take less than this share of a row's error are its last
ROUNDING = 1e-6  # a residual of this size, in units of the right side, is rounding


def lstsq(
    weight: Tensor, kept: Tensor, hessian: Tensor, damping: float, start: Tensor | None = None
) -> Tensor:
    """The best weights (O, I) under a mask kept (O, I), in the weight's dtype: exact for masks that rows share, else nearly so (`conjugate_gradients`). `start` (O, I): from where conjugate gradients set out
    (default: from the weight as it is).

    Raises NotPositiveDefinite if H has entries that are not finite, or the block of a shared mask is not positive definite.
    """
    if not finite(hessian):
        raise NotPositiveDefinite("the Hessian has entries that are inf or NaN")
    square = damped(hessian, damping)
    rows = weight.to(square)
    masks, which = distinct_masks(kept)
    if len(masks) * SHARING > len(kept):
        found = conjugate_gradients(rows, kept, square, rows if start is None else start.to(square))
    else:
        found = torch.zeros_like(rows)
        for i, mask in enumerate(masks):
            found[which == i] = by_factor(rows[which == i], mask, square)
    return found.to(weight.dtype)


def refined(weight: Tensor, solution: Solution, hessian: Tensor, damping: float) -> Solution:
    """A solution with its mask, and the best weights under it; its loss is half of the squared error."""
    damping = max(damping, solution.damping)
    found = lstsq(weight, solution.kept, hessian, damping, solution.weight)
    return Solution(
        found.to(solution.weight.dtype),
        solution.kept,
        squared_error(weight, found, hessian) / 2,
        damping,
    )


def damped(hessian: Tensor, damping: float) -> Tensor:
    """H + d I, d in units of the mean diagonal; inputs that are always zero count as if they had H_ii = 1."""
    square = hessian.clone()
    diagonal = hessian.diagonal().masked_fill(hessian.diagonal() == 0, 1)
    square.diagonal().copy_(diagonal + damping * diagonal.mean())
    return square


def distinct_masks(kept: Tensor) -> tuple[Tensor, Tensor]:
    """The different rows (M, I) of a mask (O, I), and which of them each row is (O,)."""
    if bool((kept == kept[:1]).all()):
        return kept[:1], kept.new_zeros(len(kept), dtype=torch.long)
    return torch.unique(kept, dim=0, return_inverse=True)


def by_factor(rows: Tensor, mask: Tensor, square: Tensor) -> Tensor:
    """The solution (O, I) of rows that share a mask (I,), by one Cholesky factor."""
    found, right = torch.zeros_like(rows), (rows @ square[:, mask]).T
    lower, info = torch.linalg.cholesky_ex(square[mask][:, mask])
    if info.item():
        raise NotPositiveDefinite(
            f"the Hessian of {int(mask.sum())} kept inputs is not positive definite; raise the damping"
        )
    found[:, mask] = torch.cholesky_solve(right, lower).T
    return found


def conjugate_gradients(
    rows: Tensor, kept: Tensor, square: Tensor, start: Tensor, steps: int = MAX_ITERATIONS
) -> Tensor:
    """The solution (O, I) of every row under its own mask, or what so many steps from `start` come to.

    How far a row is from its least error is what steps still to come will take off, and that is about what the last ones did: a row is
    done when the last DELAY steps together took less than ENOUGH of its error.
    """
    found, scale = start * kept, kept / square.diagonal()
    right = rows @ square
    gap = right - found @ square
    error = ((rows - found) * gap).sum(1, keepdim=True)
    residual = gap.mul_(kept)
    direction = residual * scale
    size = (residual * direction).sum(1, keepdim=True)
    nothing = ROUNDING**2 * right.square_().mul_(scale).sum(1, keepdim=True)
    del right
    going, taken = size > nothing, []
    for _ in range(steps):
        if not going.any():
            break
        image = (direction @ square).mul_(kept)
        length = torch.where(going, size / (direction * image).sum(1, keepdim=True), 0)
        found.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1)
        taken = [*taken[1 - DELAY :], length * size]
        error -= taken[-1]
        new = (residual * residual * scale).sum(1, keepdim=True)
        direction.mul_(torch.where(going, new / size, 0)).addcmul_(residual, scale)
        size = torch.where(going, new, size)
        going &= size > nothing
        if len(taken) == DELAY:
            going &= sum(taken) > ENOUGH * error
    return found
