"""Sparsities from outliers in the layers' inputs (OWL)."""

import torch
from torch import Tensor

from .equal_price import centred

OUTLIER, SWING = (
    5.0,
    0.08,
)  # OWL: an outlier is so many times the mean; layers lie in a range of twice that


def by_outliers(ratios: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Sparsities (N,) by the outlier ratios (N,): from most to least outliers by twice the SWING, less where there are more."""
    spread = ratios.max() - ratios.min()
    levels = (ratios - ratios.min()) / spread if spread > 0 else torch.zeros_like(ratios)
    return centred(share - 2 * SWING * levels.double(), sizes, share)


def outlier_ratio(weight: Tensor, hessian: Tensor) -> float:
    """Share of a weight's (O, I) entries whose |w| ||x|| is more than OUTLIER times the mean of all."""
    scores = weight.to(hessian).abs() * hessian.diagonal().sqrt()
    return (scores > OUTLIER * scores.mean()).double().mean().item()
