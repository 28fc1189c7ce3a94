"""Dynamic Sparse no Training: Wanda's mask, then swaps within each row that bring its expected error towards zero.

    error of row r   E_r = E[W_r x - (M_r * W_r) x] = sum over its removed weights k of c_rk,  c_rk = W_rk E[x_k]   (1)
    grow             the removed weight with the largest  sign(E_r) c_rk / Var[x_k]                                (2)
    prune            the kept weight with the smallest  |W_rk| ||x_k||_2  of those with  sign(E_r) c_rk < 0        (3)

(1) to (3) are the paper's section 3. One cycle grows one weight and prunes one in every row whose |E_r| is above THRESHOLD,
so that the row keeps its number of weights; growing takes c off E_r, pruning adds it. At most CYCLES cycles.

W (O, I) weight, M (O, I) mask, O outputs, I inputs, x one token, r a row, k an input.

What the paper leaves open, and what is done here:

- Expectation and variance are those of all tokens, each with the weight of its denoising step, like the Hessian.
- The threshold's unit. THRESHOLD is the paper's 0.1, compared with E_r as (1) has it, a mean over tokens. The authors' code
  compares 0.1 with the sum over the 2,048 tokens of a sequence, averaged over sequences, hence goes on swapping far below it.
- A weight moves at most once: otherwise, whenever E_r changes its sign, what was just grown would be pruned again. As in the
  authors' code, a swap may carry E_r past zero; the next one then comes from the other side.
- A row ends when no removed weight is left whose growing helps, or no kept one that (3) allows.
- n:m: the weight that is pruned is in the group of the one that is grown, hence (2) looks only at groups in which (3) allows one.
  (The authors' code there takes the group's smallest score whatever its sign, and ends a row where E_r would change its sign.)
- An input that never varies would make (2) infinite: the variance counts as at least its own rounding error, which is float32's. An input that is
  always zero is never grown.

References:
    Zhang et al., "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs", 2024. https://arxiv.org/abs/2310.08915
    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2024. https://arxiv.org/abs/2306.11695
"""

import torch
from torch import Tensor

from .problem import Inputs, Solution, Target
from .wanda import masked, score, wanda_mask

MAX_SWAPS = 50  # swaps in a row at most
THRESHOLD = 0.1  # |E_r| that ends a row, in units of the layer's output
CACHED_ROWS = 32  # rows are independent; this many at once stay in the processor's cache


def dsnot(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices (O, I) to the target by Wanda, then swap weights of each row. Of the inputs' Hessian the diagonal counts."""
    mean, variance = inputs.mean, inputs.variance
    spread = torch.maximum(variance, torch.finfo(torch.float32).eps * (variance + mean.square()))
    solutions = []
    for weight in weights:
        scores = score(weight, inputs.hessian)
        share = weight.to(mean) * mean
        gain = torch.where(spread > 0, share / spread, 0)
        rows = zip(
            *(
                part.split(CACHED_ROWS)
                for part in (~wanda_mask(scores, target), share, gain, scores)
            ),
            strict=True,
        )
        kept = torch.cat([swap(*part, target.group[1] if target.group else None) for part in rows])
        solutions.append(masked(weight, scores, ~kept))
    return solutions


def swap(kept: Tensor, share: Tensor, gain: Tensor, scores: Tensor, group: int | None) -> Tensor:
    """Kept weights (O, I) after the cycles. share is c of (1), gain c / Var of (2), scores those of (3), all (O, I); group is the m of
    n:m."""
    kept = kept.clone()
    error = share.masked_fill(kept, 0).sum(1)  # (1)
    worth, cost = sides(kept, share, gain, scores, group)
    for _ in range(MAX_SWAPS):
        rows = (error.abs() > THRESHOLD).nonzero().flatten()
        side = (error[rows] < 0).long()
        best, grown = worth[side, rows].max(1)  # (2)
        price, pruned = cheapest_swap(cost, side, rows, grown, group)  # (3)
        possible = (best > 0) & price.isfinite()
        if not possible.any():
            break
        rows, side, grown, pruned = (
            rows[possible],
            side[possible],
            grown[possible],
            pruned[possible],
        )
        kept[rows, grown], kept[rows, pruned] = True, False
        error[rows] += share[rows, pruned] - share[rows, grown]
        worth[side, rows, grown], cost[side, rows, pruned] = 0, torch.inf
        if group:
            place = within_groups(side, rows, grown, group)
            worth[place] = worth[place].masked_fill(cost[place].isinf().all(1, keepdim=True), 0)
    return kept


def sides(
    kept: Tensor, share: Tensor, gain: Tensor, scores: Tensor, group: int | None
) -> tuple[Tensor, Tensor]:
    """What (2) and (3) compare, for rows whose error is positive and for those whose error is negative: both (2, O, I).

    worth is that of growing, zero where nothing may grow: kept weights, those whose growing makes the error worse, and those
    without a counterpart in their n:m group. cost is that of pruning, inf where (3) or the mask forbids it.
    """
    worth = torch.stack([gain, -gain]).clamp_(min=0).masked_fill_(kept, 0)
    cost = torch.stack(
        [
            scores.masked_fill(~kept | (share >= 0), torch.inf),
            scores.masked_fill(~kept | (share <= 0), torch.inf),
        ]
    )
    if group:
        alone = cost.unflatten(2, (-1, group)).isinf().all(3, keepdim=True)
        worth.unflatten(2, (-1, group)).masked_fill_(alone, 0)
    return worth, cost


def within_groups(
    side: Tensor, rows: Tensor, grown: Tensor, group: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the n:m groups of grown columns (R,) lie in what `sides` returns: indices that select (R, m)."""
    first = grown - grown % group
    return (
        side.unsqueeze(1),
        rows.unsqueeze(1),
        first.unsqueeze(1) + torch.arange(group, device=grown.device),
    )


def cheapest_swap(
    cost: Tensor, side: Tensor, rows: Tensor, grown: Tensor, group: int | None
) -> tuple[Tensor, Tensor]:
    """The smallest cost of each row (R,), or of the n:m group of its grown column (R,), and its column."""
    if group is None:
        return cost[side, rows].min(1)
    price, place = cost[within_groups(side, rows, grown, group)].min(1)
    return price, grown - grown % group + place
