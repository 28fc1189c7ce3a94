"""How the zeros of an unstructured pruning are shared out over the layers, so that all together have the target's.

    obs          layer errors add up; what a zero costs at the margin is the same everywhere         minimise sum_l e_l(p_l)
    sensitivity  so do the errors of the final latents that pruning a layer causes by itself         minimise sum_l s_l e_l(p_l)
    owl          layers whose inputs and weights have more outliers keep more                        (OWL, section 3.3)
    alpha        layers whose spectrum has a heavier tail keep more                                  (AlphaPruning, equation 2)

e_l(p) is the layer error that the sweep causes at sparsity p, for which one factor of the Hessian serves all p; s_l the
relative latent error of a model in which layer l alone is pruned, over its layer error (allocation/layer_sensitivity.py). A layer here is a
tap: matrices that read the same input have one share.

N taps, G sparsities of the GRID.

References:
    Yin et al., "Outlier Weighed Layerwise Sparsity (OWL)", 2023. https://arxiv.org/abs/2310.05175
    Lu et al., "AlphaPruning: Using Heavy-Tailed Self Regularization Theory for Improved Layer-wise Pruning of Large Language Models", 2024.
        https://arxiv.org/abs/2410.10912
"""

import torch
from torch import Tensor

GRID = (
    0.1,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
)  # sparsities at which layers are tried; none gets more than the last
SPARSITY_STEPS = 180  # of a layer's sparsity between none and the last
PRICE_BISECTIONS = 100


def by_loss(errors: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Sparsities (N,) with the least sum of errors (N, G), of taps of so many weights (N,), `share` of all weights in all.

    At the optimum no zero is worth moving: every tap minimises error - price x zeros at one price. The price is found by halving, and
    what two neighbouring prices give is mixed to meet the share exactly.
    """
    sparsities = torch.linspace(0, GRID[-1], SPARSITY_STEPS + 1, dtype=torch.float64)
    costs, weight = interpolated(errors.double(), sparsities), sizes.double() / sizes.sum()

    def answer(price: float) -> Tensor:
        return sparsities[(costs - price * weight[:, None] * sparsities).argmin(1)]

    low, high = 0.0, 1.0
    while (weight * answer(high)).sum() < share and high < 1e300:
        high *= 10
    for _ in range(PRICE_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if (weight * answer(middle)).sum() < share else (low, middle)
    few, many = answer(low), answer(high)
    least, most = (weight * few).sum(), (weight * many).sum()
    part = (share - least) / (most - least) if most > least else 0.0
    return (few + part * (many - few)).clamp(0, GRID[-1])  # for rounding


def interpolated(errors: Tensor, sparsities: Tensor) -> Tensor:
    """Errors (N, G) of the GRID at other sparsities (S,): (N, S). Errors grow about exponentially between two of the GRID, and before
    the first as the square."""
    logs = errors.clamp(min=torch.finfo(errors.dtype).tiny).log()
    places = torch.tensor(GRID, dtype=errors.dtype)
    right = torch.searchsorted(places, sparsities).clamp(1, len(GRID) - 1)
    part = (sparsities - places[right - 1]) / (places[right] - places[right - 1])
    between = (logs[:, right - 1] + part * (logs[:, right] - logs[:, right - 1])).exp()
    return torch.where(
        sparsities < GRID[0], errors[:, :1] * (sparsities / GRID[0]).square(), between
    )


def centred(shares: Tensor, sizes: Tensor, share: float) -> Tensor:
    """Sparsities moved together until all weights have the share, none below zero nor above what the GRID ends with."""
    low, high = -1.0, 1.0
    for _ in range(PRICE_BISECTIONS):
        middle = (low + high) / 2
        mean = ((shares + middle).clamp(0, GRID[-1]) * sizes).sum() / sizes.sum()
        low, high = (middle, high) if mean < share else (low, middle)
    return (shares + high).clamp(0, GRID[-1])
