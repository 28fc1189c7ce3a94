"""Many swaps of a row at once, judged after a re-solve, and undone if the error does not decrease.

    minimise tr(D A D^T) / 2 over mask and weights,  D = W' - W,  A = H + d I

Under a mask whose weights are re-solved, with S the row's kept inputs other than i or j,

    removing i and re-solving increases the error by    w'_i^2 c_i / 2                 (1)
    restoring j and re-solving decreases the error by   g_j^2 / (2 c_j),   G = D A     (2)
    c_q = A_qq - A_qS [A_SS]^-1 A_Sq                                                   (3)

Each is exact by itself: (1) is the saliency of Optimal Brain Surgeon. (3) needs a factor of A_SS,
and differs little from row to row. Its mean over a few random S of the mask's density is used for
all rows. So (1) and (2) are estimates, and the changes of several swaps at once do not add up.
Therefore a share of the promising swaps is made and the row is re-solved. If its error does not
decrease, the swaps are undone and half the share is tried, down to one swap. A swap is promising if
(2) exceeds (1).

Unstructured, the cheapest removals are paired with the best restorations. N:m, every group has one
swap, the best by (1) and (2).

W (O, I) weight, W' (O, I) pruned weight, O outputs, I inputs, H (I, I) Hessian, d the damping,
w', g one row of W' and G.

References:
    Hassibi, Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", 1992.
    Zimmer et al., "SparseSwaps: Tractable LLM Pruning Mask Refinement at Scale", 2025.
        https://arxiv.org/abs/2512.10922
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .lstsq import conjugate_gradients
from .mask_search import MaskSearch

TRIALS = 4  # trials of a row at most
FIRST = 0.5  # share of the promising swaps in the first trial
SAMPLES = 2  # random S over which (3) is averaged
LEAST_SPREAD = 1e-6  # lower bound of (3), in units of A_qq
TRIAL_ITERATIONS = 20  # conjugate gradient iterations of a trial


@dataclass(frozen=True)
class Trials:
    """A mask search, and the values by which trials choose and judge swaps; changed in place.

    Attributes:
        search: weights and mask.
        scale: c (I,) of (3).
        gradient: G (O, I).
        error: squared error of each row (O,).
    """

    search: MaskSearch
    scale: Tensor
    gradient: Tensor
    error: Tensor


def try_(search: MaskSearch) -> None:
    """Improve weights and mask, row by row, by sets of swaps.

    Args:
        search: the search, its weights re-solved; changed in place in the rows that improve.

    Raises:
        NotPositiveDefinite: a block of A is not positive definite.
    """
    rows, density = search.weights, search.kept.float().mean().item()
    trials = Trials(
        search,
        spread_candidates(search.hessian, density),
        *gradient_of(search.found, rows, search.hessian),
    )
    share = torch.full((len(rows), 1), FIRST, device=rows.device, dtype=rows.dtype)
    left = torch.arange(len(rows), device=rows.device)
    for _ in range(TRIALS):
        good, swaps = trial_(trials, left, share[left])
        share[left[~good]] /= 2
        left = left[(swaps > 0) & (good | (swaps > 1))]
        if not len(left):
            break


def trial_(trials: Trials, rows: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Try a share (R, 1) of the promising swaps in rows (R,), and store the rows that improve.

    Returns:
        Mask (R,) of the rows that improve, and the number of swaps of each (R,).
    """
    search = trials.search
    weights, square = search.weights[rows], search.hessian
    kept, swaps = exchanged(trials, rows, share)
    found = conjugate_gradients(weights, kept, square, search.found[rows], TRIAL_ITERATIONS)
    gradient, error = gradient_of(found, weights, square)
    good = (error < trials.error[rows]) & (swaps > 0)
    better = rows[good]
    search.kept[better], search.found[better] = kept[good], found[good]
    trials.gradient[better], trials.error[better] = gradient[good], error[good]
    return good, swaps


def gradient_of(found: Tensor, rows: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """Return G = D A (O, I), and the squared error of each row (O,).

    Args:
        found: W' (O, I).
        rows: W (O, I).
        square: A (I, I).
    """
    change = found - rows
    gradient = change @ square
    return gradient, change.mul_(gradient).sum(1)


def exchanged(trials: Trials, rows: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Make a share of the promising swaps of each row, at least one.

    Args:
        trials: the mask search and its estimates; not changed.
        rows: indices of the rows (R,).
        share: share (R, 1) of each row's promising swaps, over 0 and up to 1.

    Returns:
        The mask (R, I) after the swaps, and their number in each row (R,).
    """
    kept = trials.search.kept[rows]
    cost, gain, gone, back = paired(trials, rows, kept)
    promising = (gain > cost).sum(1, keepdim=True)
    swaps = (promising * share).ceil()
    row, rank = (torch.arange(cost.shape[1], device=kept.device) < swaps).nonzero(as_tuple=True)
    kept[row, gone[row, rank]], kept[row, back[row, rank]] = False, True
    return kept, swaps.flatten()


def paired(trials: Trials, rows: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pair removals with restorations in rows (R,) with the mask kept (R, I), the best pair first.

    Returns:
        Twice (1) and (2) of each of P pairs, inf or -inf if there is none, and the inputs to remove
        and to restore: all (R, P).
    """
    search = trials.search
    cost = (search.found[rows].square() * trials.scale).masked_fill_(~kept, torch.inf)  # (1)
    gain = trials.gradient[rows].square() / trials.scale
    gain.masked_fill_(kept | ~search.live, -torch.inf)  # (2)
    if search.m is None:
        count = -(-kept.shape[1] // 4)
        (cost, gone), (gain, back) = cost.topk(count, largest=False), gain.topk(count)
        return cost, gain, gone, back
    start = torch.arange(0, kept.shape[1], search.m, device=kept.device)
    cost, gone = cost.unflatten(1, (-1, search.m)).min(2)
    gain, back = gain.unflatten(1, (-1, search.m)).max(2)
    order = (gain - cost).argsort(1, descending=True)
    gone, back = gone + start, back + start
    return (
        cost.gather(1, order),
        gain.gather(1, order),
        gone.gather(1, order),
        back.gather(1, order),
    )


def spread_candidates(square: Tensor, density: float) -> Tensor:
    """Return (3) of every input (I,), averaged over random S.

    Args:
        square: A (I, I).
        density: probability of an input to be in S.

    Raises:
        NotPositiveDefinite: a block of A is not positive definite.
    """
    draw, diagonal = torch.Generator().manual_seed(0), square.diagonal()
    total = torch.zeros_like(square[0])
    for _ in range(SAMPLES):
        inside = (torch.rand(len(square), generator=draw) < density).to(square.device)
        lower, info = torch.linalg.cholesky_ex(square[inside][:, inside])
        if info.item():
            raise NotPositiveDefinite(
                f"the Hessian of {int(inside.sum())} inputs is not positive definite; "
                "raise the damping"
            )
        across = torch.linalg.solve_triangular(lower, square[inside][:, ~inside], upper=False)
        total[inside] += 1 / torch.cholesky_inverse(lower).diagonal()
        total[~inside] += diagonal[~inside] - across.square_().sum(0)
    return torch.maximum(total / SAMPLES, LEAST_SPREAD * diagonal)
