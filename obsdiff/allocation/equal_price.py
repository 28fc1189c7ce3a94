"""Layer sparsities with the least summed loss: at the optimum all have one price of a zero.

    obs          layer errors add up                                   minimise sum_l e_l(p_l)
    sensitivity  so do the errors of the final latents                 minimise sum_l s_l e_l(p_l)

subject to sum_l n_l p_l = p sum_l n_l. e_l(p) is the layer error of the sweep at sparsity p: one
factor of the Hessian serves all p. s_l is the relative latent error of the model in which layer l
alone is pruned, over its layer error (layer_sensitivity.py). n_l are its weights. A layer here is a
tap: matrices that read the same input have one sparsity.

N taps, G sparsities of the GRID, S sparsities.

References:
    Everett, "Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation of
        Resources", 1963.
"""

import torch
from torch import Tensor

from .bisection import bisect

GRID = tuple(i / 10 for i in range(1, 10))  # sparsities tried; no layer gets more than the last
SPARSITY_STEPS = 180  # between 0 and the last sparsity of the GRID
PRICE_BISECTIONS = 100


def by_loss(errors: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Return the sparsities (N,) with the least sum of errors.

    Every tap minimises error - price x zeros at one price. Bisection finds the price, and the
    solutions of two neighbouring prices are mixed to meet the share exactly.

    Args:
        errors: the errors (N, G) at the GRID.
        sizes: the weights of each tap (N,).
        share: the sparsity of all weights.
    """
    sparsities = torch.linspace(0, GRID[-1], SPARSITY_STEPS + 1, dtype=torch.float64)
    costs, weight = interpolated(errors.double(), sparsities), sizes.double() / sizes.sum()

    def answer(price: float) -> Tensor:
        return sparsities[(costs - price * weight[:, None] * sparsities).argmin(1)]

    low, high = 0.0, 1.0
    while (weight * answer(high)).sum() < share and high < 1e300:
        high *= 10
    low, high = bisect(
        lambda price: bool((weight * answer(price)).sum() < share), low, high, PRICE_BISECTIONS
    )
    few, many = answer(low), answer(high)
    least, most = (weight * few).sum(), (weight * many).sum()
    part = (share - least) / (most - least) if most > least else 0.0
    return (few + part * (many - few)).clamp(0, GRID[-1])  # for rounding


def interpolated(errors: Tensor, sparsities: Tensor) -> Tensor:
    """Return the errors at other sparsities: (N, S).

    They grow exponentially between two sparsities of the GRID, and quadratically before the first.

    Args:
        errors: the errors (N, G) at the GRID.
        sparsities: (S,).
    """
    logs = errors.clamp(min=torch.finfo(errors.dtype).tiny).log()
    places = torch.tensor(GRID, dtype=errors.dtype)
    right = torch.searchsorted(places, sparsities).clamp(1, len(GRID) - 1)
    part = (sparsities - places[right - 1]) / (places[right] - places[right - 1])
    between = (logs[:, right - 1] + part * (logs[:, right] - logs[:, right - 1])).exp()
    return torch.where(
        sparsities < GRID[0], errors[:, :1] * (sparsities / GRID[0]).square(), between
    )


def centred(shares: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Shift sparsities (N,) by one number until they meet the share, within 0 and GRID[-1]."""

    def too_little(shift: float) -> bool:
        mean = ((shares + shift).clamp(0, GRID[-1]) * sizes).sum() / sizes.sum()
        return bool(mean < share)

    _, high = bisect(too_little, -1.0, 1.0, PRICE_BISECTIONS)
    return (shares + high).clamp(0, GRID[-1])
