"""A weight as the product of two factors, for inputs that span few dimensions.

    minimise tr((U V - W) H (U V - W)^T)   over U V of rank R                                 (1)
    U = the R leading left singular vectors of W H^(1/2),   V = U^T W                         (2)

(2) is the truncated singular value decomposition of W H^(1/2) (Eckart and Young, 1936) without the
factor: its error is the sum of the squared singular values that are left out. So it is exact on
inputs that span at most R dimensions. It is the correction of low_rank.py with nothing beside it.

Where inputs span more dimensions than those that were seen, H should be damped: without that the
factors leave out what only unseen ones need.

    error of rank r on other inputs   tr(W H' W^T) - sum_(i <= r) v_i H' v_i^T                (3)

    2^k U, 2^-k V,  2^k ~ sqrt(O),   so that |2^-k V x| <= sqrt(2) rms_o (W x)_o              (4)

v_i are the rows of V, the leading first, and H' the mean over those inputs: U is orthonormal, so
one decomposition has the errors of all ranks. By (4) what is between the factors is no larger than
outputs are, for float16: |V x| alone is up to the norm of all of them. A power of two changes
neither the product nor the codes of few bits, whose scales are relative to the weights.

W (O, I), U (O, R), V (R, I), H (I, I) the mean of x x^T over the inputs x, O outputs, I inputs.
"""

import math

from torch import Tensor

from .low_rank import correction


def folded(weight: Tensor, hessian: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return (2).

    Args:
        weight: W (O, I), in float64.
        hessian: H (I, I), in float64.
        most: the rank R, 1 to min(O, I).

    Returns:
        U (O, R) with orthonormal columns, V (R, I), the leading first.

    Raises:
        NotPositiveDefinite: W or H has inf or NaN.
    """
    up, down, _ = correction(weight, hessian, most)
    return up.flip(1), down.flip(0)


def balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """Return (4), whose product is that of U and V in every bit.

    Args:
        up: U (O, R) with orthonormal columns.
        down: V (R, I).
    """
    size = 2.0 ** round(math.log2(len(up)) / 2)
    return up * size, down / size


def least_rank(weight: Tensor, down: Tensor, hessian: Tensor, allowed: float) -> int:
    """Return the smallest rank whose error (3) is allowed, or the largest.

    Args:
        weight: W (O, I), in float64.
        down: V (R, I), as `folded` returns it.
        hessian: H' (I, I), in float64.
        allowed: the error (3) that needs no further rank.
    """
    left = energies(weight, hessian).sum() - energies(down, hessian).cumsum(0)
    return min(len(down), 1 + int((left > allowed).sum()))


def energies(weight: Tensor, hessian: Tensor) -> Tensor:
    """Return the mean square of each output (O,) of W (O, I)."""
    return ((weight @ hessian) * weight).sum(1)
