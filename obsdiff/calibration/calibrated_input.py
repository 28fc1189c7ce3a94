"""The sums of one input: its Hessian, and the sums that some settings add.

    H = 2 sum_t alpha_t E[x x^T]                the Hessian                                (I, I)
    G = the same on the held-out prompts        judges the solutions found with H          (I, I)
    C = 2 sum_t alpha_t E[(x* - x) x^T]         x* the same input in the dense model       (I, I)

A pruning may read the I inputs in another order than they were summed in (N:M with permute). The
sums keep their order; every vector or matrix is reordered when it is read.
"""

from dataclasses import dataclass, field, replace

from torch import Tensor

from ..runtime.distributed import Ranks
from .hessian import Hessian, reduce_sums
from .products import add_product_


@dataclass
class CalibratedInput:
    """The sums of the input of one tap.

    Attributes:
        hessian: the sums of the calibration prompts.
        held_out: the sums of the held-out prompts, None without any.
        cross: raw sums of alpha (x* - x) x^T (I, I), None without asymmetric calibration.
        order: the order (I,) in which a pruning reads the inputs; None: as summed.
    """

    hessian: Hessian
    held_out: Hessian | None = field(default=None, repr=False)
    cross: Tensor | None = field(default=None, repr=False)
    order: Tensor | None = None

    @property
    def tokens_per_column(self) -> float:
        """Distinct kept tokens per input column, counted up to a limit."""
        return self.hessian.distinct / self.hessian.columns

    @property
    def tokens(self) -> tuple[int, int]:
        """The number of tokens that were read, and of those that the Hessian sums."""
        return round(self.hessian.samples), self.hessian.kept

    def update_cross(
        self, tokens: Tensor, weight: float, dense: Tensor, represented: float | None = None
    ) -> None:
        """Add the cross sums of one denoising step.

        Args:
            tokens: (B, T, I) or (T, I).
            weight: alpha of the step.
            dense: the same tokens in the dense model.
            represented: the number of tokens that they stand for (None: themselves).
        """
        assert self.cross is not None
        x = self.hessian.x
        rows = tokens.reshape(-1, len(x)).to(x)
        each = weight if represented is None else weight * (represented / len(rows))
        change = dense.reshape(-1, len(x)).to(rows) - rows
        add_product_(self.cross, change, rows, each)

    def reduce_(self, ranks: Ranks, owner: int | None) -> None:
        """Add the sums of all processes, at `owner` or, for None, in every process."""
        self.hessian.reduce_(ranks, owner)
        if self.cross is not None and ranks.size > 1:
            reduce_sums([self.cross], owner)
            if owner not in (None, ranks.rank):
                self.cross = None

    def share(self) -> None:
        """Mark the sums as read by several prunings: none of them may use up their memory."""
        self.hessian.shared = True
        if self.held_out:
            self.held_out.shared = True

    def reordered(self, order: Tensor) -> "CalibratedInput":
        """Return the sums read in the order (I,): input i is input order[i] of the sums."""
        return replace(self, order=order.to(self.hessian.x.device))

    def placed(self, sums: Tensor) -> Tensor:
        """Return a vector (I,) or matrix (I, I) of the sums in the order of this pruning."""
        if self.order is None:
            return sums
        return sums[self.order] if sums.dim() == 1 else sums[self.order.unsqueeze(1), self.order]

    def matrix(self) -> Tensor:
        """Return H (I, I)."""
        return self.placed(self.hessian.matrix())

    def diagonal(self) -> Tensor:
        """Return the diagonal of H (I,)."""
        return self.placed(self.hessian.diagonal())

    def mean(self) -> Tensor:
        """Return the weighted mean (I,) of every input."""
        return self.placed(self.hessian.mean())

    def variance(self) -> Tensor:
        """Return the weighted variance (I,) of every input."""
        return self.placed(self.hessian.variance())

    def take_(self) -> Tensor:
        """Return H (I, I); releases the memory of its sums, unless they are shared."""
        return self.placed(self.hessian.take_())

    def take_held_out_(self) -> Tensor | None:
        """Return G (I, I), or None; releases the memory of its sums, unless they are shared."""
        return self.placed(self.held_out.take_()) if self.held_out else None

    def take_cross_(self) -> Tensor:
        """Return C (I, I), in the memory of its sums."""
        assert self.cross is not None
        cross, self.cross = self.cross.mul_(2.0 / max(1, self.hessian.samples)), None
        return cross
