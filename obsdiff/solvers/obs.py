"""Optimal Brain Surgeon for a whole layer: unstructured and n:m.

    minimise ||W X - W' X||^2 over sparse W', Hessian of every row H = 2 X X^T     (OBS-Diff)

    saliency of weight q       L_q = w_q^2 / (2 [H^-1]_qq)                           (1)
    repair by the others       dw  = -(w_q / [H^-1]_qq) H^-1[:, q]                   (2)

All rows share one order, the columns from left to right. A column that has been passed is fixed;
the columns to its right repair its removals. Then row q of R, the upper Cholesky factor of
H^-1 = R^T R, contains all terms of (1) and (2) at column q: [H^-1]_qq = R_qq^2 and
H^-1[:, q] = R_qq R[q, :], where H is restricted to the columns from q on. R is the inverse of the
upper factor of H (upper_factor.py), of which the sweep inverts small corners alone (sweep.py). One
factor serves every row, and every matrix that reads the same input.

W (O, I) weight, W' (O, I) pruned, O outputs, I inputs, X (I, T) inputs, H, R (I, I).

Columns are pruned in blocks of BLOCK with one saliency threshold over all rows of a matrix, so that
every block has the target sparsity. N:m groups are chosen when the sweep reaches them.

The factor of a float32 H is computed in float32 if that is exact enough, else in float64. The sweep
is computed in float32, or in float64 if the weights are float64.

References:
    Hassibi, Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", 1992.
    Frantar, Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
        2023. https://arxiv.org/abs/2301.00774
    Zhu et al., "OBS-Diff: Accurate Pruning for Diffusion Models in One-Shot", 2025.
        https://arxiv.org/abs/2510.06751
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .masks import lowest, lowest_in_groups
from .problem import Inputs, Solution, Target, undamped
from .sweep import Choose, Plan, swept
from .upper_factor import UpperFactor, upper_factor

BLOCK = 128  # columns with one saliency threshold
STACKED = 2**23  # weights that one sweep takes to several targets at once
DEVICE_STACKED = 2**24  # the same on an accelerator, where launches are what small sweeps cost


def obs(weights: list[Tensor], inputs: Inputs, target: Target) -> list[Solution]:
    """Prune matrices that read the same input by Optimal Brain Surgeon.

    Without compensation, (1) is evaluated on the original weights and no weight is repaired.

    Args:
        weights: matrices (O, I), each pruned to the target by itself.
        inputs: statistics of the I inputs; only the Hessian (I, I) is read. Its upper triangle is
            used for the factor, and restored.
        target: share to remove, or an n:m group; damping; whether to compensate.

    Returns:
        One solution a matrix, in the same order, in the weights' dtypes.

    Raises:
        NotPositiveDefinite: H has entries that are inf or NaN, or the damping ladder fails.
    """
    with upper_factor(inputs.hessian, target.damping, dtype_of(weights)) as factor:
        return solutions_of(weights, factor, [target])[0]


def obs_each(
    weights: list[Tensor], inputs: Inputs, targets: list[Target]
) -> Iterator[list[Solution]]:
    """Yield the solutions of `obs` for one target after the other, all from one factor.

    A sweep takes copies of small matrices to several targets at once.

    Args:
        weights: matrices (O, I), each pruned to every target by itself.
        inputs: statistics of the I inputs; only the Hessian (I, I) is read.
        targets: targets that differ in the share to remove alone.

    Raises:
        NotPositiveDefinite: as for `obs`, at the first target.
    """
    hessian = inputs.hessian.clone()  # the caller may read H between two targets
    with upper_factor(hessian, targets[0].damping, dtype_of(weights)) as factor:
        room = STACKED if hessian.device.type == "cpu" else DEVICE_STACKED
        copies = max(1, room // max(1, sum(w.numel() for w in weights)))
        for first in range(0, len(targets), copies):
            yield from solutions_of(weights, factor, targets[first : first + copies])


def dtype_of(weights: list[Tensor]) -> torch.dtype:
    """Return the dtype of the sweep."""
    return torch.promote_types(weights[0].dtype, torch.float32)


def solutions_of(
    weights: list[Tensor], factor: UpperFactor, targets: list[Target]
) -> list[list[Solution]]:
    """Sweep matrices (O, I) that read the same input, a copy of them for each target.

    The sweep has the squared error, too, of weights that are not rounded after it.

    Args:
        weights: matrices (O, I).
        factor: of the damped Hessian (I, I).
        targets: targets that differ in the share to remove alone.

    Returns:
        The solutions of each target.
    """
    (group, compensate), sizes = shared_by(targets), [len(w) for w in weights]
    width, m = BLOCK, group[1] if group else None
    if m:
        width = -(-BLOCK // m) * m  # rounded up to whole groups
    copies = weights * len(targets)
    found = swept(copies, factor, Plan(chooser(sizes, targets), width, m, compensate))
    exact = compensate and all(w.dtype == factor.matrix.dtype for w in weights)
    figures = list(zip(found.losses, found.changes, strict=True))
    errors = [undamped(*one, factor.added) if exact else None for one in figures]
    parts = zip(found.weights, found.kept, found.losses, errors, strict=True)
    solutions = [
        Solution(weight, kept, loss, factor.damping, error) for weight, kept, loss, error in parts
    ]
    return [solutions[i : i + len(weights)] for i in range(0, len(solutions), len(weights))]


def shared_by(targets: list[Target]) -> tuple[tuple[int, int] | None, bool]:
    """Return group and compensation of targets; ValueError if two of them differ."""
    found = {(target.group, target.compensate) for target in targets}
    if len(found) != 1:
        raise ValueError(f"expected targets that differ in their shares alone, found {found}")
    return found.pop()


def chooser(sizes: list[int], targets: list[Target]) -> Choose:
    """Return the choice of weights: in each n:m group, or by a threshold for each matrix.

    Args:
        sizes: rows of each matrix.
        targets: of each copy of the matrices.
    """
    if targets[0].group:
        n, m = targets[0].group
        return lambda saliency: lowest_in_groups(saliency.T, n, m).T
    shares = [target.removed for target in targets for _ in sizes]
    rows = sizes * len(targets)
    return lambda saliency: torch.cat(
        [
            lowest(part, round(share * part.numel()))
            for part, share in zip(saliency.split(rows, 1), shares, strict=True)
        ],
        1,
    )
