"""Random pruning of heads and neurons: a lower bound that every method should beat.

    score  s_j ~ U(0, 1), drawn with a seed; the smallest scores are removed

j a head or neuron of N; the weights are not read.

References:
    Mittal et al., "Recovering from Random Pruning", 2018. https://arxiv.org/abs/1801.10447
"""

import torch
from torch import Tensor


def random(
    reads: list[Tensor], writes: list[Tensor], count: int, seed: int = 0
) -> tuple[list[int], list[float]]:
    """Choose `count` of N heads or neurons at random.

    Args:
        reads: for each consumer, the columns of every head or neuron (N, ...); N is read.
        writes: for each producer, the rows of every head or neuron (N, ...); unused.
        count: heads or neurons to remove, 0 to N.
        seed: seed of the draw.

    Returns:
        The removed indices, smallest score first, and all N scores.
    """
    scores = torch.rand(len(reads[0]), generator=torch.Generator().manual_seed(seed))
    return scores.argsort(stable=True)[:count].tolist(), scores.tolist()
