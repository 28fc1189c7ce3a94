"""The pieces of work of a package, each solved by itself, and what comes out of one.

A piece is a tap, or for structured pruning the groups that share a consumer. Its outcome holds all that the piece changes in
the model, so it can be kept on disk, or come from another process, and be applied there.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from .aims import aimed_at
from .architectures import Group, Shape, Tap
from .biases import correct_, has_bias
from .config import PruningConfig
from .errors import NotPositiveDefinite
from .held_out import best, dampings, does_harm, unrepaired
from .hessian import Hessian
from .packages import Package
from .prune_structured import by_consumer, left_items, prune_groups_
from .record import GroupRecord, LayerRecord
from .solvers import SOLVERS, Inputs, Solution, Target
from .solvers.lstsq import refined
from .solvers.solution import layer_error
from .solvers.swaps import swapped
from .surgery import shrink_
from .unfolding import matrix, write_


@dataclass(frozen=True)
class Piece:
    """Either a tap, or groups whose consumers are pruned together. `number` counts the pieces of a run, in forward order."""

    number: int
    package: int
    taps: tuple[Tap, ...]
    groups: tuple[Group, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers whose weights the solver changes, and whose inputs the Hessians are of."""
        return tuple(layer for tap in self.taps for layer in tap.layers)

    @property
    def touched(self) -> set[str]:
        """All layers that are changed: of groups what writes the heads or neurons, too."""
        return {
            *self.layers,
            *(layer for group in self.groups for layer in (*group.producers, *group.consumers)),
        }


@dataclass(frozen=True)
class Outcome:
    """A solved piece: the new weight of each of its layers, as the model holds it, and the new biases, if they changed; and its records."""

    weights: dict[str, Tensor]
    layers: list[LayerRecord]
    groups: list[GroupRecord]
    biases: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], layers: list[LayerRecord], groups: list[GroupRecord]
    ) -> "Outcome":
        """From what `tensors` gave. KeyError for a weight that is missing."""
        names = [row.name for row in layers]
        biases = {name: tensors[f"{name}.bias"] for name in names if f"{name}.bias" in tensors}
        return cls({name: tensors[name] for name in names}, layers, groups, biases)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Weights under their layer's name, biases under that and ".bias"."""
        return self.weights | {f"{name}.bias": bias for name, bias in self.biases.items()}


def pieces_of(packages: list[Package], groups: list[Group]) -> list[Piece]:
    """Every piece of a run, in forward order."""
    found: list[Piece] = []
    for index, package in enumerate(packages):
        inside = [group for group in groups if group.consumers[0] in package.layers]
        for together in by_consumer(inside):
            consumers = {name for group in together for name in group.consumers}
            taps = tuple(tap for tap in package.taps if consumers & set(tap.layers))
            found.append(Piece(len(found), index, taps, tuple(together)))
        for tap in () if inside else package.taps:
            found.append(Piece(len(found), index, (tap,)))
    return found


def cost(piece: Piece, linears: Mapping[str, Shape]) -> float:
    """About how many multiplications a piece takes: its factors, and the sweep of its weights (O, I)."""
    sizes = [linears[layer] for layer in piece.layers]
    return sum(linears[tap.layers[0]][1] ** 3 for tap in piece.taps) + sum(
        outputs * inputs**2 for outputs, inputs in sizes
    )


def solve_(
    denoiser: nn.Module,
    piece: Piece,
    hessians: Mapping[Tap, Hessian],
    config: PruningConfig,
    shares: Mapping[str, float],
) -> Outcome:
    """Prune a piece in place, and use up its Hessians. `shares`: the sparsity of each layer, or how many items each
    group keeps, where it is not the config that says so."""
    groups: list[GroupRecord] = []
    if shares and not piece.groups:
        config = replace(config, sparsity=shares[piece.layers[0]])
    if piece.groups:
        by_layer = {layer: hessians[tap] for tap in piece.taps for layer in tap.layers}
        layers, groups = prune_groups_(
            denoiser, list(piece.groups), by_layer, config, piece.package, shares
        )
    else:
        layers = [
            row
            for tap in piece.taps
            for row in prune_tap_(denoiser, tap, hessians[tap], config, piece.package)
        ]
    modules = {row.name: denoiser.get_submodule(row.name) for row in layers}
    biases = {
        name: module.bias.detach()
        for name, module in modules.items()
        if config.correct_bias and has_bias(module)
    }
    return Outcome(
        {name: module.weight.detach() for name, module in modules.items()}, layers, groups, biases
    )


def apply_(denoiser: nn.Module, piece: Piece, outcome: Outcome) -> None:
    """Change the model as the solving of the piece changed it where it was solved."""
    for group, chosen in zip(piece.groups, outcome.groups, strict=True):
        shrink_(denoiser, group, left_items(denoiser, group, chosen))
    for layer, weight in outcome.weights.items():
        module = denoiser.get_submodule(layer)
        write_(layer, module, weight)
    for layer, bias in outcome.biases.items():
        with torch.no_grad():
            denoiser.get_submodule(layer).bias.copy_(bias)


def prune_tap_(
    denoiser: nn.Module, tap: Tap, hessian: Hessian, config: PruningConfig, package: int
) -> list[LayerRecord]:
    """Prune the layers of one tap with their common Hessian, in place."""
    began = time.perf_counter()
    modules = [denoiser.get_submodule(layer) for layer in tap.layers]
    weights = [matrix(module) for module in modules]
    mean, variance = hessian.mean(), hessian.variance()
    square, apart = hessian.take(), hessian.held_out and hessian.held_out.take()
    weights, aimed = aimed_at(tap.layers[0], weights, hessian, square, config)
    inputs = Inputs(square, mean, variance)

    def solve(damping: float) -> list[Solution]:
        return solutions_of(weights, inputs, config, damping)

    def error_apart(solutions: list[Solution]) -> float:
        return sum(
            layer_error(w, solution.weight, apart)
            for w, solution in zip(weights, solutions, strict=True)
        )

    try:
        solutions = best(
            dampings(config), solve, lambda solutions: solutions[0].damping, error_apart
        )
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{tap.layers[0]}: {error}") from None
    records = []
    for layer, module, weight, solution in zip(
        tap.layers, modules, weights, solutions, strict=True
    ):
        if not solution.weight.isfinite().all():
            raise NotPositiveDefinite(
                f"{layer}: the pruned weight has inf or NaN; raise the damping (now {solution.damping:g})"
            )
        judged = apart is not None and config.repairs
        repaired = not does_harm(weight, solution.weight, solution.kept, apart) if judged else None
        if repaired is False:
            solution = unrepaired(weight, solution, square)
        error = layer_error(weight, solution.weight, square)
        held_out = layer_error(weight, solution.weight, apart) if apart is not None else None
        if config.correct_bias:
            correct_(module, weight, solution.weight, mean)
        write_(layer, module, solution.weight)  # `weight` is a view of what this changes
        zeros = (module.weight == 0).float().mean().item()
        seconds = (time.perf_counter() - began) / len(tap.layers)
        per_column = hessian.distinct / hessian.columns
        damping = max(solution.damping, aimed)
        records.append(
            LayerRecord(
                layer,
                tuple(weight.shape),
                package,
                zeros,
                solution.loss,
                error,
                damping,
                per_column,
                seconds,
                held_out,
                repaired,
            )
        )
    return records


def solutions_of(
    weights: list[Tensor], inputs: Inputs, config: PruningConfig, damping: float
) -> list[Solution]:
    """The solver's answer with one damping, re-solved if the config says so."""
    target = Target(config.removed, config.group, damping, config.compensation)
    solutions = SOLVERS[config.method](
        [w.to(inputs.hessian.device) for w in weights], inputs, target
    )
    if config.refine == "lstsq":
        solutions = [
            refined(w, solution, inputs.hessian, damping)
            for w, solution in zip(weights, solutions, strict=True)
        ]
    if config.refine == "swaps":
        solutions = [
            swapped(w, solution, inputs.hessian, damping, config.group)
            for w, solution in zip(weights, solutions, strict=True)
        ]
    return solutions
