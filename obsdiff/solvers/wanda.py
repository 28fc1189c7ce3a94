"""Wanda: the weights with the least effect on their row's output are removed.

    score  S_ij = |W_ij| ||X_j||_2                                (Wanda, equation 1)

compared within each row i (each output) of W, or within every n:m group: the smallest are removed.
The others stay unchanged.

||X_j||_2 is the root of the Hessian's diagonal, H_jj = 2 E[alpha x_j^2]. Each token has the weight
alpha of its denoising step, which the paper does not have; the common factor changes no order.
S^2 / 2 is the increase of half of the row's squared error if the weight is removed alone. It has
the unit of obs's saliencies.

W (O, I) weight, O outputs, I inputs, H (I, I) Hessian, X_j all values of input j over the
calibration's tokens, S (O, I) scores.

References:
    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2024.
        https://arxiv.org/abs/2306.11695
"""

from torch import Tensor

from .masks import lowest_in_groups, lowest_in_rows
from .problem import Inputs, Solution, Target


def wanda(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices by Wanda.

    Args:
        weights: matrices (O, I), each pruned to the target by itself.
        inputs: statistics of the I inputs; only the Hessian's diagonal is read.
        target: share to remove from each row, or an n:m group; the rest is unused.

    Returns:
        One solution a matrix, in the same order.
    """
    return [
        masked(weight, scores := score(weight, inputs.hessian), wanda_mask(scores, target))
        for weight in weights
    ]


def score(weight: Tensor, hessian: Tensor) -> Tensor:
    """Return S (O, I) in the Hessian's dtype; 0 at inputs that are always zero.

    Args:
        weight: W (O, I).
        hessian: H (I, I).
    """
    return weight.to(hessian).abs() * hessian.diagonal().sqrt()


def wanda_mask(scores: Tensor, target: Target) -> Tensor:
    """Return the mask (O, I) of the weights to remove.

    Args:
        scores: S (O, I).
        target: share to remove from each row, or an n:m group.
    """
    return (
        lowest_in_groups(scores, *target.group)
        if target.group
        else lowest_in_rows(scores, target.removed)
    )


def masked(weight: Tensor, scores: Tensor, drop: Tensor) -> Solution:
    """Return the weight without the removed entries; the loss is the sum of their S^2 / 2.

    Args:
        weight: W (O, I).
        scores: S (O, I).
        drop: mask (O, I), True where a weight is removed.
    """
    return Solution(weight.masked_fill(drop, 0), ~drop, scores[drop].square().sum().item() / 2, 0.0)
