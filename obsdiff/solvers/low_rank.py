"""Sparse plus low rank: a pruned weight and a correction of few dimensions, found in turn.

    minimise tr(D A D^T),  D = S + U V - W,  over S under a mask, U V of rank R,  A = H + d I   (1)
    given S:    U = the R leading eigenvectors of E A E^T,  V = U^T E,  E = W - S               (2)
    given U V:  S = the pruned W - U V, by any solver; under a fixed mask a few steps of its
                re-solve                                                                    (3)

(2) is exact: with A = C C^T the best U V C is the truncated singular value decomposition of E C,
which is U U^T E C, so no factor of A is needed. U comes from block power iterations, begun in the
turn before where it stopped. What pruning leaves has a flat spectrum, so a few iterations reach
nearly the energy of exact eigenvectors (Halko et al., theorem 10.6 and section 9.3).

The turns begin with the plain pruned weight, and the best turn is the result: it is never worse
than the pruned weight and its own best correction.

W, S, E (O, I), U (O, R), V (R, I), H, A (I, I), d the damping, O outputs, I inputs.

References:
    Zhang, Papyan, "OATS: Outlier-Aware Pruning Through Sparse and Low Rank Decomposition", 2024.
        https://arxiv.org/abs/2409.13652
    Makni, Meng, Mazumder, "3BASiL: An Algorithmic Framework for Sparse plus Low-Rank Compression
        of LLMs", 2025. https://arxiv.org/abs/2603.01376
    Halko, Martinsson, Tropp, "Finding Structure with Randomness", 2011.
        https://arxiv.org/abs/0909.4061
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .cholesky import is_finite
from .lstsq import conjugate_gradients, damped
from .problem import Solution, squared_error

TURNS = 16  # times that the pruned weight and the correction are found in turn
SLOW_TURNS = 4  # the same with a method that searches a mask for long
POLISH = 4  # turns after them in which the mask stays
STEPS = 4  # steps of conjugate gradients in each of those
ITERATIONS = 4  # block power iterations of the first correction
CONTINUED = 1  # those of one that begins where another ended
OVERSAMPLE = 8  # dimensions that the iterations carry beside the R that are kept

Solve = Callable[[Tensor], Solution]


def rank_of(shape: tuple[int, ...], amount: float) -> int:
    """Return the rank R of a correction with a share of a layer's weights: R (O + I) of O I.

    Args:
        shape: (O, I).
        amount: the share, above 0 and at most 1; from 2 up the rank itself, a whole number.

    Returns:
        At least 1, at most the largest with no more weights than the layer.
    """
    outputs, inputs = shape
    share = min(amount, 1)
    most = max(1, int(share * outputs * inputs / (outputs + inputs)))
    return most if amount <= 1 else min(int(amount), most)


def with_low_rank(
    weight: Tensor,
    solve: Solve,
    hessian: Tensor,
    damping: float,
    rank: int,
    turns: int = TURNS,
) -> Solution:
    """Return a pruned weight and its correction of low rank.

    Args:
        weight: W (O, I).
        solve: prunes a weight (O, I).
        hessian: H (I, I).
        damping: d, in units of H's mean diagonal; a solution's own is used if larger.
        rank: R, 1 to min(O, I).
        turns: times that (2) and (3) alternate.

    Returns:
        The solution of the turn with the least error by H. Its loss is half of that error.

    Raises:
        NotPositiveDefinite: as the solver, or W or H has inf or NaN.
    """
    solution = solve(weight)
    damping = max(damping, solution.damping)
    square = damped(hessian, damping)
    rows = weight.to(square)
    found, basis = None, None
    for turn in range(turns + 1):
        up, down, basis = correction(rows - solution.weight.to(square), square, rank, basis)
        loss = squared_error(rows, solution.weight.to(square) + up @ down, hessian) / 2
        if found is None or loss < found[0].loss:
            found = replace(solution, loss=loss, damping=damping, low_rank=(up, down)), basis
        if turn < turns:
            solution = solve((rows - up @ down).to(weight.dtype))
    assert found is not None
    return polished(rows, *found, square, hessian)


def polished(
    rows: Tensor, solution: Solution, basis: Tensor, square: Tensor, hessian: Tensor
) -> Solution:
    """Alternate steps towards the re-solve of the kept weights and (2), while the error falls.

    Args:
        rows: W (O, I).
        solution: a pruned weight and its correction.
        basis: the basis (O, P) in which the iterations of the correction ended.
        square: A (I, I).
        hessian: H (I, I).
    """
    for _ in range(POLISH):
        assert solution.low_rank is not None
        up, down = solution.low_rank
        sparse = conjugate_gradients(
            rows - up @ down, solution.kept, square, solution.weight.to(square), STEPS
        )
        up, down, basis = correction(rows - sparse, square, len(down), basis)
        loss = squared_error(rows, sparse + up @ down, hessian) / 2
        if not loss < solution.loss:
            break
        solution = replace(
            solution, weight=sparse.to(solution.weight), loss=loss, low_rank=(up, down)
        )
    return solution


def correction(
    gap: Tensor, square: Tensor, rank: int, start: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (2): the best correction of rank R of what a weight lacks.

    Args:
        gap: E (O, I).
        square: A (I, I), symmetric.
        rank: R, 1 to min(O, I).
        start: the basis (O, P) in which iterations ended before; default: random, always the same.

    Returns:
        U (O, R) with orthonormal columns, V (R, I), and the basis (O, P), P at least R.

    Raises:
        NotPositiveDefinite: E or A has inf or NaN.
    """
    outputs, inputs = gap.shape
    width = min(rank + OVERSAMPLE, outputs, inputs)
    iterations = ITERATIONS if start is None else CONTINUED
    if start is None:
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(outputs, width, generator=generator).to(gap)
    basis = torch.linalg.qr(start).Q
    for _ in range(iterations):
        basis = torch.linalg.qr(gap @ (square @ (gap.T @ basis))).Q
    seen = gap.T @ basis  # (I, P)
    small = seen.T @ (square @ seen)  # (P, P), where any inf or NaN of E or A shows
    if not is_finite(small):
        raise NotPositiveDefinite(
            "the weight or the Hessian of a layer has inf or NaN, so there is no correction of low "
            "rank; use another dtype"
        )
    vectors = torch.linalg.eigh(small).eigenvectors
    up = basis @ vectors[:, -rank:]
    return up, up.T @ gap, basis
