"""The smallest scores: exact counts over a layer, in rows, and in N:M groups."""

from collections.abc import Sequence

import torch
from torch import Tensor

PAIRWISE = 8  # in n:m groups of up to this size scores are compared pair by pair, which is faster than sorting
SAMPLE = 1024  # of so many values the ones near the k-th tell where in the whole it is


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
