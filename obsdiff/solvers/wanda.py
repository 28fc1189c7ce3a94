"""Wanda: the weights that matter least to their row's output go, the others stay as they are.

    score  S_ij = |W_ij| ||X_j||_2                                (Wanda, equation 1)

compared within each row i (each output) of W, or within every n:m group: the smallest go.

W (O, I) weight, O outputs, I inputs, X_j all values of input j over the calibration's tokens.

||X_j||_2 is the root of the Hessian's diagonal, H_jj = 2 E[alpha x_j^2]: every token counts with the weight of its denoising
step, which the paper does not have, and the common factor changes no order. Half of S^2 is then what removing the
weight alone adds to half of the row's squared error, in the unit of obs's saliencies.

References:
    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2024. https://arxiv.org/abs/2306.11695
"""

from torch import Tensor

from .masks import lowest_in_groups, lowest_in_rows
from .problem import Inputs, Solution, Target


def wanda(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Remove the smallest scores of each row of matrices (O, I), or of every n:m group. Of the inputs only the Hessian's
    diagonal counts."""
    return [
        masked(weight, scores := score(weight, inputs.hessian), wanda_mask(scores, target))
        for weight in weights
    ]


def score(weight: Tensor, hessian: Tensor) -> Tensor:
    """S (O, I) in the Hessian's dtype. Inputs that are always zero score zero, so they leave first."""
    return weight.to(hessian).abs() * hessian.diagonal().sqrt()


def wanda_mask(scores: Tensor, target: Target) -> Tensor:
    """Mask (O, I), True where a weight goes."""
    return (
        lowest_in_groups(scores, *target.group)
        if target.group
        else lowest_in_rows(scores, target.removed)
    )


def masked(weight: Tensor, scores: Tensor, drop: Tensor) -> Solution:
    """The weight without what goes, and the sum of what that adds to half of the squared error, each weight taken alone."""
    return Solution(weight.masked_fill(drop, 0), ~drop, scores[drop].square().sum().item() / 2, 0.0)
