"""Magnitude pruning: the smallest weights go, the others stay as they are.

References:
    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015. https://arxiv.org/abs/1506.02626
"""

from torch import Tensor

from .masks import lowest, lowest_in_groups
from .problem import Inputs, Solution, Target


def magnitude(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Remove the smallest |w| of each matrix (O, I), over the whole matrix or in every n:m group, whatever the inputs are."""
    solutions = []
    for weight in weights:
        size = weight.float().abs()
        drop = (
            lowest_in_groups(size, *target.group)
            if target.group
            else lowest(size, round(target.removed * weight.numel()))
        )
        solutions.append(
            Solution(weight.masked_fill(drop, 0), ~drop, size[drop].square().sum().item(), 0.0)
        )
    return solutions
