"""Masks of the smallest scores: exact counts over a matrix, in its rows, and in n:m groups.

    matrix   k = share O I smallest of all scores
    rows     round(share O I) of all scores, spread evenly over the rows
    groups   m - n smallest of every m consecutive scores of a row

Ties are broken by position: of equal scores the first is the smaller one.

S (O, I) scores, O outputs, I inputs, k an exact count, n kept of m scores in a group.

References:
    Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021 (n:m groups).
        https://arxiv.org/abs/2104.08378
"""

from collections.abc import Sequence

import numpy
import torch
from torch import Tensor

PAIRWISE = 8  # n:m groups up to this size are ranked by comparing all pairs, faster than a sort
SAMPLE = 1024  # sampled values that bracket the k-th smallest


def lowest(scores: Tensor, count: int) -> Tensor:
    """Return the mask of exactly `count` smallest scores.

    Args:
        scores: tensor of any shape.
        count: number of scores to select; none if 0 or less.

    Returns:
        Boolean mask of the same shape.
    """
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
    """Return the k-th smallest value, a scalar tensor, of a vector (N,).

    On a CPU numpy's partition is several times faster than torch's. Elsewhere two values of a
    sorted sample bracket it, and only the values between them are searched.

    Args:
        flat: values (N,).
        k: rank, 1 to N; 1 is the smallest.
    """
    if flat.device.type == "cpu" and flat.dtype in (torch.float32, torch.float64):
        return torch.as_tensor(numpy.partition(flat.detach().numpy(), k - 1)[k - 1])
    sample = flat[:: len(flat) // SAMPLE + 1].sort().values
    place, margin = k * len(sample) // len(flat), SAMPLE // 16
    low, high = sample[max(place - margin, 0)], sample[min(place + margin, len(sample) - 1)]
    below = int((flat < low).count_nonzero())
    between = flat[(flat >= low) & (flat <= high)]
    if below < k <= below + len(between):
        return between.kthvalue(k - below).values
    return flat.kthvalue(k).values


def lowest_in_rows(scores: Tensor, share: float) -> Tensor:
    """Return the mask of the smallest scores of each row.

    The matrix has exactly its share, rounded to whole weights. The counts of two rows differ by one
    if the share of a row is no whole number.

    Args:
        scores: S (O, I).
        share: share of the scores to select, 0 to 1.

    Returns:
        Boolean mask (O, I).
    """
    outputs, inputs = scores.shape
    cumulative = (
        round(share * scores.numel()) * torch.arange(outputs + 1, device=scores.device) // outputs
    )
    smallest = torch.arange(inputs, device=scores.device) < cumulative.diff().unsqueeze(1)
    return torch.zeros_like(smallest).scatter_(1, scores.argsort(dim=1, stable=True), smallest)


def lowest_in_groups(scores: Tensor, n: int, m: int) -> Tensor:
    """Return the mask of the m - n smallest scores in every m consecutive columns of every row.

    Args:
        scores: S (O, I); m divides I.
        n: scores of a group that are not selected.
        m: columns in a group.

    Returns:
        Boolean mask (O, I).
    """
    groups = scores.unflatten(1, (-1, m))
    if m <= PAIRWISE:
        cpu = groups.device.type == "cpu"
        found = torch.stack(ranks(groups.unbind(2)), 2) if cpu else ranks_at_once(groups)
        return (found < m - n).flatten(1)
    drop = groups.argsort(dim=2, stable=True)[..., : m - n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, drop, True).flatten(1)


def ranks(scores: Sequence[Tensor]) -> list[Tensor]:
    """Return the rank, 0 for the smallest, of each entry among tensors of one shape."""
    found = [torch.zeros_like(score, dtype=torch.uint8) for score in scores]
    for later in range(1, len(scores)):
        for earlier in range(later):
            first = scores[earlier] <= scores[later]
            found[later] += first
            found[earlier] += ~first
    return found


def ranks_at_once(groups: Tensor) -> Tensor:
    """Return the rank, 0 for the smallest, of each score among its group (..., m): few launches."""
    one, other = groups.unsqueeze(-1), groups.unsqueeze(-2)
    smaller = (other <= one).tril(-1) | (other < one).triu(1)  # of equal scores the first is
    return smaller.sum(-1)
