"""The upper Cholesky factor of the damped Hessian, in the upper triangle of its own memory.

    U U^T = A,  U upper triangular,  A = H + d I                                     (1)

H is symmetric, so its lower triangle and its diagonal are enough to restore it: no second matrix is
allocated. U is computed from the last column to the first, in panels of PANEL columns,

    U_kk U_kk^T = A_kk - U_kr U_kr^T,   U_ak = (A_ak - U_ar U_kr^T) U_kk^-T          (2)

k a panel, a the columns before it, r those after it; the panels in turn are computed in parts of
SMALL columns.

A float32 factor is used only if it is exact enough (probes.py): random signs z are multiplied by A
and solved for again, and the relative error of the result is at most MAX_ERROR,

    ||U^-T U^-1 (A z) - z|| / ||z||                                                  (3)

Otherwise H is factored in float64, in memory of its own, on the CPU for a device that has none. If
a factorisation fails, d is raised along the LADDER.

H (I, I) Hessian, d damping in units of H's mean diagonal, U (I, I), I inputs.

References:
    Higham, "Accuracy and Stability of Numerical Algorithms", 2002.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .cholesky import LADDER, ladder_failed, narrow_, require_finite
from .double_precision import where_double
from .probes import MAX_ERROR, random_signs, relative_error

PANEL = 512  # columns that are repaired by one product
SMALL = 128  # columns that are factored by LAPACK


@dataclass(frozen=True)
class UpperFactor:
    """A factor of the damped Hessian.

    Attributes:
        matrix: U in the upper triangle (I, I), the diagonal included; the rest is to be ignored.
        dead: mask (I,), True for inputs that are always zero, which count with H_ii = 1.
        damping: the damping used, in units of H's mean diagonal.
        added: d, what was added to H's diagonal.
    """

    matrix: Tensor
    dead: Tensor
    damping: float
    added: float


@contextlib.contextmanager
def upper_factor(
    hessian: Tensor, damping: float, dtype: torch.dtype = torch.float32
) -> Iterator[UpperFactor]:
    """Factor the damped Hessian, with as little damping of the LADDER as possible.

    Inside the block the upper triangle of H may hold U; it is restored at the end.

    Args:
        hessian: H (I, I), symmetric and contiguous.
        damping: first damping tried, in units of H's mean diagonal; at least 0.
        dtype: dtype of U.

    Raises:
        NotPositiveDefinite: H has entries that are inf or NaN, or the whole ladder fails.
    """
    require_finite(hessian)
    own = hessian.diagonal().clone()
    dead = own == 0
    diagonal = own.masked_fill(dead, 1)
    mean = diagonal.mean()
    try:
        for step in LADDER:
            added = damping * step * mean
            matrix = factored_(hessian, own, diagonal + added, dtype)
            if matrix is not None:
                yield UpperFactor(matrix, dead, damping * step, added.item())
                return
    finally:
        mirror_(hessian, own)
    raise ladder_failed(damping)


def factored_(hessian: Tensor, own: Tensor, diagonal: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return U for H with another diagonal (I,); None if it cannot be factored.

    Args:
        hessian: H (I, I); a factor of its own dtype is computed in its upper triangle.
        own: the diagonal (I,) of H.
        diagonal: the diagonal (I,) of A.
        dtype: dtype of U.
    """
    if hessian.dtype == dtype:
        hessian.diagonal().copy_(diagonal)
        probes = random_signs(hessian)
        images = hessian @ probes
        if factor_(hessian) and (
            dtype == torch.float64 or probe_error(hessian, probes, images) <= MAX_ERROR
        ):
            return hessian
        mirror_(hessian, own)
        if dtype == torch.float64:
            return None
    matrix = where_double(hessian).to(torch.float64, copy=True).contiguous()
    matrix.diagonal().copy_(diagonal)
    return narrow_(matrix, dtype).to(hessian.device) if factor_(matrix) else None


def factor_(matrix: Tensor) -> bool:
    """Overwrite the upper triangle of a symmetric matrix (I, I) with U, by (2).

    Returns:
        Whether the matrix is positive definite; if not, its upper triangle is undefined.
    """
    size, infos = len(matrix), []
    for left in reversed(range(0, size, PANEL)):
        right = min(left + PANEL, size)
        subtract_(matrix, left, right, size)
        for start in reversed(range(left, right, SMALL)):
            stop = min(start + SMALL, right)
            subtract_(matrix, start, stop, right)
            corner, info = factor_of(matrix[start:stop, start:stop])
            infos.append(info)
            upper_(matrix[start:stop, start:stop], corner)
            above = matrix[:start, start:stop]
            torch.mm(above.clone(), inverse(corner).T, out=above)
    return not bool(torch.stack(infos).any())


def subtract_(matrix: Tensor, left: int, right: int, end: int) -> None:
    """Subtract U_ar U_kr^T, k the columns left to right and r those to end, from columns k.

    The triangle below the diagonal is not changed.
    """
    if right == end:
        return
    across = matrix[left:right, right:end]
    matrix[:left, left:right].addmm_(matrix[:left, right:end], across.T, alpha=-1)
    matrix[left:right, left:right].sub_((across @ across.T).triu_())


def factor_of(corner: Tensor) -> tuple[Tensor, Tensor]:
    """Return U of a small matrix, read from its upper triangle, and LAPACK's info, 0 if it exists.

    In reverse order U is a lower triangular factor.
    """
    lower = corner.flip(0, 1).tril_()
    found, info = torch.linalg.cholesky_ex(lower + lower.tril(-1).T)
    return found.flip(0, 1), info


def inverse(upper: Tensor) -> Tensor:
    """Return the inverse of a small upper triangular matrix."""
    identity = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
    return torch.linalg.solve_triangular(upper, identity, upper=True)


def upper_(matrix: Tensor, upper: Tensor) -> None:
    """Overwrite the upper triangle of a small matrix, and leave the rest."""
    matrix.copy_(matrix.tril(-1).add_(upper))


def probe_error(upper: Tensor, probes: Tensor, images: Tensor) -> float:
    """Return (3) from U, read from the upper triangle of a matrix (I, I), z and A z (I, PROBES)."""
    half = torch.linalg.solve_triangular(upper, images, upper=True)
    found = torch.linalg.solve_triangular(upper.T, half, upper=False)
    return relative_error(found, probes)


def mirror_(hessian: Tensor, diagonal: Tensor) -> None:
    """Restore a symmetric matrix (I, I) from its lower triangle and its diagonal (I,)."""
    for top in range(0, len(hessian), SMALL):
        bottom = top + SMALL
        corner = hessian[top:bottom, top:bottom]
        upper_(corner, corner.tril(-1).T)
        below = hessian[bottom:, top:bottom].contiguous()
        hessian[top:bottom, bottom:] = below.T.contiguous()  # fast only without gaps
    hessian.diagonal().copy_(diagonal)
