"""One layer, unstructured or n:m, column after column.

    saliency of weight q of a row   w_q^2 / [R]_qq^2,   R upper triangular, R^T R = (H + damping)^-1
    repair                          w[q:] -= w_q / R_qq  R[q, q:]

W (O, I), H (I, I). R comes from three factorisations: of H, of its inverse made of that factor, and
again. Blocks of 128 columns, each with the threshold of its sorted saliencies over all rows; the
groups of n:m are chosen when the sweep reaches them.

References:
    Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
        One-Shot", 2023. https://arxiv.org/abs/2301.00774
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

import torch
from torch import Tensor

BLOCK = 128  # a multiple of every m of n:m
DAMPING = 0.01


def solve(
    weight: Tensor,
    hessian: Tensor,
    sparsity: float,
    group: tuple[int, int] | None = None,
    damping: float = DAMPING,
) -> Tensor:
    """The pruned weight (O, I), its zeros the removed ones. group (n, m): at most n non-zeros in m
    consecutive columns."""
    rows, factor = prepare(weight, hessian, damping)
    for left in range(0, rows.shape[1], BLOCK):
        right = min(left + BLOCK, rows.shape[1])
        block, errors = rows[:, left:right].clone(), torch.zeros_like(rows[:, left:right])
        inside = factor[left:right, left:right]
        away = (
            torch.zeros_like(block, dtype=torch.bool)
            if group
            else below_threshold(block, inside, sparsity)
        )
        for q in range(right - left):
            if group and q % group[1] == 0:
                away[:, q : q + group[1]] = weakest_of_group(
                    block[:, q : q + group[1]], inside.diagonal()[q : q + group[1]], *group
                )
            removed = torch.where(away[:, q], block[:, q], 0)
            errors[:, q] = removed / inside[q, q]
            block[:, q:] -= errors[:, q].unsqueeze(1).matmul(inside[q, q:].unsqueeze(0))
            block[away[:, q], q] = 0
        rows[:, left:right] = block
        rows[:, right:] -= errors.matmul(factor[left:right, right:])
    return rows.to(weight.dtype)


def prepare(weight: Tensor, hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """A copy of the weight (O, I) in H's format, with zeros where the input always is zero, and R
    (I, I)."""
    rows = weight.to(hessian.dtype, copy=True)
    rows[:, hessian.diagonal() == 0] = 0
    return rows, upper_factor(damped(hessian, damping))


def damped(hessian: Tensor, damping: float) -> Tensor:
    """A copy of H with 1 on its diagonal where the input always is zero, then the damping in units
    of the mean diagonal."""
    hessian = hessian.clone()
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    hessian.diagonal().add_(damping * hessian.diagonal().mean())
    return hessian


def upper_factor(hessian: Tensor) -> Tensor:
    """R (I, I), upper triangular with R^T R = H^-1. One variable for all three, as in SparseGPT's
    code: each is freed when the next exists."""
    hessian = torch.linalg.cholesky(hessian)
    hessian = torch.cholesky_inverse(hessian)
    return torch.linalg.cholesky(hessian, upper=True)


def below_threshold(block: Tensor, inside: Tensor, sparsity: float) -> Tensor:
    """True for the weights of a block (O, columns) whose saliency lies below the block's
    threshold."""
    saliency = block.square() / inside.diagonal().square()
    ordered = torch.sort(saliency.flatten()).values
    return saliency < ordered[round(sparsity * saliency.numel())]


def weakest_of_group(weights: Tensor, diagonal: Tensor, n: int, m: int) -> Tensor:
    """True for the m - n least salient of m columns in every row: (O, m)."""
    saliency = weights.square() / diagonal.square()
    away = torch.zeros_like(saliency, dtype=torch.bool)
    return away.scatter_(1, saliency.topk(m - n, dim=1, largest=False).indices, True)
