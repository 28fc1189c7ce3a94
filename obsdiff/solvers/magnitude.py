"""Magnitude pruning: the smallest weights are removed, the others stay unchanged.

    score  S_ij = |W_ij|

compared over the whole matrix W, or within every n:m group: the smallest are removed.

W (O, I) weight, O outputs, I inputs.

References:
    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015.
        https://arxiv.org/abs/1506.02626
"""

from torch import Tensor

from .masks import lowest, lowest_in_groups
from .problem import Inputs, Solution, Target


def magnitude(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices by magnitude.

    Args:
        weights: matrices (O, I), each pruned to the target by itself.
        inputs: unused.
        target: share to remove, or an n:m group; damping and compensation are unused.

    Returns:
        One solution a matrix, in the same order; the loss is the sum of the removed squares.
    """
    solutions = []
    for weight in weights:
        size = weight.float().abs()
        drop = (
            lowest_in_groups(size, *target.group)
            if target.group
            else lowest(size, round(target.removed * weight.numel()))
        )
        loss = size[drop].square().sum().item()
        solutions.append(Solution(weight.masked_fill(drop, 0), ~drop, loss, 0.0))
    return solutions
