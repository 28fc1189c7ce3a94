"""Which of many groups give up how much, so that enough of every resource is saved at the least error.

    minimise  sum_g e_g(k_g)   subject to  sum_g k_g s_gr >= w_r  for every resource r                         (1)

Group g may take 0, 1, 2 ... steps k_g, each of which saves s_gr of resource r (parameters, multiply-accumulates) and after which its
error is e_g(k_g). With a price p_r on each resource the groups answer one by one,

    k_g = argmin_k  e_g(k) - k sum_r p_r s_gr                                                                 (2)

and the prices are p times a mix of the resources, the least p that saves enough. Several mixes are tried. What was saved too much is given
back, the dearest step first, and of all ways found the cheapest stays.

G groups, K steps at most, R resources.

References:
    Everett, "Generalized Lagrange Multiplier Method for Solving Problems of Optimum Allocation of Resources", 1963.
    Kurtic et al., "ZipLM: Inference-Aware Structured Pruning of Language Models", 2023. https://arxiv.org/abs/2302.04089
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

MULTIPLIER_BISECTIONS = 60
MIXES = 20  # parts into which the way from one resource to the other is cut
LARGEST_PRICE = 1e300  # a price at which everything leaves
SAVED_ROUNDING = 1e-9  # of what is wanted


def cheapest_steps(errors: list[list[float]], savings: Tensor, wanted: Tensor) -> list[int] | None:
    """Steps of every group by (1). errors[g][k] is that of k steps, savings (G, R) those of a step, wanted (R,) what is to be saved in all.
    None if all steps of all groups do not save it."""
    costs = padded(errors)
    savings, wanted = savings.double(), wanted.double()
    most = torch.tensor([len(row) - 1 for row in errors])
    if not enough(most, savings, wanted):
        return None
    units = savings / wanted.where(wanted > 0, torch.inf)  # what nobody wants has no price
    found = [most]
    for mix in mixes(len(wanted)):
        steps = least_price(costs, units @ mix, savings, wanted)
        if steps is not None:
            found.append(undo_spare_savings(steps, costs, savings, wanted))
    return min(found, key=lambda steps: cost_of_steps(steps, costs)).tolist()


def padded(errors: list[list[float]]) -> Tensor:
    """(G, K + 1), inf where a group has no such step."""
    costs = torch.full((len(errors), max(map(len, errors))), torch.inf, dtype=torch.float64)
    for row, its in zip(costs, errors, strict=True):
        row[: len(its)] = torch.tensor(its, dtype=torch.float64)
    return costs


def mixes(resources: int) -> Iterator[Tensor]:
    """Shares (R,) of the resources in the price, which add up to one."""
    for parts in itertools.product(range(MIXES + 1), repeat=resources - 1):
        if sum(parts) <= MIXES:
            yield torch.tensor([*parts, MIXES - sum(parts)], dtype=torch.float64) / MIXES


def least_price(costs: Tensor, values: Tensor, savings: Tensor, wanted: Tensor) -> Tensor | None:
    """Steps (G,) by (2) at the least price that saves enough; values (G,) are those of a step. None if no price does."""
    counts = torch.arange(costs.shape[1], dtype=torch.float64)

    def answer(price: float) -> Tensor:
        return (costs - price * values.unsqueeze(1) * counts).argmin(1)

    low, high = 0.0, 1.0
    while not enough(answer(high), savings, wanted):
        high *= 10
        if high > LARGEST_PRICE:
            return None
    for _ in range(MULTIPLIER_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(answer(middle), savings, wanted) else (middle, high)
    return answer(high)


def undo_spare_savings(steps: Tensor, costs: Tensor, savings: Tensor, wanted: Tensor) -> Tensor:
    """The same without the steps that are not needed, of which the dearest come back first."""
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
    return bool((savings.T @ steps.double() >= wanted * (1 - SAVED_ROUNDING)).all())


def cost_of_steps(steps: Tensor, costs: Tensor) -> float:
    return costs.gather(1, steps.unsqueeze(1)).sum().item()
