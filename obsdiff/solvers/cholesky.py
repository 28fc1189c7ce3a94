"""The upper Cholesky factor of the inverse Hessian, with a ladder of dampings."""

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite

MAX_FLOAT32_ERROR = 1e7  # columns times condition from which on float32 is too coarse to factor a Hessian in: it would move 0.1 % of the mask
LARGEST_DIAGONAL = 2048  # with more columns than this it always is, and is not tried
SMALL = 128  # triangular matrices up to this size are inverted by solving for the identity
PANEL = 512  # rows and columns of a triangular product that are computed together
LADDER = (
    1,
    10,
    100,
    1000,
)  # a Cholesky factorisation that fails is tried again with this much more damping


def finite(matrix: Tensor) -> bool:
    """Whether every entry is; mostly one pass, since inf and NaN never vanish from a sum."""
    return bool(matrix.sum().isfinite()) or bool(matrix.isfinite().all())


def inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor, float]:
    """R (I, I), upper triangular with R^T R = (H + d I)^-1, in H's dtype, a mask (I,) of the inputs that are always zero, which count
    as if they had H_ii = 1, and the damping d that it took, in units of H's mean diagonal.

    A factorisation that fails is repeated with more damping, up the LADDER; one in float32 that is too coarse in float64.
    """
    if not finite(hessian):
        raise NotPositiveDefinite("the Hessian has entries that are inf or NaN")
    dead = hessian.diagonal() == 0
    diagonal = hessian.diagonal().masked_fill(dead, 1)
    for step in LADDER:
        for dtype in dict.fromkeys(
            (hessian.dtype, torch.float64)[len(hessian) > LARGEST_DIAGONAL :]
        ):
            factor = factor_of_inverse(hessian, diagonal + damping * step * diagonal.mean(), dtype)
            if factor is not None and (
                dtype == torch.float64
                or len(hessian) * condition(hessian, factor) < MAX_FLOAT32_ERROR
            ):
                return narrow_(factor, hessian.dtype), dead, damping * step
    raise NotPositiveDefinite(
        f"not positive definite with damping {damping:g} to {damping * LADDER[-1]:g} of the mean diagonal"
    )


def factor_of_inverse(hessian: Tensor, diagonal: Tensor, dtype: torch.dtype) -> Tensor | None:
    """R (I, I) for H with that diagonal (I,), or None if it can't be factored. One Cholesky and one triangular inverse, in one
    matrix: with J the reversal, J H J = L L^T gives H = U U^T with U = J L J upper, so R = U^-1."""
    matrix = hessian.to(dtype, copy=True).contiguous()
    matrix.diagonal().copy_(diagonal)
    reverse_(matrix)
    if not cholesky_(matrix):
        return None
    factor = reverse_(invert_(matrix))
    return factor if finite(factor) else None


def condition(hessian: Tensor, factor: Tensor) -> float:
    """About the condition of H, from the R of its inverse: its Frobenius norm times the mean eigenvalue of the inverse."""
    return (
        torch.linalg.matrix_norm(hessian) * torch.linalg.matrix_norm(factor).square() / len(hessian)
    ).item()


def narrow_(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous matrix in another number format, if that is shorter in the memory it has: each part moves to where it or an
    earlier one was."""
    if dtype.itemsize >= matrix.dtype.itemsize:
        return matrix.to(dtype)
    wide, step = matrix.view(-1), SMALL * SMALL
    narrow = wide.view(dtype)
    for i in range(0, len(wide), step):
        part = wide[i : i + step].to(dtype)
        narrow[i : i + len(part)] = part
    return narrow[: len(wide)].view_as(matrix)


def reverse_(matrix: Tensor) -> Tensor:
    """J M J of a contiguous matrix (I, I), in place: the order of all its entries turned round."""
    flat = matrix.view(-1)
    half, step = len(flat) // 2, SMALL * SMALL
    for i in range(0, half, step):
        first, last = (
            flat[i : min(i + step, half)],
            flat[len(flat) - min(i + step, half) : len(flat) - i],
        )
        swapped = first.flip(0)
        first.copy_(last.flip(0))
        last.copy_(swapped)
    return matrix


def cholesky_(matrix: Tensor) -> bool:
    """The lower factor in place of a symmetric contiguous matrix (I, I); whether there is one. LAPACK works on columns, hence the .mT."""
    info = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(matrix.mT, upper=True, out=(matrix.mT, info))
    return info.item() == 0


def invert_(lower: Tensor) -> Tensor:
    """Invert a lower triangular matrix (I, I) in place: its halves by themselves, then what is below them, - last below first, in
    panels that leave out the zeros of both. Solving for the identity takes half as much time again."""
    if len(lower) <= SMALL:
        return lower.copy_(
            torch.linalg.solve_triangular(
                lower, torch.eye(len(lower), dtype=lower.dtype, device=lower.device), upper=False
            )
        )
    half = len(lower) // 2
    first, last = invert_(lower[:half, :half]), invert_(lower[half:, half:])
    below = lower[half:, :half]
    for left in range(0, half, PANEL):
        part = (below[:, left:] @ first[left:, left : left + PANEL]).neg_()
        for top in range(0, len(last), PANEL):
            bottom = top + PANEL
            torch.mm(
                last[top:bottom, :bottom], part[:bottom], out=below[top:bottom, left : left + PANEL]
            )
    return lower
