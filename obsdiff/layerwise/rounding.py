"""Rounding to few bits: with the Hessian that a layer was solved with, or to the nearest."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..config import PruningConfig
from ..models.linear_view import matrix, write_
from ..pipelines.low_bits import put_on_grid_, roundable
from ..pipelines.record import RoundedRecord
from ..solvers.double_precision import where_double
from ..solvers.low_rank import correction
from ..solvers.lstsq import damped
from ..solvers.problem import Solution, squared_error
from ..solvers.rounded_low_rank import rounded_low_rank
from ..solvers.rounding import Grid, gptq, nearest


def dense_solution(weight: Tensor, damping: float) -> Solution:
    """Return a weight (O, I) as a solution that removes nothing."""
    return Solution(weight, torch.ones_like(weight, dtype=torch.bool), 0.0, damping)


def corrected_solution(weight: Tensor, hessian: Tensor, damping: float, rank: int) -> Solution:
    """Return a weight (O, I) of which nothing is removed as its best correction and the rest.

    Args:
        weight: W (O, I).
        hessian: H (I, I).
        damping: in units of H's mean diagonal.
        rank: R, 1 to min(O, I).
    """
    square = damped(hessian, damping)
    up, down, _ = correction(weight.to(square), square, rank)
    rest = (weight.to(square) - up @ down).to(weight.dtype)
    return replace(dense_solution(rest, damping), low_rank=(up, down))


def rounded_solution(
    target: Tensor, solution: Solution, hessian: Tensor, layer: nn.Module, config: PruningConfig
) -> tuple[Solution, Grid] | None:
    """Return a solution on grids of few bits, and the grids.

    Of structured pruning only the columns that remain are rounded. A correction of low rank and the
    rounded weight are found in turn; it is not rounded itself.

    Args:
        target: W* (O, I).
        solution: a pruned weight (O, I) and its mask, (O, I) or (I,).
        hessian: H (I, I).
        layer: the layer.
        config: the settings.

    Returns:
        None if the config has no bits, or the layer can't be rounded.

    Raises:
        NotPositiveDefinite: H cannot be factored.
    """
    weight, kept = solution.weight, solution.kept
    columns = kept.nonzero().flatten() if kept.dim() == 1 else None
    width = weight.shape[1] if columns is None else len(columns)
    if config.bits is None or not roundable(layer, width, config.group_size):
        return None
    low_rank = solution.low_rank
    if low_rank is not None:
        damping = max(config.damping, solution.damping)
        both = rounded_low_rank(
            target, weight, kept, low_rank, hessian, damping,
            lambda rest, aim: on_grid(rest, kept, aim, hessian, config),
        )  # fmt: skip
        found, grid, low_rank = both.weight, both.grid, both.low_rank
    elif columns is None:
        found, grid = on_grid(weight, kept, target.to(weight), hessian, config)
    else:
        inner, square = weight[:, columns], hessian[columns][:, columns]
        whole = torch.ones_like(inner, dtype=torch.bool)
        part, grid = on_grid(inner, whole, inner, square, config)
        found = torch.zeros_like(weight)
        found[:, columns] = part
    solution = replace(solution, weight=found, squared_error=None, low_rank=low_rank)
    return replace(solution, loss=squared_error(target, solution.whole, hessian) / 2), grid


def on_grid(
    weight: Tensor, kept: Tensor, target: Tensor, hessian: Tensor, config: PruningConfig
) -> tuple[Tensor, Grid]:
    """Return a weight (O, I) rounded as configured, and its grids.

    Args:
        weight: the weight, zero outside the mask.
        kept: the mask (O, I).
        target: what it should be near (O, I).
        hessian: H (I, I).
        config: the settings.
    """
    grid = grids_for(weight, config)
    if config.rounding == "nearest":
        return nearest(weight, grid), grid
    return gptq(weight, kept, hessian, config.damping, grid, target)[0], grid


def grids_for(weight: Tensor, config: PruningConfig) -> Grid:
    """Return the grids of a weight (O, I): torchao's own for 8 bits and for comparison."""
    assert config.bits is not None
    own = config.bits == 8 or config.rounding == "nearest"
    return (Grid.even if own else Grid.full)(weight, config.bits, config.group_size)


def round_to_nearest_(
    denoiser: nn.Module, names: Iterable[str], config: PruningConfig
) -> list[RoundedRecord]:
    """Round layers without a Hessian in place, each weight to the nearest value of its grid.

    Args:
        denoiser: the model.
        names: the layers; others than linear ones are left out.
        config: the settings.

    Returns:
        The records of the layers, also of those that can't be rounded.
    """
    found = []
    for name in names:
        layer = denoiser.get_submodule(name)
        if type(layer) is not nn.Linear:
            continue
        weight = matrix(layer)
        shape = (weight.shape[0], weight.shape[1])
        if config.bits is None or not roundable(layer, shape[1], config.group_size):
            found.append(RoundedRecord(name, shape))
            continue
        grid = grids_for(weight, config)
        values = nearest(weight, grid)
        before, after = (where_double(part).double() for part in (weight, values))
        energy = before.square().sum().item()
        error = (before - after).square().sum().item() / energy if energy else 0.0
        write_(name, layer, values)
        put_on_grid_(layer, grid)
        found.append(RoundedRecord(name, shape, config.bits, config.group_size, error))
    return found
