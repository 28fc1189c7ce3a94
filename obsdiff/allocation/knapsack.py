"""The steps of each group that together save enough: a knapsack with one choice a group.

    minimise    sum_g e_g(k_g)
    subject to  sum_g s_g(k_g) >= S                                                              (1)

e_g(k) is the error of group g after k steps, s_g(k) their saving in parameters, operations, bytes
or seconds. Dynamic programming over the saving in cells of size c: B_g(j) is the least error with
which the first g groups save at least j cells,

    B_g(j) = min_k  e_g(k) + B_(g-1)(max(0, j - s_g(k) / c))                                     (2)

The answer is exact if all savings are whole multiples of a cell. Else they are rounded down, so
that enough is saved, and steps that are not needed are undone.

N groups, K steps, S the saving required.

References:
    Kurtic et al., "ZipLM: Inference-Aware Structured Pruning of Language Models", 2023.
        https://arxiv.org/abs/2302.04089
"""

import math

import torch

Rows = list[list[float]]
CELLS = 1 << 14  # the number of cells at most


def cheapest_saving(errors: Rows, savings: Rows, wanted: float) -> list[int]:
    """Return the steps (N,) of (1).

    Args:
        errors: the errors of each group after 0, 1, ... K steps, ascending; K may differ.
        savings: the savings of each group after 0, 1, ... K steps, ascending.
        wanted: S, in the unit of the savings.

    Raises:
        ValueError: all steps together save less.
    """
    most = sum(row[-1] for row in savings)
    if most < wanted:
        raise ValueError(f"all steps together save {most:g}, less than {wanted:g}")
    if wanted <= 0:
        return [0] * len(errors)
    cells, needed = in_cells(savings, wanted)
    steps = by_cells(errors, cells, needed)
    return undo_spare_steps(errors, savings, wanted, filled_up(errors, savings, wanted, steps))


def in_cells(savings: Rows, wanted: float) -> tuple[list[list[int]], int]:
    """Return the savings and S in cells.

    A cell is the greatest common divisor of the savings, if S has at most CELLS of them.
    """
    every = [saved for row in savings for saved in row]
    grain = math.gcd(*map(int, every)) if all(float(saved).is_integer() for saved in every) else 0
    if grain and wanted <= grain * CELLS:
        return [[int(saved) // grain for saved in row] for row in savings], math.ceil(
            wanted / grain
        )
    cells = [[math.floor(saved / wanted * CELLS) for saved in row] for row in savings]
    return cells, min(CELLS, sum(row[-1] for row in cells))


def by_cells(errors: Rows, cells: list[list[int]], needed: int) -> list[int]:
    """Return the steps (N,) with the least sum of errors that save `needed` cells, by (2)."""
    best = torch.full((needed + 1,), torch.inf, dtype=torch.float64)
    best[0] = 0
    taken = []
    for row, saved in zip(errors, cells, strict=True):
        tries = torch.empty(len(row), needed + 1, dtype=torch.float64)
        for k, error in enumerate(row):
            most = min(saved[k], needed)
            tries[k, :most] = best[0] + error
            tries[k, most:] = best[: needed + 1 - most] + error
        best, which = tries.min(0)
        taken.append(which.short())
    found, left = [], needed
    for saved, which in zip(reversed(cells), reversed(taken), strict=True):
        found.append(int(which[left]))
        left = max(0, left - saved[found[-1]])
    return found[::-1]


def filled_up(errors: Rows, savings: Rows, wanted: float, steps: list[int]) -> list[int]:
    """Add steps, those with the least error per saving first, until S is saved after rounding."""
    steps = list(steps)
    while (short := wanted - total(savings, steps)) > 0:
        ways = []
        for i, (row, saved) in enumerate(zip(errors, savings, strict=True)):
            k = next((k for k in range(steps[i] + 1, len(row)) if saved[k] > saved[steps[i]]), None)
            if k:
                ways.append(
                    ((row[k] - row[steps[i]]) / min(short, saved[k] - saved[steps[i]]), i, k)
                )
        if not ways:  # no step is left: the rest is the rounding of a sum
            return steps
        _, i, k = min(ways)
        steps[i] = k
    return steps


def undo_spare_steps(errors: Rows, savings: Rows, wanted: float, steps: list[int]) -> list[int]:
    """Undo steps that are not needed, those with the largest error first."""
    steps = list(steps)
    while True:
        spare = total(savings, steps) - wanted
        ways = [
            (errors[i][k] - errors[i][k - 1], -i)
            for i, k in enumerate(steps)
            if k and savings[i][k] - savings[i][k - 1] <= spare
        ]
        if not ways:
            return steps
        steps[-max(ways)[1]] -= 1


def total(rows: Rows, steps: list[int]) -> float:
    """Return the sum over the groups after their steps."""
    return sum(row[k] for row, k in zip(rows, steps, strict=True))
