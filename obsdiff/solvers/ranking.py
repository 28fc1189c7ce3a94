"""Which heads and neurons leave first, and how many at a time: two rankings.

`EQUATIONS`, as the paper writes it:

    head j      L_j = sum over its columns k of ||W[:, k]||^2 / (2 [H^-1]_kk)          (1)
    fusion      S_j = sum over streams of 1 / (60 + rank), most important first        (2)
                the smallest S_j leaves
    neurons     in groups of an eighth of those that remain to be removed, at least 8

`AUTHORS`, as the paper's published code does it:

    head j      L_j = sum over its columns k of ||W[:, k]||^2 / (2 C_kk^2),
                C the Cholesky factor of the head's block of H^-1                      (3)
    fusion      (2) with the least important first: the largest S_j leaves; of equal ones that
                which the first stream ranks less important
    neurons     in groups of b, between 64 and 1,024; b is (m - 512) / 2, rounded down, where m is
                the number to remove for the first group, and the b before for every other

C_kk^2 is [H^-1]_kk given the head's columns before k, so (3) depends on the order of the columns in
a head, where (1) does not. With one stream a head's loss is its importance in both.

W (O, I), H (I, I), C (D, D), D columns of a head, S and L (N,) for the N heads left.

References:
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751; code: https://github.com/Alrightlone/OBS-Diff (3383a4f)
    Cormack et al., "Reciprocal rank fusion outperforms Condorcet and individual rank learning
        methods", 2009.
    Ling et al., "SlimGPT: Layer-wise Structured Pruning for Large Language Models", 2024.
        https://arxiv.org/abs/2412.18110
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

RRF = 60  # k of reciprocal rank fusion
LAST_PART = 8  # size of the last groups of neurons
PARTS_LEFT = 8  # a group of neurons is this part of those that remain to be removed
SMALLEST, LARGEST, LESS = 64, 1024, 512  # groups of neurons of the authors' code


class Ranking(NamedTuple):
    """How heads and neurons are ranked.

    Attributes:
        conditional: whether a head's loss conditions each column on those before it, (3).
        fuse: the losses (N,) in every stream -> one importance (N,); the least one leaves.
        groups: number of neurons to remove -> the sizes of their groups, which sum to it.
    """

    conditional: bool
    fuse: Callable[[list[Tensor]], Tensor]
    groups: Callable[[int], Iterator[int]]


def fused(losses: list[Tensor]) -> Tensor:
    """Return one importance (N,) from the losses (N,) in every stream, by (2)."""
    if len(losses) == 1:
        return losses[0]
    return reciprocal_sum([-loss for loss in losses])


def fused_as_authors(losses: list[Tensor]) -> Tensor:
    """Return each head's place (N,) in the order of removal, the largest (2) first.

    With one stream it is the loss itself.
    """
    if len(losses) == 1:
        return losses[0]
    by_first = losses[0].argsort(stable=True).cpu()
    order = by_first[reciprocal_sum(losses)[by_first].argsort(descending=True, stable=True)]
    return order.argsort()


def reciprocal_sum(losses: list[Tensor]) -> Tensor:
    """Return the sum (N,) of 1 / (60 + rank) over streams, on the CPU; the least loss is first."""
    ranks = [loss.argsort(stable=True).argsort().cpu().double() + 1 for loss in losses]
    return torch.stack([1 / (RRF + rank) for rank in ranks]).sum(0)


def shrinking_groups(count: int) -> Iterator[int]:
    """Yield the sizes of groups of neurons, each an eighth of those that remain to be removed."""
    while count:
        size = min(count, max(LAST_PART, count // PARTS_LEFT))
        yield size
        count -= size


def groups_as_authors(count: int) -> Iterator[int]:
    """Yield the sizes of groups of neurons of the authors' code."""
    block = count
    while count:
        block = (block - LESS) // 2
        size = min(count, max(block, SMALLEST), LARGEST)
        yield size
        count -= size


EQUATIONS = Ranking(False, fused, shrinking_groups)
AUTHORS = Ranking(True, fused_as_authors, groups_as_authors)
RANKINGS = {"equations": EQUATIONS, "authors": AUTHORS}
