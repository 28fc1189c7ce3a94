"""Exact re-solve of the weights that a mask keeps.

    minimise tr((W' - W) A (W' - W)^T)  over W' that is zero outside the mask,  A = H + d I   (1)
    W'_S = ([A]_SS)^-1 (W A)_S  for a row with kept inputs S                                  (2)

A sweep repairs a column only by the columns after it. Here all kept weights repair all removed
ones, whichever method chose the mask.

Rows that share a mask share a factor of [A]_SS. If nearly every row has its own mask, all rows are
solved together by conjugate gradients, preconditioned by A's diagonal and masked. An iteration
costs one product with A and decreases every row's error. The stopping rule follows from the
decrease in the last iterations (Strakos and Tichy).

W (O, I) weight, W' (O, I) pruned weight, O outputs, I inputs, H (I, I) Hessian, d the damping.

References:
    Hestenes, Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", 1952.
    Strakos and Tichy, "On error estimation in the conjugate gradient method and why it works in
        finite precision computations", 2002.
    Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language
        Models", 2024. https://arxiv.org/abs/2406.07831
"""

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .cholesky import require_finite
from .problem import Solution, squared_error

SHARING = 8  # masks are solved one by one from this mean number of rows per mask on
MAX_ITERATIONS = 300  # conjugate gradient iterations
DELAY = 5  # iterations whose decrease estimates the error
ENOUGH = 1e-4  # a row has converged if DELAY iterations decrease its error by less than this share
RESIDUAL_ROUNDING = 1e-6  # norm of a residual that is rounding, relative to the right-hand side


def lstsq(
    weight: Tensor, kept: Tensor, hessian: Tensor, damping: float, start: Tensor | None = None
) -> Tensor:
    """Return the weights that minimise (1) under a mask.

    The result is exact if rows share masks, else it is that of `conjugate_gradients`.

    Args:
        weight: W (O, I).
        kept: mask (O, I), True where a weight is kept.
        hessian: H (I, I).
        damping: d, in units of H's mean diagonal; at least 0.
        start: first iterate (O, I) of the conjugate gradients; default W.

    Returns:
        W' (O, I), in the weight's dtype.

    Raises:
        NotPositiveDefinite: H has entries that are inf or NaN, or the block of a shared mask is not
            positive definite.
    """
    require_finite(hessian)
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
    """Return a solution with the same mask and the best weights under it.

    Args:
        weight: W (O, I).
        solution: a pruned weight, its mask and its damping.
        hessian: H (I, I).
        damping: least damping, in units of H's mean diagonal; the solution's is used if larger.

    Returns:
        The solution; its loss is half of the squared error.

    Raises:
        NotPositiveDefinite: as for `lstsq`.
    """
    damping = max(damping, solution.damping)
    found = lstsq(weight, solution.kept, hessian, damping, solution.weight)
    loss = squared_error(weight, found, hessian) / 2
    return Solution(found.to(solution.weight.dtype), solution.kept, loss, damping)


def damped(hessian: Tensor, damping: float) -> Tensor:
    """Return A = H + d I (I, I); inputs that are always zero count with H_ii = 1.

    Args:
        hessian: H (I, I).
        damping: d, in units of H's mean diagonal; at least 0.
    """
    square = hessian.clone()
    diagonal = hessian.diagonal().masked_fill(hessian.diagonal() == 0, 1)
    square.diagonal().copy_(diagonal + damping * diagonal.mean())
    return square


def distinct_masks(kept: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different rows (M, I) of a mask (O, I), and the index (O,) of each row in them."""
    if bool((kept == kept[:1]).all()):
        return kept[:1], kept.new_zeros(len(kept), dtype=torch.long)
    return torch.unique(kept, dim=0, return_inverse=True)


def by_factor(rows: Tensor, mask: Tensor, square: Tensor) -> Tensor:
    """Return (2) for rows (O, I) that share a mask (I,), from one Cholesky factor of A (I, I)."""
    found, right = torch.zeros_like(rows), (rows @ square[:, mask]).T
    lower, info = torch.linalg.cholesky_ex(square[mask][:, mask])
    if info.item():
        raise NotPositiveDefinite(
            f"the Hessian of {int(mask.sum())} kept inputs is not positive definite; "
            "raise the damping"
        )
    found[:, mask] = torch.cholesky_solve(right, lower).T
    return found


def conjugate_gradients(
    rows: Tensor,
    kept: Tensor,
    square: Tensor,
    start: Tensor,
    steps: int = MAX_ITERATIONS,
    enough: float = ENOUGH,
) -> Tensor:
    """Minimise (1) for every row under its own mask, by preconditioned conjugate gradients.

    The error still to be removed from a row is about the decrease in the last iterations. A row has
    converged if DELAY iterations together decrease its error by less than the share `enough`.

    Args:
        rows: W (O, I).
        kept: mask (O, I).
        square: A (I, I), symmetric positive definite.
        start: first iterate (O, I); entries outside the mask are ignored.
        steps: iterations at most.
        enough: share of a row's error, at which it stops.

    Returns:
        W' (O, I), zero outside the mask.
    """
    found, scale = start * kept, kept / square.diagonal()
    right = rows @ square
    gap = right - found @ square
    error = ((rows - found) * gap).sum(1, keepdim=True)
    residual = gap.mul_(kept)
    direction = residual * scale
    size = (residual * direction).sum(1, keepdim=True)
    rounding = RESIDUAL_ROUNDING**2 * right.square_().mul_(scale).sum(1, keepdim=True)
    del right
    active = size > rounding
    decreases: list[Tensor] = []
    for _ in range(steps):
        if not active.any():
            break
        image = (direction @ square).mul_(kept)
        length = torch.where(active, size / (direction * image).sum(1, keepdim=True), 0)
        found.addcmul_(length, direction)
        residual.addcmul_(length, image, value=-1)
        decreases = [*decreases[1 - DELAY :], length * size]
        error -= decreases[-1]
        new = (residual * residual * scale).sum(1, keepdim=True)
        direction.mul_(torch.where(active, new / size, 0)).addcmul_(residual, scale)
        size = torch.where(active, new, size)
        active &= size > rounding
        if len(decreases) == DELAY:
            active &= sum(decreases) > enough * error
    return found
