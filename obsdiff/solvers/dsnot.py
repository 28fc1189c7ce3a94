"""Dynamic Sparse no Training: Wanda's mask, then swaps within each row that reduce its mean error.

    error of row r   E_r = E[W_r x - (M_r * W_r) x] = sum over its removed weights k of c_rk,
                     c_rk = W_rk E[x_k]                                                        (1)
    grow             the removed weight with the largest  sign(E_r) c_rk / Var[x_k]            (2)
    prune            the kept weight with the smallest  |W_rk| ||x_k||_2  of those with
                     sign(E_r) c_rk < 0                                                        (3)

(1) to (3) are the paper's section 3. A cycle grows one weight and prunes one in every row whose
|E_r| is above THRESHOLD, so that the row keeps its number of weights. Growing subtracts c from E_r,
pruning adds it. There are at most MAX_SWAPS cycles.

W (O, I) weight, M (O, I) mask, O outputs, I inputs, x one token, r a row, k an input.

The paper does not define the following points:

- Expectation and variance are those of all tokens, each with the weight of its denoising step, as
  in the Hessian.
- THRESHOLD is the paper's 0.1, compared with the E_r of (1), a mean over tokens. The authors' code
  compares 0.1 with the sum over the 2,048 tokens of a sequence, averaged over sequences. Hence it
  swaps down to a much smaller error.
- A weight is swapped at most once. Otherwise a weight just grown would be pruned again whenever E_r
  changes its sign. As in the authors' code, a swap may change the sign of E_r; the next swap then
  acts in the other direction.
- A row ends if no removed weight reduces its error, or (3) allows no kept one.
- n:m: the weight to prune is in the group of the weight to grow. Hence (2) covers only groups in
  which (3) allows a weight. The authors' code prunes the group's smallest score whatever its sign,
  and ends a row at a swap that would change the sign of E_r.
- An input that never varies would make (2) infinite. Hence the variance counts as at least its own
  rounding error in float32. An input that is always zero is never grown.

References:
    Zhang et al., "Dynamic Sparse No Training: Training-Free Fine-tuning for Sparse LLMs", 2024.
        https://arxiv.org/abs/2310.08915
    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2024.
        https://arxiv.org/abs/2306.11695
"""

import torch
from torch import Tensor

from .problem import Inputs, Solution, Target
from .wanda import masked, score, wanda_mask

MAX_SWAPS = 50  # swaps in a row at most
THRESHOLD = 0.1  # |E_r| that ends a row, in units of the layer's output
CACHED_ROWS = 32  # independent rows that are swapped together and fit into a CPU's cache
DEVICE_ROWS = 4096  # the same on an accelerator, where each operation has a price


def dsnot(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices by Wanda, then swap weights of each row.

    Args:
        weights: matrices (O, I), each pruned to the target by itself.
        inputs: statistics of the I inputs; of the Hessian only the diagonal is read.
        target: share to remove from each row, or an n:m group; the rest is unused.

    Returns:
        One solution a matrix, in the same order; the kept weights are unchanged.
    """
    mean, variance = inputs.mean, inputs.variance
    spread = torch.maximum(variance, torch.finfo(torch.float32).eps * (variance + mean.square()))
    m = target.group[1] if target.group else None
    solutions = []
    for weight in weights:
        scores = score(weight, inputs.hessian)
        kept = ~wanda_mask(scores, target)
        error = weight.to(mean) * mean  # c of (1)
        gain = torch.where(spread > 0, error / spread, 0)
        parts = []
        together = CACHED_ROWS if kept.device.type == "cpu" else DEVICE_ROWS
        for top in range(0, len(weight), together):
            rows = slice(top, top + together)
            parts.append(grown_and_pruned(kept[rows], error[rows], gain[rows], scores[rows], m))
        solutions.append(masked(weight, scores, ~torch.cat(parts)))
    return solutions


def grown_and_pruned(
    kept: Tensor, error: Tensor, gain: Tensor, scores: Tensor, m: int | None
) -> Tensor:
    """Return the mask after the cycles, each with one swap in every row.

    Args:
        kept: mask (O, I), True where a weight is kept.
        error: c of (1) (O, I).
        gain: c / Var of (2) (O, I).
        scores: scores of (3) (O, I).
        m: inputs in an n:m group, None if unstructured.

    Returns:
        The new mask (O, I).
    """
    kept = kept.clone()
    row_error = error.masked_fill(kept, 0).sum(1)  # (1)
    worth, cost = worth_and_cost(kept, error, gain, scores, m)
    for _ in range(MAX_SWAPS):
        rows = (row_error.abs() > THRESHOLD).nonzero().flatten()
        side = (row_error[rows] < 0).long()
        best, grown = worth[side, rows].max(1)  # (2)
        least, pruned = cheapest(cost, side, rows, grown, m)  # (3)
        possible = (best > 0) & least.isfinite()
        if not possible.any():
            break
        rows, side = rows[possible], side[possible]
        grown, pruned = grown[possible], pruned[possible]
        kept[rows, grown], kept[rows, pruned] = True, False
        row_error[rows] += error[rows, pruned] - error[rows, grown]
        worth[side, rows, grown], cost[side, rows, pruned] = 0, torch.inf
        if m:
            group = within_groups(side, rows, grown, m)
            worth[group] = worth[group].masked_fill(cost[group].isinf().all(1, keepdim=True), 0)
    return kept


def worth_and_cost(
    kept: Tensor, error: Tensor, gain: Tensor, scores: Tensor, m: int | None
) -> tuple[Tensor, Tensor]:
    """Return the values that (2) and (3) compare, at index 0 for E_r > 0 and at 1 for E_r < 0.

    Args:
        kept: mask (O, I).
        error: c of (1) (O, I).
        gain: c / Var of (2) (O, I).
        scores: scores of (3) (O, I).
        m: inputs in an n:m group, None if unstructured.

    Returns:
        The worth of growing (2, O, I): 0 for kept weights, for weights that increase the error, and
        for those without a weight to prune in their group. The cost of pruning (2, O, I): inf for
        weights that (3) or the mask forbids.
    """
    worth = torch.stack([gain, -gain]).clamp_(min=0).masked_fill_(kept, 0)
    cost = torch.stack(
        [
            scores.masked_fill(~kept | (error >= 0), torch.inf),
            scores.masked_fill(~kept | (error <= 0), torch.inf),
        ]
    )
    if m:
        alone = cost.unflatten(2, (-1, m)).isinf().all(3, keepdim=True)
        worth.unflatten(2, (-1, m)).masked_fill_(alone, 0)
    return worth, cost


def within_groups(
    side: Tensor, rows: Tensor, grown: Tensor, m: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return indices (R, m) into worth and cost of the groups of grown columns (R,)."""
    first = grown - grown % m
    columns = first.unsqueeze(1) + torch.arange(m, device=grown.device)
    return side.unsqueeze(1), rows.unsqueeze(1), columns


def cheapest(
    cost: Tensor, side: Tensor, rows: Tensor, grown: Tensor, m: int | None
) -> tuple[Tensor, Tensor]:
    """Return the least cost (R,) in each row, or in its grown column's group, and its column."""
    if m is None:
        return cost[side, rows].min(1)
    least, place = cost[within_groups(side, rows, grown, m)].min(1)
    return least, grown - grown % m + place
