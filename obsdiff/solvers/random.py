"""Random pruning of heads and neurons: the floor that every method has to beat.

References:
    Mittal et al., "Recovering from Random Pruning", 2018. https://arxiv.org/abs/1801.10447
"""

import torch
from torch import Tensor


def random(
    reads: list[Tensor], writes: list[Tensor], count: int, seed: int = 0
) -> tuple[list[int], list[float]]:
    """Remove `count` of N heads or neurons, drawn with the seed. Arguments and result as in l1; the scores are the draw."""
    scores = torch.rand(len(reads[0]), generator=torch.Generator().manual_seed(seed))
    return scores.argsort(stable=True)[:count].tolist(), scores.tolist()
