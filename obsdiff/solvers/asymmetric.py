"""What a layer should aim at when its inputs are no longer those of the dense model.

    minimise ||W X* - V X||^2 + d ||V - W||^2 over V,  weighted token by token                       (1)
    V = W + W C (H + d I)^-1,  C = 2 sum_t alpha_t E[(X*_t - X_t) X_t^T],  H = 2 sum_t alpha_t E[X_t X_t^T]   (2)

For every W' the error of its outputs against the dense model's is ||W X* - W' X||^2 = ||(V - W') X||^2 plus what no W' can
repair, up to the damping. So a solver that is given V for the weight, and H, repairs what earlier packages broke with
what it repairs of its own layer.

W (O, I) weight, X* (I, T) inputs in the dense model, X (I, T) those in the pruned one, H, C (I, I), d the damping.

References:
    Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", 2025. https://arxiv.org/abs/2504.02692
"""

import torch
from torch import Tensor

from .cholesky import inverse_factor


def asymmetric(
    weights: list[Tensor], hessian: Tensor, cross: Tensor, damping: float
) -> tuple[list[Tensor], float]:
    """(2) for weights (O, I) that read the same input, on H's device, in their dtypes or, if that is longer, H's; and the damping that it took. C (I, I), `cross`,
    is used up. With C zero they are what they were.

    Raises NotPositiveDefinite if H has entries that are not finite or no damping on the ladder makes it positive definite.
    """
    factor, _, damping = inverse_factor(hessian, damping)
    shift = cross.to(hessian)
    torch.matmul(shift @ factor.T, factor, out=shift)
    return [
        w.to(hessian.device, torch.promote_types(w.dtype, hessian.dtype)) + w.to(hessian) @ shift
        for w in weights
    ], damping
