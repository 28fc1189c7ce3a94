"""Low bits: the weights of a layer on grids of 2^b values, by error feedback.

    minimise tr(D A D^T) over Q on the grids, zero where W is,  D = W - Q,  A = H + d I         (1)
    grid of a group   q = s c,  c a whole number of [-2^(b-1), 2^(b-1) - 1]
    even scale        s = 2 max |w| / (2^b - 1)  over the g consecutive weights of a row        (2)
    full scale        s = -w* / 2^(b-1),  w* the weight of the largest |w| there               (2')
    nearest           c = round(w / s)                                                          (3)
    error feedback    c_q = round((W_q + sum_(l < q) D_l U_lq / U_qq) / s_q),  U U^T = A        (4)
                      columns in the order of falling H_qq
    descent           c_q = round((Q_q + (D A)_q / A_qq) / s_q),  again column by column        (5)

(2) and (3) are what torchao rounds to by itself, symmetrically. (2') has the sign that puts w* on
the one code that has no counterpart, so its steps are 15/16 as long with 4 bits; with 8 bits it
gains nothing that shows. It is how llama.cpp scales Q4_0. (4) is GPTQ: with A^-1 = R^T R,
R = U^-1, its repair of the columns to the right by -e_q R_qp / R_qq is the sum of (4), from the
factor of A itself. A removed weight keeps D = 0. (5) sees all columns, and moves a weight only to
where (1) is lower, so it repairs what (4) cannot: errors of the last columns, and those beside
removed weights. It begins with (4), or with (3) for a row where that is better, so the result is
never worse than (3). Its error is measured from the dense weight, so the kept weights go on
repairing the removed ones: pruning, repair and rounding are one problem.

W (O, I) pruned weight, Q (O, I) rounded weight, U, R, A (I, I), H (I, I) Hessian, d the damping,
s (O, I / g), g the group size, b bits, O outputs, I inputs.

References:
    Frantar, Ashkboos, Hoefler, Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative
        Pre-trained Transformers", 2022. https://arxiv.org/abs/2210.17323
    Yao et al., "ZeroQuant: Efficient and Affordable Post-Training Quantization for Large-Scale
        Transformers", 2022 (groups of a row). https://arxiv.org/abs/2206.01861
    Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", 2023 (5).
        https://arxiv.org/abs/2309.01885
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .upper_factor import UpperFactor, upper_factor

BLOCK = 128  # columns after which one product repairs, or reads, all others
PASSES = 3  # of (5)
LEAST_SCALE = torch.finfo(torch.float32).eps  # as torchao has it, for groups of zeros
To = Callable[[Tensor, int], Tensor]  # a column (O,) and its index -> the nearest grid values


@dataclass(frozen=True)
class Grid:
    """The grids of a weight (O, I).

    Attributes:
        bits: b, 2 to 8.
        group: g, a divisor of I.
        scale: s (O, I / g), float32, of values that bfloat16 holds, so that a model in half
            precision has them unchanged. Never 0, of either sign.
    """

    bits: int
    group: int
    scale: Tensor

    @classmethod
    def even(cls, weight: Tensor, bits: int, group: int) -> "Grid":
        """Return the grids (2) of a weight (O, I); `group` divides I."""
        largest = weight.unflatten(1, (-1, group)).abs().amax(2).float()
        scale = (2 * largest / (2**bits - 1)).clamp(min=LEAST_SCALE)
        return cls(bits, group, scale.bfloat16().float())

    @classmethod
    def full(cls, weight: Tensor, bits: int, group: int) -> "Grid":
        """Return the grids (2') of a weight (O, I); `group` divides I."""
        groups = weight.unflatten(1, (-1, group))
        extreme = groups.gather(2, groups.abs().argmax(2, keepdim=True)).squeeze(2).float()
        scale = extreme.abs().div(2 ** (bits - 1)).clamp(min=LEAST_SCALE)
        return cls(bits, group, torch.where(extreme > 0, -scale, scale).bfloat16().float())

    @property
    def range(self) -> tuple[int, int]:
        """The least and the largest code."""
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    def codes(self, weight: Tensor) -> Tensor:
        """Return (3): the codes (O, I), int8, nearest to a weight; of values on a grid their own.

        Values of 16 bits are near enough to the grid for that.
        """
        steps = weight.unflatten(1, (-1, self.group)) / self.wide(weight).unsqueeze(2)
        return steps.round().clamp(*self.range).to(torch.int8).flatten(1)

    def values(self, codes: Tensor, like: Tensor) -> Tensor:
        """Return what codes (O, I) stand for, in the dtype and on the device of `like`."""
        wide = self.wide(like).unsqueeze(2)
        return (codes.to(wide).unflatten(1, (-1, self.group)) * wide).flatten(1).to(like)

    def wide(self, like: Tensor) -> Tensor:
        """Return s (O, I / g) on the device of `like`, at least in float32."""
        return self.scale.to(like.device, torch.promote_types(like.dtype, torch.float32))


def nearest(weight: Tensor, grid: Grid) -> Tensor:
    """Return the grid values (O, I) nearest to a weight; zeros remain zeros."""
    return grid.values(grid.codes(weight), weight)


def gptq(
    weight: Tensor,
    kept: Tensor,
    hessian: Tensor,
    damping: float,
    grid: Grid,
    target: Tensor | None = None,
    passes: int = PASSES,
) -> tuple[Tensor, float]:
    """Return the rounded weight by (4), then (5), and the damping used.

    Args:
        weight: W (O, I), zero outside the mask.
        kept: mask (O, I), True where a weight may differ from zero.
        hessian: H (I, I).
        damping: d, in units of H's mean diagonal.
        grid: the grids of W.
        target: the dense weight (O, I), from which (5) measures errors; default W.
        passes: passes of (5) at most; 0: (4) alone.

    Returns:
        Q (O, I) in the dtype of W, and d in units of H's mean diagonal.

    Raises:
        NotPositiveDefinite: H has entries that are inf or NaN, or the damping ladder fails.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    rows = weight.to(hessian.device, dtype).T.contiguous()  # (I, O): a column is contiguous
    mask = kept.to(hessian.device).T.contiguous()
    to = rounding_to(grid, mask, rows)
    order = hessian.diagonal().argsort(descending=True, stable=True)
    with upper_factor(hessian[order][:, order].contiguous(), damping, dtype) as factor:
        found = fed_back(rows[order], factor, to, order.tolist())[order.argsort()]
        used, added = factor.damping, factor.added
    wanted = rows if target is None else target.to(rows).T.contiguous()
    if passes:
        plain = nearest(weight.to(rows), grid).T
        errors = [errors_of(wanted - way, hessian, added) for way in (plain, found)]
        found = torch.where(errors[0] < errors[1], plain, found)
        found = descended(found, wanted, hessian, added, to, passes)
    return found.T.to(weight.dtype).contiguous(), used


def errors_of(gaps: Tensor, hessian: Tensor, added: float) -> Tensor:
    """Return each row's part (O,) of (1), from D (I, O)."""
    return ((hessian.to(gaps) @ gaps).add_(gaps, alpha=added) * gaps).sum(0)


def rounding_to(grid: Grid, mask: Tensor, like: Tensor) -> To:
    """Return the rounding of one column: to the grids where the mask (I, O) is True, else to 0."""
    scales = grid.wide(like).T.contiguous()
    low, high = grid.range

    def to(column: Tensor, index: int) -> Tensor:
        scale = scales[index // grid.group]
        return (column / scale).round_().clamp_(low, high).mul_(scale).mul_(mask[index])

    return to


def fed_back(rows: Tensor, factor: UpperFactor, to: To, order: list[int]) -> Tensor:
    """Return (4).

    Args:
        rows: W (I, O), in the order of the columns.
        factor: U (I, I), in that order.
        to: rounds a column.
        order: the index of each column.
    """
    u, found = factor.matrix, torch.empty_like(rows)
    carried, gaps = torch.zeros_like(rows), torch.empty_like(rows)  # sum of D_l U_lq, and D
    for left in range(0, len(rows), BLOCK):
        right = min(left + BLOCK, len(rows))
        for q in range(left, right):
            if q > left:
                carried[q].addmv_(gaps[left:q].T, u[left:q, q])
            found[q] = to(rows[q] + carried[q] / u[q, q], order[q])
            torch.sub(rows[q], found[q], out=gaps[q])
        if right < len(rows):
            carried[right:].addmm_(u[left:right, right:].T, gaps[left:right])
    return found


def descended(
    found: Tensor, wanted: Tensor, hessian: Tensor, added: float, to: To, passes: int
) -> Tensor:
    """Return (5) from Q (I, O), after passes over all columns, or once nothing moves.

    Args:
        found: Q (I, O); changed.
        wanted: the dense weight (I, O).
        hessian: H (I, I).
        added: d.
        to: rounds a column.
        passes: at most.
    """
    gaps, least = wanted - found, torch.finfo(found.dtype).tiny  # of an input that is never active
    for _ in range(passes):
        moved = False
        for left in range(0, len(found), BLOCK):
            right = min(left + BLOCK, len(found))
            corner = hessian[left:right, left:right].to(found)
            pulls = hessian[left:right].to(found) @ gaps
            pulls.add_(gaps[left:right], alpha=added)
            moves = torch.zeros_like(pulls)
            for q in range(left, right):
                i = q - left
                pull = pulls[i]
                if i:
                    pull = pull.addmv(moves[:i].T, corner[i, :i], alpha=-1)
                stiffness = (corner[i, i] + added).clamp(min=least)
                new = to(found[q] + pull / stiffness, q)
                torch.sub(new, found[q], out=moves[i])
                found[q] = new
            gaps[left:right] -= moves
            moved = moved or bool(moves.any())
        if not moved:
            break
    return found
