"""Channel permutation: an order of a layer's inputs in which an n:m pattern keeps more.

    score      S_ij = w_ij^2 H_jj                                                    (1)
    objective  max over orders p of  sum_i sum_g  top_n { S_ip(j) : j in group g }   (2)

(1) is Wanda's score squared: the increase of the error if weight ij is removed alone. (2) is the
objective of Pool and Yu, section 3, with S for |w|.

Groups are m consecutive columns, so only the assignment of columns to groups counts. The search
starts from the present order and exchanges columns: in every round groups are paired at random, all
m^2 exchanges of one column for another are evaluated for each pair, and the best is made if it
increases (2). So (2) never decreases. If x replaces column i of a group whose scores in a row are
a_1 >= ... >= a_m, then

    top_n (group without i, with x) = base_i + max(0, x - threshold_i)               (3)

where base_i is top_n of the group without i, and threshold_i its n-th largest score without i:
a_(n+1) if i is one of the n largest, else a_n. Both are computed when a group changes, so a pair
costs 2 m^2 subtractions a row.

Inputs can be restricted to exchanges inside sets, for example the channels of one attention head.
All sets have the same number of columns.

S (K, R, D) scores, K sets, R rows, D columns of a set, m columns of a group, n of them kept,
G groups of all sets, P pairs of groups, w (R, K D) weight, H (K D, K D) Hessian.

References:
    Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021.
    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2024.
        https://arxiv.org/abs/2306.11695
"""

import torch
from torch import Tensor

from .double_precision import where_double

PATIENCE = 12  # rounds with a negligible gain that end the search
NEGLIGIBLE = 1e-5  # negligible gain of a round or an exchange, as a share of the scores involved
MAX_EXCHANGES = 200  # rounds at most
SAMPLED_ROWS = 512  # rows of a set by which exchanges are judged, evenly spaced
DIFFERENCE_ELEMENTS = 2**22  # elements of the differences that are computed at once


def permutation(scores: Tensor, n: int, m: int, seed: int = 0) -> Tensor:
    """Find an order of the columns of each set, never worse by (2) than the present order.

    The result is deterministic for the same scores and seed.

    Args:
        scores: S (K, R, D), at least 0; m divides D.
        n: columns of a group that are kept.
        m: columns of a group.
        seed: seed of the random pairs of groups.

    Returns:
        The order (K, D): position j receives column order[k, j].
    """
    sets, _, width = scores.shape
    search = Search(sample(scores).transpose(1, 2), n, m)
    generator, idle = torch.Generator().manual_seed(seed), 0
    for _ in range(MAX_EXCHANGES if width > m else 0):
        gain = search.round(generator)
        idle = 0 if gain > NEGLIGIBLE * search.lost else idle + 1
        if idle == PATIENCE:
            break
    order = search.order.view(sets, width)
    better = kept(scores, order, n, m) >= kept(scores, None, n, m)  # over all rows
    better = better.to(order.device).unsqueeze(1)
    return torch.where(better, order, torch.arange(width, device=order.device))


def sample(scores: Tensor) -> Tensor:
    """Return at most SAMPLED_ROWS rows of each set of scores (K, R, D)."""
    rows = scores.shape[1]
    if rows <= SAMPLED_ROWS:
        return scores
    return scores[:, torch.arange(SAMPLED_ROWS, device=scores.device) * rows // SAMPLED_ROWS]


def kept(scores: Tensor, order: Tensor | None, n: int, m: int) -> Tensor:
    """Return the sum of the kept scores, (2), of each set.

    Args:
        scores: S (K, R, D); m divides D.
        order: order of the columns (K, D), None for the present one.
        n: columns of a group that are kept.
        m: columns of a group.

    Returns:
        The sums (K,), in float64 on the CPU.
    """
    sums = []
    for k, part in enumerate(scores):
        placed = part if order is None else part[:, order[k]]
        top = placed.unflatten(1, (-1, m)).topk(n, dim=2, sorted=False).values
        sums.append(where_double(top).sum(dtype=torch.float64))
    return torch.stack(sums).cpu()


class Search:
    """The groups of all sets, set after set, during a search.

    Attributes:
        x: scores (G, m, R).
        order: column of each position (G, m).
        threshold: threshold of (3) (G, m, R).
        base: base of (3), summed over rows (G, m).
        top: top_n of each group, summed over rows (G,).
    """

    def __init__(self, columns: Tensor, n: int, m: int) -> None:
        """Start from the present order of scores (K, D, R)."""
        sets, width, rows = columns.shape
        self.n, self.sets, self.per_set = n, sets, width // m
        self.x = columns.reshape(-1, m, rows).clone()
        present = torch.arange(width, device=columns.device)
        self.order = present.expand(sets, -1).reshape(-1, m).clone()
        self.threshold = torch.empty_like(self.x)
        self.base = self.x.new_empty(self.x.shape[:2])
        self.top = self.x.new_empty(len(self.x))
        self.renew(torch.arange(len(self.x), device=columns.device))

    @property
    def lost(self) -> float:
        """Return the sum of the scores that (2) does not keep."""
        return (self.x.sum() - self.top.sum()).item()

    def renew(self, groups: Tensor) -> None:
        """Compute threshold, base and top of some groups.

        If more than n scores are equal to the n-th largest, both thresholds are equal: (3) is
        still exact.
        """
        x = self.x[groups]
        largest = x.topk(self.n + 1, dim=1).values
        last, next_one = largest[:, self.n - 1 : self.n], largest[:, self.n :]
        inside = x >= last
        top = largest[:, : self.n].sum(1, keepdim=True)
        self.threshold[groups] = torch.where(inside, next_one, last)
        self.base[groups] = torch.where(inside, top - x + next_one, top).sum(2)
        self.top[groups] = top.sum(2).squeeze(1)

    def round(self, generator: torch.Generator) -> float:
        """Pair the groups of each set at random, make the best exchanges, and return their gain.

        Each pair makes at most one exchange, and none with a negligible gain.
        """
        first, second = self.pairs(generator)
        gains = self.gains(first, second).flatten(1)
        gain, which = gains.max(1)
        good = gain > NEGLIGIBLE * (self.top[first] + self.top[second])
        m = self.x.shape[1]
        first, second, i, j = first[good], second[good], which[good] // m, which[good] % m
        for held in (self.x, self.order):
            held[first, i], held[second, j] = held[second, j], held[first, i]
        self.renew(torch.cat([first, second]))
        return gain[good].sum().item()

    def pairs(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return random pairs of groups (P,), (P,); an odd group of a set has no partner."""
        half = self.per_set // 2
        drawn = [torch.randperm(self.per_set, generator=generator) for _ in range(self.sets)]
        groups = torch.stack([one + k * self.per_set for k, one in enumerate(drawn)])
        groups = groups.to(self.x.device)
        return groups[:, :half].flatten(), groups[:, half : 2 * half].flatten()

    def gains(self, first: Tensor, second: Tensor) -> Tensor:
        """Compute the increase of (2) by every exchange between paired groups.

        Args:
            first: groups (P,).
            second: their partners (P,).

        Returns:
            The gains (P, m, m) of exchanging column i of the first for column j of the second.
        """
        m, rows = self.x.shape[1:]
        before = (self.top[first] + self.top[second]).view(-1, 1, 1)
        gains = self.base[first].unsqueeze(2) + self.base[second].unsqueeze(1) - before
        step = max(1, DIFFERENCE_ELEMENTS // (m * rows))
        for top in range(0, len(first), step):
            part = slice(top, top + step)
            a, b = self.x[first[part]], self.x[second[part]]
            to_a, to_b = self.threshold[first[part]], self.threshold[second[part]]
            for i in range(m):
                gains[part, i] += (b - to_a[:, i : i + 1]).clamp_(min=0).sum(2)
                gains[part, i] += (a[:, i : i + 1] - to_b).clamp_(min=0).sum(2)
        return gains
