"""A weight as the product of two factors, for inputs that span few dimensions.

    minimise tr((U V - W) H (U V - W)^T)   over U V of rank R                                 (1)
    U = the R leading left singular vectors of W H^(1/2),   V = U^T W                         (2)

(2) is the truncated singular value decomposition of W H^(1/2) (Eckart and Young, 1936) without the
factor: its error is the sum of the squared singular values that are left out. So it is exact on
inputs that span at most R dimensions. It is the correction of low_rank.py with nothing beside it.

W (O, I), U (O, R), V (R, I), H (I, I) the mean of x x^T over the inputs x, O outputs, I inputs.
"""

from torch import Tensor

from .low_rank import correction


def folded(weight: Tensor, hessian: Tensor, most: int, allowed: float) -> tuple[Tensor, Tensor]:
    """Return (2) with the smallest rank whose error (1) is allowed, or with the largest rank.

    Args:
        weight: W (O, I), in float64.
        hessian: H (I, I), in float64.
        most: the largest rank, 1 to min(O, I).
        allowed: the error (1) that needs no further rank.

    Returns:
        U (O, R) with orthonormal columns, V (R, I).
    """
    up, down, _ = correction(weight, hessian, most)
    kept = energies(down, hessian).flip(0)  # the largest first
    left = energies(weight, hessian).sum() - kept.cumsum(0)
    rank = min(most, 1 + int((left > allowed).sum()))
    return up[:, -rank:], down[-rank:]


def energies(weight: Tensor, hessian: Tensor) -> Tensor:
    """Return the mean square of each output (O,) of W (O, I)."""
    return ((weight @ hessian) * weight).sum(1)
