"""The problem that every solver solves, its result, and the error of a layer.

    minimise tr(D H D^T) over sparse W',  D = W' - W                                 (1)
    layer error  tr(D H D^T) / tr(W H W^T)                                           (2)

With H = 2 X X^T, (1) is twice the squared error of the layer's outputs on the calibration inputs.
A solver is called as `solver(weights, inputs, target)`. `weights` is a list of matrices (O, I) that
read the same input, for example the q, k and v projections; each is pruned to the target by itself.

W (O, I) weight, W' (O, I) pruned weight, O outputs, I inputs, X (I, T) inputs, T tokens,
H (I, I) Hessian of one output row.

References:
    Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
        2023. https://arxiv.org/abs/2301.00774
"""

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import NotPositiveDefinite

LEAST_SHARE = 0.01  # of tr(D A D^T) that tr(D H D^T) has to have: then 2e-4 of it is rounding
ERROR_ROWS = 256  # rows of a weight, and columns of the Hessian, that one product covers
DEVICE_ERROR_ROWS = 2048  # the same on an accelerator


@dataclass(frozen=True)
class Inputs:
    """Calibration statistics of a layer's I inputs.

    Attributes:
        hessian: H (I, I), symmetric.
        mean: mean of each input (I,).
        variance: variance of each input (I,).
    """

    hessian: Tensor
    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Target:
    """Weights to remove, and how to repair the others.

    Attributes:
        removed: share of the weights to remove, 0 to 1; ignored if `group` is set.
        group: (n, m): at most n non-zeros in every m consecutive inputs; None if unstructured.
        damping: added to the Hessian's diagonal, in units of its mean; at least 0.
        compensate: whether the kept weights are changed to compensate for the removed ones.
    """

    removed: float
    group: tuple[int, int] | None = None
    damping: float = 0.01
    compensate: bool = True


@dataclass(frozen=True)
class Solution:
    """A pruned weight.

    Attributes:
        weight: W' (O, I), in the dtype of W.
        kept: mask (O, I), True where a weight is kept.
        loss: sum of the removed saliencies, in the unit of (1) / 2.
        damping: damping used, in units of the Hessian's mean diagonal; 0 if none.
        squared_error: the value of (1), if the solver has it; None: to be computed.
        low_rank: a correction beside it, U (O, R) and V (R, I), in the dtype of H; None without.
    """

    weight: Tensor
    kept: Tensor
    loss: float
    damping: float
    squared_error: float | None = None
    low_rank: tuple[Tensor, Tensor] | None = None

    @property
    def whole(self) -> Tensor:
        """W' + U V (O, I): what the layer multiplies by."""
        if self.low_rank is None:
            return self.weight
        up, down = self.low_rank
        return self.weight.to(up) + up @ down


def layer_error(weight: Tensor, pruned: Tensor, hessian: Tensor) -> float:
    """Return the relative layer error (2): the share of the output energy that pruning changed.

    Args:
        weight: W (O, I).
        pruned: W' (O, I).
        hessian: H (I, I).

    Returns:
        The error, at least 0; 0.0 if the layer's outputs have no energy.

    Raises:
        NotPositiveDefinite: the energy is no finite number.
    """
    energy = output_energy(weight, hessian)
    return relative_error(squared_error(weight, pruned, hessian), energy)


def output_energy(weight: Tensor, hessian: Tensor) -> float:
    """Return tr(W H W^T), the energy of the layer's outputs.

    Raises:
        NotPositiveDefinite: the energy is no finite number.
    """
    energy = squared_error(weight, None, hessian)
    if not math.isfinite(energy):
        raise NotPositiveDefinite(
            f"the energy of the layer's outputs is {energy}: its Hessian or weight has inf or NaN"
        )
    return energy


def relative_error(squared: float, energy: float) -> float:
    """Return (2) from (1) and the energy of the outputs; 0.0 if they have none."""
    return squared / energy if energy > 0 else 0.0


def undamped(loss: float, change: float, added: float) -> float | None:
    """Return the squared error (1) from the loss of a solver that repairs with A = H + d I.

    Then tr(D A D^T) is twice the loss, and tr(D H D^T) = 2 loss - d ||D||^2.

    Args:
        loss: half of tr(D A D^T).
        change: ||D||^2.
        added: d.

    Returns:
        The squared error; None if the damping has so large a share that rounding decides.
    """
    squared = 2 * loss - added * change
    return squared if squared > LEAST_SHARE * 2 * loss else None


def squared_error(weight: Tensor, pruned: Tensor | None, hessian: Tensor) -> float:
    """Return tr(D H D^T), computed in H's dtype on H's device.

    H is symmetric: panels of its lower triangle are read, and those below the diagonal count twice.

    Args:
        weight: W (O, I).
        pruned: W' (O, I), or None for a weight that is pruned to zero.
        hessian: H (I, I).

    Returns:
        The value of (1).
    """
    total = hessian.new_zeros(())
    step = ERROR_ROWS if hessian.device.type == "cpu" else DEVICE_ERROR_ROWS
    for top in range(0, len(weight), step):
        d = weight[top : top + step].to(hessian)
        if pruned is not None:
            d = d - pruned[top : top + step].to(hessian)
        for left in range(0, len(hessian), step):
            right = min(left + step, len(hessian))
            product = d[:, left:right] @ hessian[left:right, left:right]
            product.addmm_(d[:, right:], hessian[right:, left:right], alpha=2)
            total += (product * d[:, left:right]).sum()
    return total.item()
