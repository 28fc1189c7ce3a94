"""Random problems for the solvers' tests, in float64."""

import torch

from obsdiff.solvers.problem import Inputs


def problem(
    outputs: int, inputs: int, tokens: int = 2000, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (O, I) and the Hessian (I, I) of correlated inputs, float64."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=g, dtype=torch.float64) / inputs**0.5
    x = torch.randn(tokens, inputs, generator=g, dtype=torch.float64) @ (
        torch.eye(inputs, dtype=torch.float64) + mix
    )
    return torch.randn(outputs, inputs, generator=g, dtype=torch.float64), 2 * x.T @ x / tokens


def seen(hessian: torch.Tensor) -> Inputs:
    """Inputs with this Hessian (I, I), and a mean and a variance (I,) consistent with it.

    The means differ from zero, unlike those of the problem's own tokens.
    """
    square = hessian.diagonal() / 2
    mean = square.clamp(min=0).sqrt() * torch.linspace(-0.9, 0.9, len(hessian), dtype=hessian.dtype)
    return Inputs(hessian, mean, square - mean**2)


def best_kept(
    weight: torch.Tensor, hessian: torch.Tensor, fixed: torch.Tensor, free: list[int]
) -> torch.Tensor:
    """The row (I,) nearest to `weight` in the Hessian's norm, with entries outside `free` fixed.

    The fixed entries have the values of `fixed`.
    """
    held = [i for i in range(len(weight)) if i not in free]
    change = torch.zeros_like(weight)
    change[held] = fixed[held] - weight[held]
    if free:
        change[free] = -torch.linalg.solve(
            hessian[free][:, free], hessian[free][:, held] @ change[held]
        )
    return weight + change
