"""Sparsities from the spectra of the layers' weights (AlphaPruning)."""

import math

import torch
from torch import Tensor

from .equal_price import centred

TAIL, STRETCH = (
    0.5,
    0.3,
)  # AlphaPruning: share of the spectrum that is its tail; shares lie so far about the mean, relatively


def by_spectrum(exponents: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Sparsities (N,) by the tail exponents (N,): a small one is a heavy tail, which keeps more. What has no tail counts as the lightest of the others."""
    known = exponents[exponents.isfinite()]
    exponents = exponents.clamp(max=known.max()) if len(known) else torch.zeros_like(exponents)
    spread = exponents.max() - exponents.min()
    levels = (
        (exponents - exponents.min()) / spread if spread > 0 else torch.full_like(exponents, 0.5)
    )
    return centred(share * (1 - STRETCH + 2 * STRETCH * levels.double()), sizes, share)


def tail_exponent(weight: Tensor) -> float:
    """Hill's estimate of the exponent of the power law that the largest eigenvalues of W W^T follow; inf where all that are not zero are equal."""
    values = torch.linalg.svdvals(weight.float()).double().sort(descending=True).values
    eigenvalues = values[
        values > max(weight.shape) * torch.finfo(torch.float32).eps * values[:1]
    ].square()  # the others are rounding
    count = int(TAIL * len(eigenvalues)) - 1
    count = max(1, count) if len(eigenvalues) > 1 else 0
    logs = (eigenvalues[:count] / eigenvalues[count : count + 1]).log().sum().item()
    return 1 + count / logs if logs > 0 else math.inf
