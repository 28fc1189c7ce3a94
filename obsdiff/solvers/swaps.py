"""A mask improved by exact swaps: a row removes a kept weight and restores a removed one.

    minimise tr(D A D^T) / 2 over mask and weights,  D = W' - W,  A = H + d I

With the gradient G = D A, removing i and giving j the value v changes the error of a row by exactly

    -w'_i g_i + w'_i^2 A_ii / 2 + v (g_j - w'_i A_ij) + v^2 A_jj / 2

which is least for

    v = -(g_j - w'_i A_ij) / A_jj                                               (1)
    change = w'_i^2 A_ii / 2 - w'_i g_i - (g_j - w'_i A_ij)^2 / (2 A_jj)        (2)

Rows are independent. In a round every row makes the swap with the least (2), if that is negative,
so its error decreases. The gradient is updated by two rows of A:

    g <- g - w'_i A_i + v A_j                                                   (3)

(2) assumes that the other weights stay unchanged. After some rounds they are re-solved (lstsq.py),
which changes the gradient, and the swaps start again. So the result is never worse than the
re-solve alone. SparseSwaps does the same with the dense model's values for the kept weights; here
the kept weights are the optimum under the mask.

A mask of ALPS allows no such swap, since the last iterations of ALPS reach the same optimum. Swaps
that decrease the error only after a re-solve are made first, many at once (trial_swaps.py).

Unstructured, a row compares all pairs of its CANDIDATES cheapest removals and its CANDIDATES best
restorations, each ranked by itself. N:m, it compares all pairs inside its groups. Every row and
group keeps its number of weights. Inputs that are always zero are not restored.

W (O, I) weight, W' (O, I) pruned weight, O outputs, I inputs, H (I, I) Hessian, d the damping,
w', g one row of W' and G, i a removed and j a restored input.

References:
    Zimmer et al., "SparseSwaps: Tractable LLM Pruning Mask Refinement at Scale", 2025.
        https://arxiv.org/abs/2512.10922
    Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language
        Models", 2024. https://arxiv.org/abs/2406.07831
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .cholesky import require_finite
from .lstsq import conjugate_gradients, damped
from .mask_search import MaskSearch
from .problem import Solution, squared_error
from .trial_swaps import try_

CANDIDATES = 32  # removals, and restorations, of a row that are paired
MAX_CYCLES = 6  # cycles of swaps and a re-solve
MAX_ROUNDS = 16  # swaps of a row in a cycle
LEAST_GAIN = 1e-4  # least decrease by a swap, as a share of the row's error
PAIRS = 2**20  # pairs whose (2) is computed at once


@dataclass(frozen=True)
class Swaps:
    """One swap of each row; all (O,).

    Attributes:
        gone: the input i to remove.
        back: the input j to restore.
        value: the value of the restored weight, by (1).
        change: the change of the row's error, by (2); inf if the row has no swap.
    """

    gone: Tensor
    back: Tensor
    value: Tensor
    change: Tensor


def swapped(
    weight: Tensor,
    solution: Solution,
    hessian: Tensor,
    damping: float,
    group: tuple[int, int] | None = None,
) -> Solution:
    """Improve the mask of a solution by swaps, and re-solve the weights under it.

    Args:
        weight: W (O, I).
        solution: a pruned weight, its mask and its damping; not changed.
        hessian: H (I, I).
        damping: least damping, in units of H's mean diagonal; the solution's is used if larger.
        group: the n:m pattern (n, m) of the mask, None if unstructured.

    Returns:
        A solution with the same number of weights in each row, or group. Its loss is half of the
        squared error.

    Raises:
        NotPositiveDefinite: H has entries that are inf or NaN, or a block of A is not positive
            definite.
    """
    require_finite(hessian)
    damping = max(damping, solution.damping)
    search = begun(weight, solution, hessian, damping, group[1] if group else None)
    rows, square = search.weights, search.hessian
    try_(search)
    search.found = conjugate_gradients(rows, search.kept, square, search.found)
    left = torch.arange(len(rows), device=square.device)
    for _ in range(MAX_CYCLES):
        parts = left.split(rows_at_once(search))
        left = torch.cat([part[swap_(search, part)] for part in parts])
        if not len(left):
            break
        search.found[left] = conjugate_gradients(
            rows[left], search.kept[left], square, search.found[left]
        )
    loss = squared_error(weight, search.found, hessian) / 2
    return Solution(search.found.to(solution.weight.dtype), search.kept, loss, damping)


def begun(
    weight: Tensor, solution: Solution, hessian: Tensor, damping: float, m: int | None
) -> MaskSearch:
    """Return a search that starts from a solution's mask and the re-solve under it."""
    square, live = damped(hessian, damping), hessian.diagonal() != 0
    rows, kept = weight.to(square) * live, solution.kept.to(square.device, copy=True)
    found = conjugate_gradients(rows, kept, square, solution.weight.to(square) * live)
    return MaskSearch(rows, found, kept, square, live, m)


def rows_at_once(search: MaskSearch) -> int:
    """Return the number of rows whose PAIRS are compared at once."""
    inputs = len(search.hessian)
    return max(1, PAIRS // (inputs * search.m if search.m else max(inputs, CANDIDATES**2)))


def swap_(search: MaskSearch, part: Tensor) -> Tensor:
    """Make up to MAX_ROUNDS swaps in each of some rows.

    Args:
        search: the search, changed in place.
        part: indices of the rows (R,).

    Returns:
        Mask (R,), True for rows with at least one swap.
    """
    square = search.hessian
    values, kept = search.found[part], search.kept[part]
    change = values - search.weights[part]
    gradient = change @ square
    enough = (change * gradient).sum(1) * (-LEAST_GAIN / 2)
    active, swaps = torch.arange(len(part), device=part.device), torch.zeros_like(part)
    for _ in range(MAX_ROUNDS):
        best = best_swaps(search, values[active], kept[active], gradient[active])
        accepted = best.change < enough[active]
        active = active[accepted]
        if not len(active):
            break
        gone, back, value = best.gone[accepted], best.back[accepted], best.value[accepted]
        gradient[active] += (
            value.unsqueeze(1) * square[back] - values[active, gone].unsqueeze(1) * square[gone]
        )  # (3)
        values[active, gone], values[active, back] = 0, value
        kept[active, gone], kept[active, back] = False, True
        swaps[active] += 1
    search.found[part], search.kept[part] = values, kept
    return swaps > 0


def best_swaps(search: MaskSearch, values: Tensor, kept: Tensor, gradient: Tensor) -> Swaps:
    """Return the best swap of each row, from W', mask and G (R, I) of the rows."""
    if search.m:
        return best_in_groups(values, kept, gradient, search.hessian, search.live, search.m)
    return best_of_candidates(values, kept, gradient, search.hessian, search.live)


def best_of_candidates(
    values: Tensor, kept: Tensor, gradient: Tensor, square: Tensor, live: Tensor
) -> Swaps:
    """Return the best swap of each row among its candidates.

    Args:
        values: W' (R, I).
        kept: mask (R, I).
        gradient: G (R, I).
        square: A (I, I).
        live: mask (I,) of the inputs that may be restored.
    """
    diagonal, count = square.diagonal(), min(CANDIDATES, len(square))
    removal, gone = removal_costs(values, kept, gradient, diagonal).topk(count, largest=False)
    gains = (gradient.square() / diagonal).masked_fill(kept | ~live, -torch.inf)
    gain, back = gains.topk(count)
    w, g = values.gather(1, gone), gradient.gather(1, back)
    slope = g.unsqueeze(1) - w.unsqueeze(2) * square[gone.unsqueeze(2), back.unsqueeze(1)]
    change = removal.unsqueeze(2) - slope.square() / (2 * diagonal[back]).unsqueeze(1)  # (2)
    change.masked_fill_(gain.isneginf().unsqueeze(1), torch.inf)
    least, pair = change.flatten(1).min(1)
    row = torch.arange(len(values), device=values.device)
    first, second = pair // count, pair % count
    i, j = gone[row, first], back[row, second]
    return Swaps(i, j, -slope[row, first, second] / diagonal[j], least)


def best_in_groups(
    values: Tensor, kept: Tensor, gradient: Tensor, square: Tensor, live: Tensor, m: int
) -> Swaps:
    """Return the best swap of each row inside one of its groups of m consecutive inputs.

    Args:
        values: W' (R, I).
        kept: mask (R, I).
        gradient: G (R, I).
        square: A (I, I).
        live: mask (I,) of the inputs that may be restored.
        m: inputs in a group; divides I.
    """
    diagonal, groups = square.diagonal(), len(square) // m
    blocks = square.unflatten(0, (groups, m)).unflatten(2, (groups, m))
    blocks = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (groups, m, m)
    removal = removal_costs(values, kept, gradient, diagonal).unflatten(1, (groups, m))
    slope = gradient.unflatten(1, (groups, 1, m)) - values.unflatten(1, (groups, m, 1)) * blocks
    change = removal.unsqueeze(3) - slope.square() / (2 * diagonal).view(groups, 1, m)  # (2)
    change.masked_fill_((kept | ~live).unflatten(1, (groups, 1, m)), torch.inf)
    least, pair = change.flatten(1).min(1)
    row = torch.arange(len(values), device=values.device)
    start = pair // (m * m) * m
    gone, back = start + pair // m % m, start + pair % m
    return Swaps(gone, back, -slope.flatten(1)[row, pair] / diagonal[back], least)


def removal_costs(values: Tensor, kept: Tensor, gradient: Tensor, diagonal: Tensor) -> Tensor:
    """Return the first two terms of (2) for each weight (R, I), inf for removed ones."""
    return (values * (values * diagonal / 2 - gradient)).masked_fill(~kept, torch.inf)
