"""Prompts that are kept apart judge what calibration fitted: how much damping, and whether to repair at all.

    e(W')  = tr(D H D^T) / tr(W H W^T),   D = W' - W,  on the prompts that calibrate            (1)
    e*(W') = tr(D G D^T) / tr(W G W^T)                 on those that are held out               (2)

With few tokens H has directions that no token went along, and a repair that is free by H, up to the damping, may cost much
by G. Two things are decided by e*:

    damping   of the solutions with dampings d s, s in STEPS, the one with the least sum of e* over the weights that are
              solved together                                                                   (3)
    repair    W' stays if e*(W') <= e*(M o W), else M o W, the same mask with every kept weight as it was   (4)

The e* of what was chosen is the least of a few, so a little lower than on prompts that chose nothing.

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
    """What is tried, the least damping first; all but the config's own only if it is to be chosen."""
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
    """(3): of solve(d), d from `tries` in ascending order, the one with the least error, the least damped of equal ones. used(solved): the
    damping that it took; where a failed factorisation had raised it, what lies between is not tried again.

    A damping with which nothing can be solved is passed over. Raises NotPositiveDefinite if none is left.
    """
    found: Solved | None = None
    least, reached, failed = math.inf, -1.0, None
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
        raise failed
    return found


def does_harm(weight: Tensor, repaired: Tensor, kept: Tensor, hessian: Tensor) -> bool:
    """(4): whether a repaired weight (O, I) is worse on a held-out Hessian (I, I) than the weight under
    its mask kept, (O, I) or (I,), alone."""
    return squared_error(weight, repaired, hessian) > squared_error(
        weight, weight.to(repaired) * kept, hessian
    )


def unrepaired(weight: Tensor, solution: Solution, hessian: Tensor) -> Solution:
    """A solution's mask on the weight (O, I) as it was; its loss is half of the squared error on the Hessian (I, I) that calibrated."""
    bare = weight.to(solution.weight) * solution.kept
    return Solution(bare, solution.kept, squared_error(weight, bare, hessian) / 2, solution.damping)
