"""L1 norm pruning of heads and neurons: the smallest are removed, the others stay unchanged.

    score  s_j = sum |w| over all weights that are removed with head or neuron j

Li et al. (section 3.1) sum over the filter's own weights: here the rows that write j. The columns
that read j are removed with it, and are counted too.

j a head or neuron of N, w a weight of its columns (N, ...) in a consumer or its rows (N, ...) in a
producer.

References:
    Li et al., "Pruning Filters for Efficient ConvNets", 2017. https://arxiv.org/abs/1608.08710
"""

import torch
from torch import Tensor


def l1(
    reads: list[Tensor], writes: list[Tensor], count: int, seed: int = 0
) -> tuple[list[int], list[float]]:
    """Choose the `count` of N heads or neurons with the smallest sum of absolute weights.

    Args:
        reads: for each consumer, the columns of every head or neuron (N, ...).
        writes: for each producer, the rows of every head or neuron (N, ...).
        count: heads or neurons to remove, 0 to N.
        seed: unused; part of the common signature.

    Returns:
        The removed indices, smallest score first, and all N scores.
    """
    norms = (part.float().abs().flatten(1).sum(1) for part in (*reads, *writes))
    scores = sum(norms, start=torch.zeros(()))
    return scores.argsort(stable=True)[:count].tolist(), scores.tolist()
