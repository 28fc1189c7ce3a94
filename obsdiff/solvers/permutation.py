"""An order of a layer's inputs in which an n:m pattern keeps more: channel permutation.

    score      S_ij = w_ij^2 H_jj                                          (1)  Wanda's, squared: what weight ij alone adds to the error
    objective  max over orders p of  sum_i sum_g  top_n { S_ip(j) : j in group g }       (2)  (Pool and Yu, section 3, with S for |w|)

Groups are m consecutive columns, so only which columns are together counts. The search starts from the order that is there and
exchanges: in every round groups are paired at random, for each pair all m^2 exchanges of one column for another are tried,
and the best is made if it adds to (2). So (2) never falls. To take x for column i out of a group whose scores in a row are
a_1 >= ... >= a_m leaves it with

    top_n (group without i, with x) = base_i + max(0, x - threshold_i)                    (3)

where base_i is what top_n is without i, and threshold_i the n-th largest of what is left: a_(n+1) if i is one of the n largest, else a_n.
Both are worked out when a group changes, so a pair costs 2 m^2 subtractions a row.

Inputs may be exchanged inside sets alone, such as the channels of one attention head: all sets have as many columns.

K sets, R rows, D columns of a set, m columns of a group, n of them kept, P pairs.

References:
    Pool and Yu, "Channel Permutations for N:M Sparsity", NeurIPS 2021.
    Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2024. https://arxiv.org/abs/2306.11695
"""

import torch
from torch import Tensor

PATIENCE = 12  # rounds that bring next to nothing before the search ends
LITTLE = 1e-5  # of what goes: a round, or an exchange, that brings less brings next to nothing
MAX_EXCHANGES = 200
SAMPLED_ROWS = 512  # of a set by which exchanges are judged: evenly spaced ones, if there are more
DIFFERENCE_ELEMENTS = 2**22  # entries of the differences that are computed together


def permutation(scores: Tensor, n: int, m: int, seed: int = 0) -> Tensor:
    """The order (K, D) in which the columns of each set go, found for scores (K, R, D) that are not negative: place j gets column
    order[k, j]. m divides D. The same for the same scores and seed; never worse by (2) than the order that is there."""
    sets, _, width = scores.shape
    search = Search(sample(scores).transpose(1, 2), n, m)
    generator, idle = torch.Generator().manual_seed(seed), 0
    for _ in range(MAX_EXCHANGES if width > m else 0):
        brought = search.round(generator)
        idle = 0 if brought > LITTLE * search.lost else idle + 1
        if idle == PATIENCE:
            break
    order = search.order.view(sets, width)
    better = kept(scores, order, n, m) >= kept(scores, None, n, m)  # of all rows
    return torch.where(better.unsqueeze(1), order, torch.arange(width, device=order.device))


def sample(scores: Tensor) -> Tensor:
    """At most ROWS rows of each set."""
    rows = scores.shape[1]
    return (
        scores
        if rows <= SAMPLED_ROWS
        else scores[:, torch.arange(SAMPLED_ROWS, device=scores.device) * rows // SAMPLED_ROWS]
    )


def kept(scores: Tensor, order: Tensor | None, n: int, m: int) -> Tensor:
    """(2) of each set (K,) in float64, for scores (K, R, D) and an order (K, D), or None for the one that is there."""
    parts = []
    for k, part in enumerate(scores):
        placed = part if order is None else part[:, order[k]]
        parts.append(
            placed.unflatten(1, (-1, m))
            .topk(n, dim=2, sorted=False)
            .values.sum(dtype=torch.float64)
        )
    return torch.stack(parts)


class Search:
    """The groups on their way: scores x (G, m, R) of all groups, set after set, and for each column what (3) says."""

    def __init__(self, columns: Tensor, n: int, m: int):
        self.n, self.sets, self.per_set = n, columns.shape[0], columns.shape[1] // m
        self.x = columns.reshape(-1, m, columns.shape[2]).clone()
        self.order = (
            torch.arange(columns.shape[1], device=columns.device)
            .expand(self.sets, -1)
            .reshape(-1, m)
            .clone()
        )
        self.threshold, self.base, self.top = (
            torch.empty_like(self.x),
            self.x.new_empty(self.x.shape[:2]),
            self.x.new_empty(len(self.x)),
        )
        self.renew(torch.arange(len(self.x), device=columns.device))

    @property
    def lost(self) -> float:
        """What goes: all scores without those that (2) keeps."""
        return (self.x.sum() - self.top.sum()).item()

    def renew(self, groups: Tensor) -> None:
        """Work out base and threshold of these groups' columns."""
        x = self.x[groups]
        largest = x.topk(self.n + 1, dim=1).values
        last, next_one = largest[:, self.n - 1 : self.n], largest[:, self.n :]
        inside = (
            x >= last
        )  # of equal ones more than n may be: then both thresholds are equal, too, and (3) holds
        top = largest[:, : self.n].sum(1, keepdim=True)
        self.threshold[groups] = torch.where(inside, next_one, last)
        self.base[groups] = torch.where(inside, top - x + next_one, top).sum(2)
        self.top[groups] = top.sum(2).squeeze(1)

    def round(self, generator: torch.Generator) -> float:
        """Pair the groups of each set at random, make the best exchange of every pair that has a good one, and say what it brought."""
        first, second = self.pairs(generator)
        gains = self.gains(first, second).flatten(1)
        gain, which = gains.max(1)
        good = gain > LITTLE * (self.top[first] + self.top[second])
        m = self.x.shape[1]
        first, second, i, j = first[good], second[good], which[good] // m, which[good] % m
        for held in (self.x, self.order):
            held[first, i], held[second, j] = held[second, j], held[first, i]
        self.renew(torch.cat([first, second]))
        return gain[good].sum().item()

    def pairs(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Groups (P,) and the groups they are paired with; with an odd number one of each set sits out."""
        half = self.per_set // 2
        drawn = torch.stack(
            [
                torch.randperm(self.per_set, generator=generator) + k * self.per_set
                for k in range(self.sets)
            ]
        ).to(self.x.device)
        return drawn[:, :half].flatten(), drawn[:, half : 2 * half].flatten()

    def gains(self, first: Tensor, second: Tensor) -> Tensor:
        """What (2) gains by exchanging column i of the first for column j of the second group: (P, m, m)."""
        m, rows = self.x.shape[1:]
        gains = (
            self.base[first].unsqueeze(2)
            + self.base[second].unsqueeze(1)
            - (self.top[first] + self.top[second]).view(-1, 1, 1)
        )
        step = max(1, DIFFERENCE_ELEMENTS // (m * rows))
        for top in range(0, len(first), step):
            part = slice(top, top + step)
            a, b = self.x[first[part]], self.x[second[part]]
            to_a, to_b = self.threshold[first[part]], self.threshold[second[part]]
            for i in range(m):
                gains[part, i] += (b - to_a[:, i : i + 1]).clamp_(min=0).sum(2)
                gains[part, i] += (a[:, i : i + 1] - to_b).clamp_(min=0).sum(2)
        return gains
