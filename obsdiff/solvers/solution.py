"""What every solver is asked for and what it answers.

A solver is called as `solver(weights, inputs, target)`: weights is a list of matrices (O, I) that read the same input (q, k
and v projections), inputs is what calibration knows of that input. Each matrix is pruned to the target by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PAIRWISE = 8  # in n:m groups of up to this size scores are compared pair by pair, which is faster than sorting

ROWS = 256  # of a weight whose error is computed together
SAMPLE = 1024  # of so many values the ones near the k-th tell where in the whole it is


@dataclass(frozen=True)
class Inputs:
    """What calibration knows of a layer's I inputs: the Hessian (I, I), the mean (I,) and the variance (I,) of each."""

    hessian: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Target:
    """Share of weights to remove, or the n:m group (n, m): at most n non-zeros in every m consecutive inputs. For solvers that
    repair what stays: the damping, added to the Hessian's diagonal in units of its mean, and whether to repair at all."""

    removed: float
    group: tuple[int, int] | None = None
    damping: float = 0.01
    compensate: bool = True


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
    threshold = kth_smallest(flat, count)
    mask = flat <= threshold
    if extra := int(mask.count_nonzero()) - count:
        ties = (flat == threshold).nonzero().flatten()
        mask[ties[len(ties) - extra :]] = False
    return mask.view_as(scores)


def kth_smallest(flat: Tensor, k: int) -> Tensor:
    """The k-th smallest (1 is the smallest) of a vector: two values of a sample enclose it, and only what lies between is searched."""
    sample = flat[:: len(flat) // SAMPLE + 1].sort().values
    place, margin = k * len(sample) // len(flat), SAMPLE // 16
    low, high = sample[max(place - margin, 0)], sample[min(place + margin, len(sample) - 1)]
    below = int((flat < low).count_nonzero())
    between = flat[(flat >= low) & (flat <= high)]
    if below < k <= below + len(between):
        return between.kthvalue(k - below).values
    return flat.kthvalue(k).values


def lowest_in_rows(scores: Tensor, share: float) -> Tensor:
    """Mask of the smallest scores of each row: (O, I). The matrix has exactly its share, rounded to whole weights; so rows differ by
    one where the share is no whole number of a row's weights. Ties are broken by position."""
    outputs, inputs = scores.shape
    upto = (
        round(share * scores.numel()) * torch.arange(outputs + 1, device=scores.device) // outputs
    )
    smallest = torch.arange(inputs, device=scores.device) < upto.diff().unsqueeze(1)
    return torch.zeros_like(smallest).scatter_(1, scores.argsort(dim=1, stable=True), smallest)


def lowest_in_groups(scores: Tensor, n: int, m: int) -> Tensor:
    """Mask of the m - n smallest scores in every m consecutive columns of every row: (O, I), m divides I. Ties are broken by position."""
    groups = scores.unflatten(1, (-1, m))
    if m <= PAIRWISE:
        return (torch.stack(ranks(groups.unbind(2)), 2) < m - n).flatten(1)
    drop = groups.argsort(dim=2, stable=True)[..., : m - n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, drop, True).flatten(1)


def ranks(scores: Sequence[Tensor]) -> list[Tensor]:
    """Of tensors of one shape how many of the others are smaller, entry by entry, the earlier of equal ones counting as smaller."""
    found = [torch.zeros_like(score, dtype=torch.uint8) for score in scores]
    for later in range(1, len(scores)):
        for earlier in range(later):
            first = scores[earlier] <= scores[later]
            found[later] += first
            found[earlier] += ~first
    return found


def layer_error(weight: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    """tr(D H D^T) / tr(W H W^T) with D the change of W: the share of the layer's output energy that pruning changed."""
    whole = squared_error(weight, None, hessian)
    return squared_error(weight, pruned, hessian) / whole if whole > 0 else 0.0


def squared_error(weight: Tensor, pruned: Tensor | None, hessian: Tensor) -> float:
    """tr(D H D^T) with D the change of W, or W itself if it is pruned to nothing (None). Of the symmetric H the lower triangle, in panels:
    what is below the diagonal counts twice. ROWS rows of W at a time."""
    total = hessian.new_zeros(())
    for top in range(0, len(weight), ROWS):
        d = weight[top : top + ROWS].to(hessian)
        if pruned is not None:
            d = d - pruned[top : top + ROWS].to(hessian)
        for left in range(0, len(hessian), ROWS):
            right = min(left + ROWS, len(hessian))
            product = d[:, left:right] @ hessian[left:right, left:right]
            product.addmm_(d[:, right:], hessian[right:, left:right], alpha=2)
            total += (product * d[:, left:right]).sum()
    return total.item()
