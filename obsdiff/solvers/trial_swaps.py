"""Many swaps of a row at once, in sight of the re-solve, and undone where the row's error does not fall.

    minimise tr(D A D^T) / 2 over mask and weights,  D = W' - W,  A = H + d I

Under a mask whose weights are re-solved, with S the row's kept inputs but i or j,

    letting i go and re-solving costs        w'_i^2 c_i / 2                        (1)
    letting j come back and re-solving gains g_j^2 / (2 c_j),   G = D A            (2)
    c_q = A_qq - A_qS [A_SS]^-1 A_Sq                                               (3)

each exact by itself: (1) is the saliency of Optimal Brain Surgeon. (3) differs from row to row, but not by much, and takes
a factor of A_SS; its mean over a few random S of the mask's density serves all rows. So (1) and (2) are estimates, and of
several swaps at once they are not the sum. Therefore a share of those that promise to gain is made, the row is re-solved,
and what did not make its error smaller is undone and tried again with half the share, down to one swap.

Unstructured, the cheapest to go meet the best to come back; n:m, every group has one swap, the best by (1) and (2).

W (O, I) weight, O outputs, I inputs, H (I, I), d the damping.

References:
    Hassibi, Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", 1992.
    Zimmer et al., "SparseSwaps: Tractable LLM Pruning Mask Refinement at Scale", 2025. https://arxiv.org/abs/2512.10922
"""

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .lstsq import conjugate_gradients

TRIALS = 4  # at most, of a row
FIRST = 0.5  # share of the promising swaps that is tried first
SAMPLES = 2  # of S
CLOSEST = 1e-6  # (3) in units of A_qq is never taken to be less
TRIAL_ITERATIONS = 20  # of conjugate gradients to a trial


def tried(
    rows: Tensor, found: Tensor, kept: Tensor, square: Tensor, live: Tensor, m: int | None
) -> tuple[Tensor, Tensor]:
    """Weights and mask (O, I) that are better than `found` and `kept`, or the same, row by row. `live` (I,): the inputs that may come
    back; `m`: columns in a group.

    Raises NotPositiveDefinite if a block of A is not.
    """
    found, kept = found.clone(), kept.clone()
    scale = spread_candidates(square, kept.float().mean().item())
    share = torch.full((len(rows), 1), FIRST, device=rows.device, dtype=rows.dtype)
    gradient, error = gradient_of(found, rows, square)
    left = torch.arange(len(rows), device=rows.device)
    for _ in range(TRIALS):
        mask, swaps = exchanged(
            found[left], kept[left], gradient[left], scale, live, share[left], m
        )
        values = conjugate_gradients(rows[left], mask, square, found[left], TRIAL_ITERATIONS)
        slopes, errors = gradient_of(values, rows[left], square)
        good = (errors < error[left]) & (swaps > 0)
        better = left[good]
        kept[better], found[better], gradient[better], error[better] = (
            mask[good],
            values[good],
            slopes[good],
            errors[good],
        )
        share[left[~good]] /= 2
        left = left[(swaps > 0) & (good | (swaps > 1))]
        if not len(left):
            break
    return found, kept


def gradient_of(found: Tensor, rows: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """D A (O, I), and the squared error of each row (O,)."""
    change = found - rows
    gradient = change @ square
    return gradient, change.mul_(gradient).sum(1)


def exchanged(
    values: Tensor,
    kept: Tensor,
    gradient: Tensor,
    scale: Tensor,
    live: Tensor,
    share: Tensor,
    m: int | None,
) -> tuple[Tensor, Tensor]:
    """The mask after that share (O, 1) of each row's promising swaps, at least one, and how many they are (O,)."""
    cost = (values.square() * scale).masked_fill_(~kept, torch.inf)  # (1)
    gain = (gradient.square() / scale).masked_fill_(kept | ~live, -torch.inf)  # (2)
    if m:
        start = torch.arange(0, kept.shape[1], m, device=kept.device)
        (cost, gone), (gain, back) = (
            cost.unflatten(1, (-1, m)).min(2),
            gain.unflatten(1, (-1, m)).max(2),
        )
        order = (gain - cost).argsort(1, descending=True)
        cost, gain, gone, back = (
            part.gather(1, order) for part in (cost, gain, gone + start, back + start)
        )
    else:
        count = -(-kept.shape[1] // 4)
        (cost, gone), (gain, back) = cost.topk(count, largest=False), gain.topk(count)
    promising = (gain > cost).sum(1, keepdim=True)
    swaps = (promising * share).ceil()
    row, rank = (torch.arange(cost.shape[1], device=kept.device) < swaps).nonzero(as_tuple=True)
    mask = kept.clone()
    mask[row, gone[row, rank]], mask[row, back[row, rank]] = False, True
    return mask, swaps.flatten()


def spread_candidates(square: Tensor, density: float) -> Tensor:
    """(3) of every input (I,), the mean over random S of that density."""
    draw, diagonal, total = (
        torch.Generator().manual_seed(0),
        square.diagonal(),
        torch.zeros_like(square[0]),
    )
    for _ in range(SAMPLES):
        inside = (torch.rand(len(square), generator=draw) < density).to(square.device)
        lower, info = torch.linalg.cholesky_ex(square[inside][:, inside])
        if info.item():
            raise NotPositiveDefinite(
                f"the Hessian of {int(inside.sum())} inputs is not positive definite; raise the damping"
            )
        across = torch.linalg.solve_triangular(lower, square[inside][:, ~inside], upper=False)
        total[inside] += 1 / torch.cholesky_inverse(lower).diagonal()
        total[~inside] += diagonal[~inside] - across.square_().sum(0)
    return torch.maximum(total / SAMPLES, CLOSEST * diagonal)
