"""One resource, two solvers: what Lagrange prices lose against the exact knapsack.

    python -m benchmarks.one_resource [PROBLEMS]

Random problems of 4 to 60 groups: of each, 3 to 9 heads or 56 steps of neurons, with errors that
grow with a power between 1 and 4 of the share removed; 10 to 70 % of the resource is to be saved.
Prints the ratio of the summed errors, prices over knapsack, and the seconds of both.
"""

import sys
import time

import torch

from obsdiff.allocation.knapsack import Rows, cheapest_saving, total
from obsdiff.allocation.prices import cheapest_steps


def problem(g: torch.Generator) -> tuple[Rows, list[float], float]:
    """The errors of each group after its steps, what one step saves, and what is to be saved."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand(1, generator=g).item()

    errors, savings = [], []
    for _ in range(int(uniform(4, 60))):
        steps = int(uniform(3, 9)) if uniform(0, 1) < 0.4 else 56
        scale, power = 10 ** torch.randn(1, generator=g).item(), uniform(1, 4)
        row = [0.0]
        for k in range(1, steps + 1):
            row.append(max(row[-1], scale * (k / steps) ** power * uniform(1, 1.3)))
        errors.append(row)
        savings.append(64.0 * int(uniform(1, 400)))
    most = sum(saving * (len(row) - 1) for saving, row in zip(savings, errors, strict=True))
    return errors, savings, uniform(0.1, 0.7) * most


def main(problems: int = 200) -> None:
    g = torch.Generator().manual_seed(0)
    ratios, seconds = [], {"knapsack": 0.0, "prices": 0.0}
    for _ in range(problems):
        errors, savings, wanted = problem(g)
        rows = [
            [saving * k for k in range(len(row))]
            for saving, row in zip(savings, errors, strict=True)
        ]
        began = time.perf_counter()
        exact = cheapest_saving(errors, rows, wanted)
        seconds["knapsack"] += time.perf_counter() - began
        began = time.perf_counter()
        priced = cheapest_steps(errors, torch.tensor(savings)[:, None], torch.tensor([wanted]))
        seconds["prices"] += time.perf_counter() - began
        ratios.append(total(errors, priced or []) / total(errors, exact))
    found = torch.tensor(ratios)
    figures = {
        "median": found.median(),
        "mean": found.mean(),
        "95 %": found.quantile(0.95),
        "largest": found.max(),
    }
    print("  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    print("  ".join(f"{name} {value:.1f} s" for name, value in seconds.items()))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
