"""AlphaPruning: layers whose spectrum has a heavier tail keep more.

    alpha_l  Hill's estimate of the exponent of the power law of the largest eigenvalues of W W^T
    p_l = p (1 - tau + 2 tau (alpha_l - min alpha) / (max alpha - min alpha))        (equation 2)

N layers, W (O, I).

References:
    Lu et al., "AlphaPruning: Using Heavy-Tailed Self Regularization Theory for Improved Layer-wise
        Pruning of Large Language Models", 2024. https://arxiv.org/abs/2410.10912
"""

import math

import torch
from torch import Tensor

from ..solvers.double_precision import where_double
from .equal_price import centred

TAIL = 0.5  # the share of the spectrum that is its tail
STRETCH = 0.3  # tau: sparsities range over this share of the mean, above and below it


def by_spectrum(exponents: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Return the sparsities (N,) by the tail exponents; inf counts as the largest finite one.

    Args:
        exponents: the tail exponent of each layer (N,); a small one is a heavy tail.
        sizes: the weights of each layer (N,).
        share: the sparsity of all weights.
    """
    known = exponents[exponents.isfinite()]
    exponents = exponents.clamp(max=known.max()) if len(known) else torch.zeros_like(exponents)
    spread = exponents.max() - exponents.min()
    levels = (
        (exponents - exponents.min()) / spread if spread > 0 else torch.full_like(exponents, 0.5)
    )
    return centred(share * (1 - STRETCH + 2 * STRETCH * levels.double()), sizes, share)


def tail_exponent(weight: Tensor) -> float:
    """Return the tail exponent of a weight (O, I); inf if all nonzero eigenvalues are equal."""
    values = (
        where_double(torch.linalg.svdvals(weight.float())).double().sort(descending=True).values
    )
    rounding = max(weight.shape) * torch.finfo(torch.float32).eps * values[:1]
    eigenvalues = values[values > rounding].square()
    count = int(TAIL * len(eigenvalues)) - 1
    count = max(1, count) if len(eigenvalues) > 1 else 0
    logs = (eigenvalues[:count] / eigenvalues[count : count + 1]).log().sum().item()
    return 1 + count / logs if logs > 0 else math.inf
