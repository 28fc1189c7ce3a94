"""What the layers of a tap are to become as nearly as sparsity allows: their own weights or, in asymmetric calibration, others."""

from torch import Tensor

from ..calibration.hessian import Hessian
from ..config import PruningConfig
from ..errors import NotPositiveDefinite
from ..solvers.asymmetric import asymmetric


def targets_of(
    layer: str, weights: list[Tensor], hessian: Hessian, square: Tensor, config: PruningConfig
) -> tuple[list[Tensor], float]:
    """The aim of each weight (O, I) of a tap, `layer` the first, and the damping that it took; `square` is its H (I, I). Uses up the Hessian's cross
    sums; without any the weights are their own aim, and take none."""
    if hessian.cross is None:
        return weights, 0.0
    try:
        return asymmetric(weights, square, hessian.take_cross_(), config.damping)
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{layer}: {error}") from None
