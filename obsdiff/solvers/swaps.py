"""A mask made better by exact swaps: a kept weight of a row goes, a removed one of the same row comes back.

    minimise tr(D A D^T) / 2 over mask and weights,  D = W' - W,  A = H + d I

With the gradient G = D A, letting i go and giving j the value v changes the error of a row by exactly

    -w'_i g_i + w'_i^2 A_ii / 2 + v (g_j - w'_i A_ij) + v^2 A_jj / 2

which is least for

    v = -(g_j - w'_i A_ij) / A_jj                                               (1)
    change = w'_i^2 A_ii / 2 - w'_i g_i - (g_j - w'_i A_ij)^2 / (2 A_jj)        (2)

Rows are independent. In a round every row takes the swap with the least (2), if that is negative, so its error falls, and
the gradient follows by two rows of A:

    g <- g - w'_i A_i + v A_j                                                   (3)

(2) has the other weights stay as they are. After some rounds they are re-solved (lstsq.py), which moves the gradient, and
the swaps begin again; so the result is never worse than the re-solve alone. SparseSwaps does the same with the dense
model's values for the kept weights; here they are the optimum under the mask.

Masks of ALPS leave no such swap, since at its end that is what its choice comes to. Those that gain only because the
others are re-solved come first, many at once (solvers/trial_swaps.py).

Unstructured, a row looks at the pairs of its CANDIDATES cheapest removals and as many best returns, each by itself; n:m, at
all pairs inside its groups. Every row and group keeps its number of weights. Inputs that are always zero do not come back.

W (O, I) weight, O outputs, I inputs, H (I, I), d the damping.

References:
    Zimmer et al., "SparseSwaps: Tractable LLM Pruning Mask Refinement at Scale", 2025. https://arxiv.org/abs/2512.10922
    Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models", 2024. https://arxiv.org/abs/2406.07831
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .cholesky import finite
from .lstsq import conjugate_gradients, damped
from .problem import Solution, squared_error
from .trial_swaps import tried

CANDIDATES = 32  # removals and returns of a row that are paired
MAX_CYCLES = 6  # of swaps and a re-solve, at most
MAX_ROUNDS = 16  # of swaps in a cycle, at most
LEAST_GAIN = 1e-4  # of a row's error that a swap must gain
PAIRS = 2**20  # that are looked at together


@dataclass(frozen=True)
class Swaps:
    """One swap of each row: the inputs that go and come back, the value of what comes back by (1), and the change of the row's error by (2), inf
    where there is none; each (O,)."""

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
    """A solution with the mask that swaps lead to from its own, and the best weights under it; its loss is half of the squared error.
    `group`: the n:m pattern that the mask has.

    Raises NotPositiveDefinite if H has entries that are not finite, or a block of A is not positive definite.
    """
    if not finite(hessian):
        raise NotPositiveDefinite("the Hessian has entries that are inf or NaN")
    damping = max(damping, solution.damping)
    square, live = damped(hessian, damping), hessian.diagonal() != 0
    rows, kept = weight.to(square) * live, solution.kept.to(square.device)
    found = conjugate_gradients(rows, kept, square, solution.weight.to(square) * live)
    found, kept = tried(rows, found, kept, square, live, group[1] if group else None)
    found = conjugate_gradients(rows, kept, square, found)
    left = torch.arange(len(rows), device=square.device)
    for _ in range(MAX_CYCLES):
        left = torch.cat(
            [
                part[swap_(rows, found, kept, part, square, live, group)]
                for part in left.split(together(square, group))
            ]
        )
        if not len(left):
            break
        found[left] = conjugate_gradients(rows[left], kept[left], square, found[left])
    return Solution(
        found.to(solution.weight.dtype), kept, squared_error(weight, found, hessian) / 2, damping
    )


def together(square: Tensor, group: tuple[int, int] | None) -> int:
    """How many rows are searched at once."""
    inputs = len(square)
    return max(1, PAIRS // (inputs * group[1] if group else max(inputs, CANDIDATES**2)))


def swap_(
    rows: Tensor,
    found: Tensor,
    kept: Tensor,
    part: Tensor,
    square: Tensor,
    live: Tensor,
    group: tuple[int, int] | None,
) -> Tensor:
    """Up to ROUNDS swaps in each of some rows (R,) of weights and mask, in place; which of them (R,) had any."""
    values, mask = found[part], kept[part]
    change = values - rows[part]
    gradient = change @ square
    enough = (change * gradient).sum(1) * (-LEAST_GAIN / 2)
    going, swaps = torch.arange(len(part), device=part.device), torch.zeros_like(part)
    for _ in range(MAX_ROUNDS):
        w, m, g = values[going], mask[going], gradient[going]
        best = (
            best_in_groups(w, m, g, square, live, group[1])
            if group
            else best_of_candidates(w, m, g, square, live)
        )
        takes = best.change < enough[going]
        going = going[takes]
        if not len(going):
            break
        gone, back, value = best.gone[takes], best.back[takes], best.value[takes]
        gradient[going] += (
            value.unsqueeze(1) * square[back] - values[going, gone].unsqueeze(1) * square[gone]
        )  # (3)
        values[going, gone], values[going, back] = 0, value
        mask[going, gone], mask[going, back] = False, True
        swaps[going] += 1
    found[part], kept[part] = values, mask
    return swaps > 0


def best_of_candidates(
    values: Tensor, kept: Tensor, gradient: Tensor, square: Tensor, live: Tensor
) -> Swaps:
    """Of each row (O, I) the best swap of its candidates."""
    diagonal, count = square.diagonal(), min(CANDIDATES, len(square))
    removal, gone = costs(values, kept, gradient, diagonal).topk(count, largest=False)
    gains = (gradient.square() / diagonal).masked_fill(kept | ~live, -torch.inf)
    gain, back = gains.topk(count)
    w, g = values.gather(1, gone), gradient.gather(1, back)
    slope = g.unsqueeze(1) - w.unsqueeze(2) * square[gone.unsqueeze(2), back.unsqueeze(1)]
    change = removal.unsqueeze(2) - slope.square() / (2 * diagonal[back]).unsqueeze(1)  # (2)
    change.masked_fill_(gain.isneginf().unsqueeze(1), torch.inf)
    least, pair = change.flatten(1).min(1)
    row = torch.arange(len(values), device=values.device)
    first, second = pair // count, pair % count
    return Swaps(
        gone[row, first],
        back[row, second],
        -slope[row, first, second] / diagonal[back[row, second]],
        least,
    )


def best_in_groups(
    values: Tensor, kept: Tensor, gradient: Tensor, square: Tensor, live: Tensor, m: int
) -> Swaps:
    """Of each row (O, I) the best swap inside one of its groups of m consecutive inputs."""
    diagonal, groups = square.diagonal(), len(square) // m
    blocks = (
        square.unflatten(0, (groups, m))
        .unflatten(2, (groups, m))
        .diagonal(dim1=0, dim2=2)
        .permute(2, 0, 1)
    )  # (groups, m, m)
    removal = costs(values, kept, gradient, diagonal).unflatten(1, (groups, m))
    slope = gradient.unflatten(1, (groups, 1, m)) - values.unflatten(1, (groups, m, 1)) * blocks
    change = removal.unsqueeze(3) - slope.square() / (2 * diagonal).view(groups, 1, m)  # (2)
    change.masked_fill_((kept | ~live).unflatten(1, (groups, 1, m)), torch.inf)
    least, pair = change.flatten(1).min(1)
    row = torch.arange(len(values), device=values.device)
    start = pair // (m * m) * m
    gone, back = start + pair // m % m, start + pair % m
    return Swaps(gone, back, -slope.flatten(1)[row, pair] / diagonal[back], least)


def costs(values: Tensor, kept: Tensor, gradient: Tensor, diagonal: Tensor) -> Tensor:
    """What letting each kept weight of (O, I) go costs by itself, inf where nothing is kept."""
    return (values * (values * diagonal / 2 - gradient)).masked_fill(~kept, torch.inf)
