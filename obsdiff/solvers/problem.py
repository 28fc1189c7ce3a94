"""What every solver is asked for and what it answers.

A solver is called as `solver(weights, inputs, target)`: weights is a list of matrices (O, I) that read the same input (q, k
and v projections), inputs is what calibration knows of that input. Each matrix is pruned to the target by itself.
"""

from dataclasses import dataclass

from torch import Tensor

ERROR_ROWS = 256  # of a weight whose error is computed together


@dataclass(frozen=True)
class Inputs:
    """What calibration knows of a layer's I inputs: the Hessian (I, I), the mean (I,) and the variance (I,) of each."""

    hessian: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Target:
    """Share of weights to remove, or the n:m group (n, m): at most n non-zeros in every m consecutive inputs. For solvers that
    repair what stays: the damping, added to the Hessian's diagonal in units of its mean, and whether to repair at all."""

    removed: float
    group: tuple[int, int] | None = None
    damping: float = 0.01
    compensate: bool = True


@dataclass(frozen=True)
class Solution:
    """A pruned weight (O, I), True where it was kept (O, I), the sum of the removed saliencies, and the damping used."""

    weight: Tensor
    kept: Tensor
    loss: float
    damping: float


def layer_error(weight: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    """tr(D H D^T) / tr(W H W^T) with D the change of W: the share of the layer's output energy that pruning changed."""
    whole = squared_error(weight, None, hessian)
    return squared_error(weight, pruned, hessian) / whole if whole > 0 else 0.0


def squared_error(weight: Tensor, pruned: Tensor | None, hessian: Tensor) -> float:
    """tr(D H D^T) with D the change of W, or W itself if it is pruned to nothing (None). Of the symmetric H the lower triangle, in panels:
    what is below the diagonal counts twice. ROWS rows of W at a time."""
    total = hessian.new_zeros(())
    for top in range(0, len(weight), ERROR_ROWS):
        d = weight[top : top + ERROR_ROWS].to(hessian)
        if pruned is not None:
            d = d - pruned[top : top + ERROR_ROWS].to(hessian)
        for left in range(0, len(hessian), ERROR_ROWS):
            right = min(left + ERROR_ROWS, len(hessian))
            product = d[:, left:right] @ hessian[left:right, left:right]
            product.addmm_(d[:, right:], hessian[right:, left:right], alpha=2)
            total += (product * d[:, left:right]).sum()
    return total.item()
