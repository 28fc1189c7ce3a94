"""GPTAQ: the target weight of a layer whose inputs differ from those of the dense model.

    minimise ||W X* - V X||^2 + d ||V - W||^2 over V,  weighted token by token               (1)
    V = W + W C (H + d I)^-1,                                                                (2)
    C = 2 sum_t alpha_t E[(X*_t - X_t) X_t^T],  H = 2 sum_t alpha_t E[X_t X_t^T]

For every W', the error of its outputs against the dense model's is
||W X* - W' X||^2 = ||(V - W') X||^2 plus a constant that no W' can reduce, up to the damping. So a
solver that prunes V instead of W, with the Hessian H, also repairs the errors of earlier packages.

W (O, I) weight, V (O, I) target weight, O outputs, I inputs, X* (I, T) inputs in the dense model,
X (I, T) inputs in the pruned one, T tokens, H, C (I, I), d the damping, alpha_t the weight of
denoising step t.

References:
    Li et al., "GPTAQ: Efficient Finetuning-Free Quantization for Asymmetric Calibration", 2025.
        https://arxiv.org/abs/2504.02692
"""

import torch
from torch import Tensor

from .cholesky import inverse_factor


def asymmetric(
    weights: list[Tensor], hessian: Tensor, cross: Tensor, damping: float
) -> tuple[list[Tensor], float]:
    """Compute the target weights (2) of weights that read the same input.

    If C is zero, the values of the weights do not change.

    Args:
        weights: matrices W (O, I).
        hessian: H (I, I).
        cross: C (I, I); its content is lost.
        damping: first damping tried, in units of H's mean diagonal; at least 0.

    Returns:
        The target weights V (O, I), on H's device, each in the wider dtype of its weight's and H's;
        and the damping used.

    Raises:
        NotPositiveDefinite: H has entries that are inf or NaN, or the damping ladder fails.
    """
    factor, _, damping = inverse_factor(hessian, damping)
    shift = cross.to(hessian)
    torch.matmul(shift @ factor.T, factor, out=shift)
    return [
        w.to(hessian.device, torch.promote_types(w.dtype, hessian.dtype)) + w.to(hessian) @ shift
        for w in weights
    ], damping
