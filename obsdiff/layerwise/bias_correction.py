"""Bias correction: the bias absorbs the mean change of a layer's outputs.

    minimise sum_t alpha_t E ||W X_t + b - W' X_t - b'||^2 over b'
    b' = b + (W - W') m,   m = sum_t alpha_t E[X_t] / sum_t alpha_t

W (O, I) weight, W' (O, I) pruned, b, b' (O,), m (I,) the weighted mean of the inputs.

References:
    Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", section
        4.2, 2019. https://arxiv.org/abs/1906.04721
"""

import torch
from torch import Tensor, nn


def has_bias(layer: nn.Module) -> bool:
    """Return whether a layer has a bias."""
    return getattr(layer, "bias", None) is not None


def correct_(layer: nn.Module, before: Tensor, after: Tensor, mean: Tensor) -> None:
    """Correct the bias of a layer, if it has one.

    Args:
        layer: the layer.
        before: its weight W (O, I).
        after: the pruned weight W' (O, I).
        mean: the weighted mean m (I,) of its inputs.
    """
    bias = getattr(layer, "bias", None)
    if bias is not None:
        with torch.no_grad():
            change = (before.to(mean) - after.to(mean)) @ mean
            bias.copy_(bias.to(change) + change)
