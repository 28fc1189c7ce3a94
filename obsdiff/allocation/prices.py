"""The steps of each group that save enough of several resources, by Lagrange multipliers (prices).

    minimise  sum_g e_g(k_g)   subject to  sum_g k_g s_gr >= w_r  for every resource r         (1)

Each of the steps k_g = 0, 1, 2 ... of group g saves s_gr of resource r (parameters,
multiply-accumulates); its error is then e_g(k_g). With a price p_r on each resource the groups
separate,

    k_g = argmin_k  e_g(k) - k sum_r p_r s_gr                                                  (2)

The prices are p times a mix of the resources, with the least p that saves enough. Several mixes are
tried. Steps that are not needed are undone, those with the largest error first; the cheapest
solution is returned.

G groups, K steps at most, R resources.

References:
    Everett, "Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation of
        Resources", 1963.
    Kurtic et al., "ZipLM: Inference-Aware Structured Pruning of Language Models", 2023.
        https://arxiv.org/abs/2302.04089
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from .bisection import bisect

MULTIPLIER_BISECTIONS = 60
MIXES = 20  # steps between the price of one resource and that of another
LARGEST_PRICE = 1e300  # a price at which (2) is all steps of every group
SAVED_ROUNDING = 1e-9  # relative rounding of the saving


def cheapest_steps(errors: list[list[float]], savings: Tensor, wanted: Tensor) -> list[int] | None:
    """Return the steps of every group by (1); None if all steps together save less.

    Args:
        errors: errors[g][k] is the error of group g after k steps.
        savings: the saving of one step of each group (G, R).
        wanted: the amounts to save (R,).
    """
    costs = padded(errors)
    savings, wanted = savings.double(), wanted.double()
    most = torch.tensor([len(row) - 1 for row in errors])
    if not enough(most, savings, wanted):
        return None
    units = savings / wanted.where(wanted > 0, torch.inf)  # 0 if none is wanted
    found = [most]
    for mix in mixes(len(wanted)):
        steps = least_price(costs, units @ mix, savings, wanted)
        if steps is not None:
            found.append(undo_spare_savings(steps, costs, savings, wanted))
    return min(found, key=lambda steps: cost_of_steps(steps, costs)).tolist()


def padded(errors: list[list[float]]) -> Tensor:
    """Return the errors as a matrix (G, K + 1), inf where a group has fewer steps."""
    costs = torch.full((len(errors), max(map(len, errors))), torch.inf, dtype=torch.float64)
    for row, values in zip(costs, errors, strict=True):
        row[: len(values)] = torch.tensor(values, dtype=torch.float64)
    return costs


def mixes(resources: int) -> Iterator[Tensor]:
    """Yield shares (R,) of the resources in the price; they sum to one."""
    for parts in itertools.product(range(MIXES + 1), repeat=resources - 1):
        if sum(parts) <= MIXES:
            yield torch.tensor([*parts, MIXES - sum(parts)], dtype=torch.float64) / MIXES


def least_price(costs: Tensor, values: Tensor, savings: Tensor, wanted: Tensor) -> Tensor | None:
    """Return the steps (G,) by (2) at the least price that saves enough; None if no price does.

    Args:
        costs: the errors (G, K + 1).
        values: the saving of one step of each group (G,), in the mix of the price.
        savings: the saving of one step of each group (G, R).
        wanted: the amounts to save (R,).
    """
    counts = torch.arange(costs.shape[1], dtype=torch.float64)

    def answer(price: float) -> Tensor:
        return (costs - price * values.unsqueeze(1) * counts).argmin(1)

    low, high = 0.0, 1.0
    while not enough(answer(high), savings, wanted):
        high *= 10
        if high > LARGEST_PRICE:
            return None
    _, high = bisect(
        lambda price: not enough(answer(price), savings, wanted), low, high, MULTIPLIER_BISECTIONS
    )
    return answer(high)


def undo_spare_savings(steps: Tensor, costs: Tensor, savings: Tensor, wanted: Tensor) -> Tensor:
    """Undo steps that are not needed, those with the largest error first."""
    steps = steps.clone()
    while True:
        spare = (savings.T.double() @ steps.double()) - wanted
        free = (steps > 0) & (savings <= spare + SAVED_ROUNDING * wanted).all(1)
        gains = costs.gather(1, steps.unsqueeze(1)).squeeze(1) - costs.gather(
            1, (steps - 1).clamp(min=0).unsqueeze(1)
        ).squeeze(1)
        gains = gains.masked_fill(~free, -1)
        if gains.max() < 0:
            return steps
        steps[gains.argmax()] -= 1


def enough(steps: Tensor, savings: Tensor, wanted: Tensor) -> bool:
    """Return whether the steps (G,) save enough of every resource."""
    return bool((savings.T @ steps.double() >= wanted * (1 - SAVED_ROUNDING)).all())


def cost_of_steps(steps: Tensor, costs: Tensor) -> float:
    """Return the sum of the errors after the steps (G,)."""
    return costs.gather(1, steps.unsqueeze(1)).sum().item()
