"""Outlier Weighed Layerwise sparsity (OWL): layers with more outliers keep more.

    D_l = share of entries of |W_l| ||X_l|| above M times their mean                 (section 3.3)
    p_l = p - 2 lambda (D_l - min D) / (max D - min D), shifted to the mean p

N layers, W (O, I).

References:
    Yin et al., "Outlier Weighed Layerwise Sparsity (OWL)", 2023. https://arxiv.org/abs/2310.05175
"""

import torch
from torch import Tensor

from ..solvers.double_precision import where_double
from .equal_price import centred

OUTLIER = 5.0  # M: an outlier is this many times the mean
SWING = 0.08  # lambda: sparsities range over twice this


def by_outliers(ratios: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Return the sparsities (N,) by the outlier ratios.

    Args:
        ratios: the outlier ratio of each layer (N,).
        sizes: the weights of each layer (N,).
        share: the sparsity of all weights.
    """
    spread = ratios.max() - ratios.min()
    levels = (ratios - ratios.min()) / spread if spread > 0 else torch.zeros_like(ratios)
    return centred(share - 2 * SWING * levels.double(), sizes, share)


def outlier_ratio(weight: Tensor, hessian: Tensor) -> float:
    """Return D, the share of |W| ||X|| above OUTLIER times their mean; W (O, I), H (I, I)."""
    scores = weight.to(hessian).abs() * hessian.diagonal().sqrt()
    return where_double(scores > OUTLIER * scores.mean()).double().mean().item()
