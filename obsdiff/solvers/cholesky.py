"""The upper Cholesky factor of the inverse Hessian, with a ladder of dampings.

    R^T R = A^-1,  R upper triangular,  A = H + d I                                  (1)
    J A J = L L^T,  so A = U U^T with U = J L J upper triangular,  so R = U^-1       (2)

J reverses the order of the inputs. By (2) one Cholesky factorisation and one triangular inverse
suffice, both in place in one matrix. The inverse is computed by halves:

    [L1 0; B L2]^-1 = [L1^-1 0; -L2^-1 B L1^-1  L2^-1]                               (3)

H (I, I) Hessian, d damping in units of H's mean diagonal, R, L (I, I), I inputs.

If a factorisation fails, d is raised along the LADDER. A float32 factor is used only if R^T R
solves for random signs to MAX_ERROR (probes.py). Otherwise H is factored in float64, on the CPU for
a device that has none.

References:
    Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
        2023. https://arxiv.org/abs/2301.00774
    Higham, "Accuracy and Stability of Numerical Algorithms", 2002.
"""

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .double_precision import has
from .probes import MAX_ERROR, random_signs, relative_error

SMALL = 128  # triangular matrices up to this size are inverted by solving for the identity
PANEL = 512  # rows and columns of a triangular product that are computed together
MOVED = SMALL * SMALL  # entries that a CPU moves together: they fit into its cache
MOVED_BY_DEVICE = 2**22  # entries that an accelerator moves together: a launch costs more
LADDER = (1, 10, 100, 1000)  # factors of the damping, tried in turn until H can be factored


def is_finite(matrix: Tensor) -> bool:
    """Return whether every entry is finite; mostly one pass, since a sum keeps inf and NaN."""
    return bool(matrix.sum().isfinite()) or bool(matrix.isfinite().all())


def require_finite(hessian: Tensor) -> None:
    """Raise NotPositiveDefinite if the Hessian (I, I) has entries that are inf or NaN."""
    if not is_finite(hessian):
        raise NotPositiveDefinite(
            "expected a finite Hessian, found entries that are inf or NaN; use another dtype"
        )


def ladder_failed(damping: float) -> NotPositiveDefinite:
    """Return the error for a Hessian that no step of the LADDER makes positive definite."""
    return NotPositiveDefinite(
        f"the Hessian is not positive definite with damping {damping:g} to "
        f"{damping * LADDER[-1]:g} of its mean diagonal; raise the damping"
    )


def inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor, float]:
    """Factor the inverse of the damped Hessian, with as little damping of the LADDER as possible.

    Args:
        hessian: H (I, I); not changed.
        damping: first damping tried, in units of H's mean diagonal; at least 0.

    Returns:
        R (I, I) of (1) in H's dtype; a mask (I,), True for inputs that are always zero, which count
        with H_ii = 1; the damping used.

    Raises:
        NotPositiveDefinite: H has entries that are inf or NaN, or the whole ladder fails.
    """
    require_finite(hessian)
    dead = hessian.diagonal() == 0
    diagonal = hessian.diagonal().masked_fill(dead, 1)
    for step in LADDER:
        damped = diagonal + damping * step * diagonal.mean()
        for dtype in dict.fromkeys((hessian.dtype, torch.float64)):
            factor = factor_of_inverse(hessian, damped, dtype)
            if factor is None:
                continue
            if dtype == torch.float64 or probe_error(hessian, damped, factor) <= MAX_ERROR:
                factor = narrow_(factor, hessian.dtype).to(hessian.device)
                return factor, dead, damping * step
            del factor  # its memory is that of half of the next one
    raise ladder_failed(damping)


def factor_of_inverse(hessian: Tensor, diagonal: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return R (I, I) for H with another diagonal (I,), by (2); None if the factorisation fails.

    It is on H's device, or on the CPU if that device has not this dtype.
    """
    device = hessian.device if has(hessian.device, dtype) else torch.device("cpu")
    matrix = hessian.to(device).to(dtype, copy=True).contiguous()
    matrix.diagonal().copy_(diagonal)
    reverse_(matrix)
    if not cholesky_(matrix):
        return None
    factor = reverse_(invert_(matrix))
    return factor if is_finite(factor) else None


def probe_error(hessian: Tensor, diagonal: Tensor, factor: Tensor) -> float:
    """Return (1) of probes.py for R (I, I), by H (I, I) with another diagonal (I,)."""
    probes = random_signs(hessian)
    change = (diagonal - hessian.diagonal()).unsqueeze(1)
    images = hessian @ probes + change * probes
    return relative_error(factor.T @ (factor @ images), probes)


def narrow_(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a contiguous matrix to a shorter dtype within its own memory.

    Each part is written over itself or over an earlier part. If the dtype is not shorter, the
    result is a plain conversion.

    Args:
        matrix: contiguous matrix (I, I); its content is lost if the dtype is shorter.
        dtype: dtype of the result.

    Returns:
        The converted matrix (I, I).
    """
    if dtype.itemsize >= matrix.dtype.itemsize:
        return matrix.to(dtype)
    wide, step = matrix.view(-1), moved_together(matrix)
    narrow = wide.view(dtype)
    for i in range(0, len(wide), step):
        part = wide[i : i + step].to(dtype)
        narrow[i : i + len(part)] = part
    return narrow[: len(wide)].view_as(matrix)


def moved_together(matrix: Tensor) -> int:
    """Return the number of entries that are moved in one operation."""
    return MOVED if matrix.device.type == "cpu" else MOVED_BY_DEVICE


def reverse_(matrix: Tensor) -> Tensor:
    """Compute J M J of a contiguous matrix (I, I) in place: all its entries in reverse order."""
    flat = matrix.view(-1)
    half, step = len(flat) // 2, moved_together(matrix)
    for start in range(0, half, step):
        stop = min(start + step, half)
        first, last = flat[start:stop], flat[len(flat) - stop : len(flat) - start]
        swapped = first.flip(0)
        first.copy_(last.flip(0))
        last.copy_(swapped)
    return matrix


def cholesky_(matrix: Tensor) -> bool:
    """Overwrite a symmetric contiguous matrix (I, I) with its lower Cholesky factor.

    LAPACK works on columns, hence the transposes.

    Args:
        matrix: symmetric contiguous matrix (I, I); undefined if the factorisation fails.

    Returns:
        Whether the matrix is positive definite.
    """
    info = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(matrix.mT, upper=True, out=(matrix.mT, info))
    return info.item() == 0


def invert_(lower: Tensor) -> Tensor:
    """Invert a lower triangular matrix (I, I) in place by (3).

    The products are computed in panels that skip the zeros of both factors. Solving for the
    identity would need half as much time again.
    """
    if len(lower) <= SMALL:
        identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
        return lower.copy_(torch.linalg.solve_triangular(lower, identity, upper=False))
    half = len(lower) // 2
    first, last = invert_(lower[:half, :half]), invert_(lower[half:, half:])
    below = lower[half:, :half]
    for left in range(0, half, PANEL):
        part = (below[:, left:] @ first[left:, left : left + PANEL]).neg_()
        for top in range(0, len(last), PANEL):
            rows, columns = slice(top, top + PANEL), slice(left, left + PANEL)
            bottom = top + PANEL
            torch.mm(last[rows, :bottom], part[:bottom], out=below[rows, columns])
    return lower
