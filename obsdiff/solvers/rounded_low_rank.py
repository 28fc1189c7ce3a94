"""Rounded plus low rank: a weight of few bits and a correction of few dimensions, found in turn.

    minimise tr(D A D^T),  D = Q + U V - W,  Q on grids under a mask, U V of rank R             (1)
    given U V:  Q = the rounded S,  S the weight that Q would be without rounding               (2)
    given Q:    U V = the best correction of W - Q                                              (3)

The correction takes the largest part of the weight first, so the rest has a smaller range and finer
grids. A turn that moves the correction by C moves S by -C where the mask keeps weights. The turns
begin with the correction that pruning found, or, where nothing is removed, with the best one of W
itself, and the best turn is the result: it is never worse than rounding once.

W, Q, S, C (O, I), U (O, R), V (R, I), H (I, I), A = H + d I, d the damping, O outputs, I inputs.

References:
    Li et al., "SVDQuant: Absorbing Outliers by Low-Rank Components for 4-Bit Diffusion Models",
        2024. https://arxiv.org/abs/2411.05007
    Yao, Wu, Li, Youn, He, "ZeroQuant-V2: Exploring Post-training Quantization in LLMs from
        Comprehensive Study to Low Rank Compensation", 2023. https://arxiv.org/abs/2303.08302
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .low_rank import correction
from .lstsq import damped
from .problem import squared_error
from .rounding import Grid

TURNS = 4  # times that the rounded weight and the correction are found in turn

Round = Callable[[Tensor, Tensor], tuple[Tensor, Grid]]  # S (O, I) and its aim W - U V -> Q


@dataclass(frozen=True)
class Rounded:
    """A rounded weight Q (O, I), its grids, and the correction U (O, R), V (R, I)."""

    weight: Tensor
    grid: Grid
    low_rank: tuple[Tensor, Tensor]


def rounded_low_rank(
    weight: Tensor,
    rest: Tensor,
    kept: Tensor,
    low_rank: tuple[Tensor, Tensor],
    hessian: Tensor,
    damping: float,
    rounded: Round,
    turns: int = TURNS,
) -> Rounded:
    """Return a rounded weight and its correction: the turn with the least error by H.

    Args:
        weight: W (O, I).
        rest: S (O, I), zero outside the mask.
        kept: the mask (O, I), True where a weight may differ from zero.
        low_rank: U (O, R), V (R, I) beside S.
        hessian: H (I, I).
        damping: d, in units of H's mean diagonal.
        rounded: rounds a weight.
        turns: times that (2) and (3) alternate, at least 1.

    Raises:
        NotPositiveDefinite: H cannot be factored.
    """
    square = damped(hessian, damping)
    whole, free = weight.to(square), rest.to(square)
    product = (low_rank[0] @ low_rank[1]).to(square)
    mask, basis = kept.to(square.device), None
    least, found = float("inf"), None
    for _ in range(turns):
        values, grid = rounded(free.to(rest.dtype), (whole - product).to(rest.dtype))
        up, down, basis = correction(
            whole - values.to(square), square, len(low_rank[1]), start=basis
        )
        error = squared_error(whole, values.to(square) + up @ down, hessian)
        if found is None or error < least:
            least, found = error, Rounded(values, grid, (up, down))
        free = free + (product - up @ down) * mask
        product = up @ down
    assert found is not None
    return found
