"""L1 norm pruning of heads and neurons: those with the smallest weights go, the others stay as they are.

    score  s_j = sum |w| over all weights that leave with head or neuron j

Li et al. (section 3.1) sum over the filter's own weights: here the rows that write j. The columns that read j leave as well, and are
counted too.

References:
    Li et al., "Pruning Filters for Efficient ConvNets", 2017. https://arxiv.org/abs/1608.08710
"""

from torch import Tensor


def l1(
    reads: list[Tensor], writes: list[Tensor], count: int, seed: int = 0
) -> tuple[list[int], list[float]]:
    """Remove the `count` of N heads or neurons with the smallest sum of |w| over everything that leaves with them.

    reads: for each consumer the columns of every head or neuron, (N, ...); writes: for each producer its rows, (N, ...).
    Returns the removed ones, smallest first, and every one's score. The seed of the common signature has no part in it.
    """
    scores = sum(part.float().abs().flatten(1).sum(1) for part in (*reads, *writes))
    return scores.argsort(stable=True)[:count].tolist(), scores.tolist()
