"""What every solver is asked for and what it answers.

A solver is called as `solver(weights, hessian, target, damping=..., compensate=..., mean=..., variance=...)`: weights is a
list of matrices (O, I) that read the same input (q, k and v projections), hessian is their common H (I, I) or None for a
solver that needs none, mean and variance (I,) are those of the input's columns or None. Each matrix is pruned to the
target by itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sparsity:
    """Share of weights to remove, or the n:m group (n, m): at most n non-zeros in every m consecutive inputs."""

    removed: float
    group: tuple[int, int] | None = None


@dataclass(frozen=True)
class Solution:
    """A pruned weight (O, I), True where it was kept (O, I), the sum of the removed saliencies, and the damping used."""

    weight: Tensor
    kept: Tensor
    loss: float
    damping: float


def lowest(scores: Tensor, count: int) -> Tensor:
    """Mask of exactly `count` smallest scores of a tensor, ties broken by position."""
    flat = scores.flatten()
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = flat.kthvalue(count).values
    mask = flat < threshold
    ties = (flat == threshold).nonzero().flatten()
    mask[ties[: count - int(mask.sum())]] = True
    return mask.view_as(scores)


def lowest_in_rows(scores: Tensor, share: float) -> Tensor:
    """Mask of the smallest scores of each row: (O, I). The matrix has exactly its share, rounded to whole weights; so rows differ by
    one where the share is no whole number of a row's weights. Ties are broken by position."""
    outputs, inputs = scores.shape
    upto = round(share * scores.numel()) * torch.arange(outputs + 1, device=scores.device) // outputs
    smallest = torch.arange(inputs, device=scores.device) < upto.diff().unsqueeze(1)
    return torch.zeros_like(smallest).scatter_(1, scores.argsort(dim=1, stable=True), smallest)


def lowest_in_groups(scores: Tensor, n: int, m: int) -> Tensor:
    """Mask of the m - n smallest scores in every m consecutive columns of every row: (O, I), m divides I."""
    groups = scores.unflatten(1, (-1, m))
    drop = groups.argsort(dim=2, stable=True)[..., : m - n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, drop, True).flatten(1)


def layer_error(weight: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    """tr(D H D^T) / tr(W H W^T) with D the change of W: the share of the layer's output energy that pruning changed."""
    w, h = weight.to(hessian), hessian
    d = w - pruned.to(hessian)
    whole = ((w @ h) * w).sum()
    return (((d @ h) * d).sum() / whole).item() if whole > 0 else 0.0
