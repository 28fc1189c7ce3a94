"""Least squares behind a gate: the change of a layer that makes up for what is missing after it.

A layer's output y = W x + w is added to a residual stream behind a gate g. What the stream misses
is r. The change D of the weight, and of the bias if there is one, is the solution of

    minimise  sum_t |g_t * (D x_t) - r_t|^2 + d_o |D_o|^2                                      (1)
    D_o (H_o + d_o I) = b_o,  H_o = sum_t g_to^2 x_t x_t^T,  b_o = sum_t g_to r_to x_t^T       (2)

for each row o. H_o differs from row to row by the weights of the tokens alone: they are close to
the weights that all rows have on average, times a constant of the row, so one factor serves all:

    H_o ~ c_o H,  H = sum_t a_t x_t x_t^T,  a_t = mean_o g_to^2,
    c_o = sum_t g_to^2 |x_t|^2 / sum_t a_t |x_t|^2                                             (3)

The right-hand side is exact. With one gate for all tokens of a row, or none (g = 1), so is D.

A row whose gate is nearly closed would change by about r / g: there is no bound, and such a gate is
mostly rounding. Hence c_o, whose mean over the rows is 1, counts as at least LEAST_ENERGY. A row
below it gets the share c_o / LEAST_ENERGY of its change, which still lowers (1), is at most about
r / sqrt(LEAST_ENERGY) with g in units of the mean, and goes to 0 as the gate closes. All other rows
are as above.

D (O, I) change, x (I,) input, with a last entry of 1 for a bias, g, r (O,), t token, * entry by
entry, d_o the damping in units of the mean diagonal of c_o H. O outputs, I inputs.

References:
    Shopkhoev et al., "ReplaceMe: Network Simplification via Depth Pruning and Transformer Block
        Linearization", 2025: a linear map in place of blocks. https://arxiv.org/abs/2505.02819
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NotPositiveDefinite
from .cholesky import is_finite

LEAST_ENERGY = 1e-4  # least c_o, of a gate of a hundredth of the others


@dataclass
class GatedSums:
    """The sums of (2) and (3).

    Attributes:
        hessian: sum_t a_t x_t x_t^T (I, I).
        cross: b (O, I).
        rows: sum_t g_to^2 |x_t|^2 (O,).
        tokens: the number of tokens.
    """

    hessian: Tensor
    cross: Tensor
    rows: Tensor
    tokens: int = 0

    @classmethod
    def of(cls, outputs: int, inputs: int, device: torch.device) -> "GatedSums":
        """Return empty sums, in float32."""
        return cls(
            torch.zeros(inputs, inputs, device=device),
            torch.zeros(outputs, inputs, device=device),
            torch.zeros(outputs, device=device),
        )

    def add_(self, x: Tensor, gate: Tensor, missing: Tensor) -> None:
        """Add tokens.

        Args:
            x: inputs (T, I).
            gate: gates (T, O).
            missing: what the stream misses (T, O).
        """
        x, gate, missing = (part.to(self.cross) for part in (x, gate, missing))
        squares = gate.square()
        self.hessian += (x * squares.mean(1, keepdim=True)).T @ x
        self.cross += (gate * missing).T @ x
        self.rows += squares.T @ x.square().sum(1)
        self.tokens += len(x)

    def change(self, damping: float) -> Tensor:
        """Return D (O, I) of (2) and (3); rows whose gate is closed do not change.

        Args:
            damping: in units of the mean diagonal; above 0.

        Raises:
            NotPositiveDefinite: the sums have inf or NaN, or more damping is needed.
        """
        if not all(map(is_finite, (self.hessian, self.cross, self.rows))):
            raise NotPositiveDefinite(
                "what a repaired layer reads, or what its stream misses, has inf or NaN; use "
                "another dtype"
            )
        square = self.hessian.clone()
        total = square.diagonal().sum()
        if not total > 0:
            return torch.zeros_like(self.cross)
        square.diagonal().add_(damping * square.diagonal().mean())
        lower, info = torch.linalg.cholesky_ex(square)
        if info.item():
            raise NotPositiveDefinite("the inputs of a repaired layer need more damping; raise it")
        found = torch.cholesky_solve(self.cross.T, lower).T
        return found / (self.rows / total).clamp_min(LEAST_ENERGY)[:, None]
