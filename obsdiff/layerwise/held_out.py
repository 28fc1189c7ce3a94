"""Held-out prompts choose between solutions: the damping, and whether to repair at all.

    e(W')  = tr(D H D^T) / tr(W H W^T),   D = W' - W,  on the prompts that calibrate            (1)
    e*(W') = tr(D G D^T) / tr(W G W^T)                 on the held-out prompts                  (2)

With few tokens H has directions that no token has. A repair along them has no error by H, up to the
damping, and may have a large one by G. e* decides two things:

    damping   of the solutions with dampings d s, s in DAMPING_FACTORS, the one with the least
              sum of e* over the weights that are solved together                               (3)
    repair    W' if e*(W') <= e*(M o W), else M o W: the same mask, without repair              (4)

The e* of the chosen solution is slightly optimistic, because the same prompts chose it.

W (O, I) weight, W' (O, I) pruned, M (O, I) its mask, H, G (I, I) Hessians, d the damping.

References:
    Stone, "Cross-Validatory Choice and Assessment of Statistical Predictions", 1974.
"""

import math
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from ..config import PruningConfig
from ..errors import NotPositiveDefinite
from ..solvers.problem import Solution, squared_error

DAMPING_FACTORS = (0.1, 1, 10, 100)  # in units of the config's damping
SAME_DAMPING = 1e-6  # relative difference up to which two dampings are one
Solved = TypeVar("Solved")


def dampings(config: PruningConfig) -> list[float]:
    """Return the dampings to try, ascending: the config's, or several if one is to be chosen."""
    return (
        [config.damping * step for step in DAMPING_FACTORS]
        if config.choose_damping
        else [config.damping]
    )


def best(
    tries: list[float],
    solve: Callable[[float], Solved],
    used: Callable[[Solved], float],
    error: Callable[[Solved], float],
) -> Solved:
    """Return the solution of (3): the least error, of equal ones the least damped.

    A damping with which the Hessian cannot be factored is skipped.

    Args:
        tries: the dampings, ascending.
        solve: solves with a damping.
        used: the damping of a solution; a failed factorisation may have raised it, and dampings
            below it are not tried again.
        error: e* of a solution.

    Raises:
        NotPositiveDefinite: no damping works.
    """
    found: Solved | None = None
    failed: NotPositiveDefinite | None = None
    least, reached = math.inf, -1.0
    for damping in tries:
        if damping <= reached * (1 + SAME_DAMPING):
            continue
        try:
            solved = solve(damping)
        except NotPositiveDefinite as why:
            failed = why
            continue
        reached = used(solved)
        if found is None and len(tries) == 1:
            return solved
        new = error(solved)
        if found is None or new < least:
            found, least = solved, new if math.isfinite(new) else math.inf
    if found is None:
        raise failed or NotPositiveDefinite("there is no damping to try")
    return found


def does_harm(weight: Tensor, repaired: Tensor, kept: Tensor, hessian: Tensor) -> bool:
    """Return whether a repair is worse on the held-out prompts than the mask alone: (4).

    Args:
        weight: W (O, I).
        repaired: W' (O, I).
        kept: the mask M, (O, I) or (I,).
        hessian: G (I, I).
    """
    return squared_error(weight, repaired, hessian) > squared_error(
        weight, weight.to(repaired) * kept, hessian
    )


def unrepaired(weight: Tensor, solution: Solution, hessian: Tensor) -> Solution:
    """Return M o W: the mask of a solution without repair.

    Args:
        weight: W (O, I).
        solution: the repaired solution.
        hessian: H (I, I); the loss is half of the squared error on it.
    """
    bare = weight.to(solution.weight) * solution.kept
    return Solution(bare, solution.kept, squared_error(weight, bare, hessian) / 2, solution.damping)
