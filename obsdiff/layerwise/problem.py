"""The problem of one layer: its target weight and Hessians, and how a solution is judged.

    minimise  tr(D H D^T)   over W' under a mask,   D = W' - W*

W* is the layer's own weight or, in asymmetric calibration, the weight that best maps the pruned
model's inputs to the dense model's outputs (solvers/asymmetric.py).

W, W', W* (O, I), H (I, I).
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn

from ..calibration.calibrated_input import CalibratedInput
from ..config import PruningConfig
from ..errors import NotPositiveDefinite
from ..models.linear_view import matrix, weight_of, write_
from ..models.low_rank import correct_by_
from ..pipelines.low_bits import put_on_grid_
from ..pipelines.record import LayerRecord
from ..solvers.asymmetric import asymmetric
from ..solvers.problem import Solution, output_energy, relative_error, squared_error
from .bias_correction import correct_
from .held_out import does_harm, unrepaired
from .rounding import rounded_solution


@contextlib.contextmanager
def named(layer: str) -> Iterator[None]:
    """Add the layer's name to a NotPositiveDefinite that the block raises."""
    try:
        yield
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{layer}: {error}") from None


@dataclass
class LayerProblem:
    """One layer to prune.

    Attributes:
        name: the layer.
        module: its Linear or Conv2d.
        target: W* (O, I), on the device of H; without asymmetric calibration, and if the module is
            there, a view of its weight.
        hessian: H (I, I).
        held_out: the Hessian (I, I) of the held-out prompts, None without any.
        mean: the weighted mean (I,) of its inputs.
        variance: their weighted variance (I,).
        tokens_per_column: distinct kept tokens per input column.
        damping: the damping used for W*.
        package: the index of its package.
        together: the number of layers that share the time of this problem.
        tokens: number of tokens that were read, and of those that the Hessian sums.
        began: when the problem was set up, by time.perf_counter.
    """

    name: str
    module: nn.Module
    target: Tensor
    hessian: Tensor
    held_out: Tensor | None
    mean: Tensor
    variance: Tensor
    tokens_per_column: float
    damping: float = 0.0
    package: int = 0
    together: int = 1
    tokens: tuple[int, int] = (0, 0)
    began: float = field(default_factory=time.perf_counter)

    def error(self, solution: Solution) -> float:
        """Return the layer error of a solution on the calibration prompts."""
        with named(self.name):
            energy = output_energy(self.target, self.hessian)
        found = solution.squared_error
        if found is None:
            found = squared_error(self.target, solution.whole, self.hessian)
        return relative_error(found, energy)

    def held_out_error(self, pruned: Tensor) -> float:
        """Return the layer error of a pruned weight (O, I) on the held-out prompts."""
        assert self.held_out is not None
        squared = squared_error(self.target, pruned, self.held_out)
        return relative_error(squared, self.held_out_energy)

    @cached_property
    def held_out_energy(self) -> float:
        """The energy of the layer's outputs on the held-out prompts."""
        assert self.held_out is not None
        with named(self.name):
            return output_energy(self.target, self.held_out)

    def close_(
        self,
        solution: Solution,
        config: PruningConfig,
        sparsity: float | None = None,
        only_rounded: bool = False,
    ) -> LayerRecord:
        """Round a solution if configured, judge it, correct the bias, write it, and record it.

        Args:
            solution: the pruned weight (O, I) and its mask, (O, I) or (I,).
            config: the settings.
            sparsity: the share of weights removed (None: the zeros of the written weight).
            only_rounded: whether the layer is rounded in a run that prunes others.

        Raises:
            NotPositiveDefinite: the pruned weight has inf or NaN.
        """
        if not solution.whole.isfinite().all():
            raise NotPositiveDefinite(
                f"{self.name}: the pruned weight has inf or NaN; "
                f"raise the damping (now {solution.damping:g})"
            )
        repaired = None
        if self.held_out is not None and config.repairs:
            repaired = not does_harm(self.target, solution.whole, solution.kept, self.held_out)
            if not repaired:
                solution = unrepaired(self.target, solution, self.hessian)
        rounded = rounded_solution(self.target, solution, self.hessian, self.module, config)
        before = self.error(solution) if rounded else None
        solution, grid = rounded or (solution, None)
        error = self.error(solution)
        held_out = self.held_out_error(solution.whole) if self.held_out is not None else None
        if config.correct_bias:
            correct_(self.module, self.target, solution.whole, self.mean)
        write_(self.name, self.module, solution.weight)  # the target may be a view of this weight
        if solution.low_rank is not None:
            correct_by_(self.module, *solution.low_rank)
        if grid:
            put_on_grid_(self.module, grid)
        if sparsity is None:
            sparsity = (weight_of(self.module) == 0).float().mean().item()
        return LayerRecord(
            self.name,
            (self.target.shape[0], self.target.shape[1]),
            self.package,
            sparsity,
            solution.loss,
            error,
            max(solution.damping, self.damping),
            self.tokens_per_column,
            (time.perf_counter() - self.began) / self.together,
            held_out,
            repaired,
            *self.tokens,
            rank=len(solution.low_rank[1]) if solution.low_rank is not None else None,
            bits=grid.bits if grid else None,
            group_size=grid.group if grid else None,
            unrounded_error=before,
            only_rounded=only_rounded,
        )


def problems_of(
    denoiser: nn.Module,
    inputs: Mapping[str, CalibratedInput],
    config: PruningConfig,
    package: int,
) -> dict[str, LayerProblem]:
    """Return the problems of layers that are solved together, by layer.

    Args:
        denoiser: the model.
        inputs: what each layer reads; layers that share an input share the object. Used up.
        config: the settings.
        package: the index of their package.

    Raises:
        NotPositiveDefinite: a Hessian cannot be factored for W*, with the layer's name.
    """
    began = time.perf_counter()
    layers: dict[int, list[str]] = {}
    for name, calibrated in inputs.items():
        layers.setdefault(id(calibrated), []).append(name)
    found = {}
    for names in layers.values():
        calibrated = inputs[names[0]]
        mean, variance = calibrated.mean(), calibrated.variance()
        hessian, held_out = calibrated.take_(), calibrated.take_held_out_()
        modules = [denoiser.get_submodule(name) for name in names]
        with named(names[0]):
            targets, damping = targets_of(
                [matrix(module).to(hessian.device) for module in modules],
                calibrated,
                hessian,
                config.damping,
            )
        for name, module, target in zip(names, modules, targets, strict=True):
            found[name] = LayerProblem(
                name,
                module,
                target,
                hessian,
                held_out,
                mean,
                variance,
                calibrated.tokens_per_column,
                damping,
                package,
                len(inputs),
                calibrated.tokens,
                began,
            )
    return {name: found[name] for name in inputs}


def targets_of(
    weights: list[Tensor], calibrated: CalibratedInput, hessian: Tensor, damping: float
) -> tuple[list[Tensor], float]:
    """Return W* of each weight (O, I) that reads one input, and the damping used.

    Without cross sums the weights themselves, and 0; with them, the sums are used up.

    Args:
        weights: the layers' weights.
        calibrated: their input.
        hessian: its H (I, I).
        damping: in units of the mean of H's diagonal.
    """
    if calibrated.cross is None:
        return weights, 0.0
    return asymmetric(weights, hessian, calibrated.take_cross_(), damping)
