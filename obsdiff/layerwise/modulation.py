"""Fold modulation layers: find the factors of each, measure them on held-out inputs, put them in.

They are found before anything else is pruned, since a model that loses too much by it is refused,
and put in at the end, so that all else is measured on the dense model. A layer gets the rank of its
share, or a smaller one that already leaves no more error than ENOUGH.

The error of a layer is relative to the variance of its outputs over the inputs that it was fitted
to: 0 is the same modulation at every step, 1 no better than one that does not change at all.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..calibration.context import CalibrationContext
from ..calibration.modulation import MODULATION_PHASE, ModulationInputs, gather_modulation
from ..calibration.plan import PruningPlan
from ..errors import UserError
from ..models.folded import fold_
from ..models.linear_view import weight_of
from ..pipelines.record import PruningReport
from ..solvers.double_precision import where_double
from ..solvers.folding import energies, folded
from .reporting import seconds, warn_and_record

ENOUGH = 1e-6  # error that needs no further rank: about what rounding to bfloat16 costs
MOST_ERROR = 0.001  # largest held-out error of a layer: measured, see docs/modulation.md


class Factors(NamedTuple):
    """U (O, R) and V (R, I) of a layer, in its number format."""

    up: Tensor
    down: Tensor


class Moments(NamedTuple):
    """Second moments (I, I) of the inputs of a layer, in float64.

    Attributes:
        fitted: the mean of x x^T over the inputs to fit to.
        centred: the same of x minus their mean.
        held_out: the mean of x x^T over those held out.
    """

    fitted: Tensor
    centred: Tensor
    held_out: Tensor


def find_factors(
    context: CalibrationContext, plan: PruningPlan, report: PruningReport
) -> dict[str, Factors]:
    """Return the factors of every modulation layer, and record them.

    Args:
        context: the dense model, and how it draws.
        plan: the pruning, with the largest rank of each layer.
        report: receives the record.

    Raises:
        UserError: a layer loses too much on held-out inputs; or there are too few prompts.
        CalibrationError: an input has inf or NaN.
    """
    with seconds(report, MODULATION_PHASE):
        inputs = gather_modulation(context, list(plan.modulation))
        known: dict[int, Moments] = {}
        found, rows = {}, []
        layers = [plan.denoiser.get_submodule(name) for name in plan.modulation]
        places = zip(plan.modulation.items(), layers, context.computing(layers), strict=True)
        for (name, most), layer, device in places:
            key = id(inputs.fitted[name])
            if key not in known:
                known = {key: moments_of(inputs, name, device)}
            found[name], row = factors_of(layer, known[key], most, len(inputs.fitted[name]))
            rows.append({"name": name} | row)
    report.modulation = {
        "share": plan.config.modulation,
        "reads_prompt": inputs.by_prompt,
        "prompts": inputs.prompts,
        "fixed": list(inputs.conditions),
        "layers": rows,
    }
    require_small_errors(rows, inputs.by_prompt)
    if inputs.conditions:
        warn_and_record(
            report,
            f"modulation reads {' and '.join(inputs.conditions)}, too, and is fitted to the values "
            "of this calibration alone; draw with the same ones",
        )
    return found


def moments_of(inputs: ModulationInputs, name: str, device: torch.device) -> Moments:
    """Return the second moments of a layer's inputs."""
    fitted, apart = (
        where_double(rows[name].to(device)).double() for rows in (inputs.fitted, inputs.held_out)
    )
    centred = fitted - fitted.mean(0)
    return Moments(*(x.T @ x / len(x) for x in (fitted, centred, apart)))


def factors_of(
    layer: nn.Module, moments: Moments, most: int, inputs: int
) -> tuple[Factors, dict[str, Any]]:
    """Return the factors of a layer, and their record.

    Args:
        layer: a linear layer.
        moments: the second moments of its inputs.
        most: the largest rank.
        inputs: number of distinct inputs, which no rank exceeds.
    """
    own = weight_of(layer).detach()
    weight = own.to(moments.fitted)
    variance = energies(weight, moments.centred).sum().item()
    most = min(most, inputs)
    up, down = folded(weight, moments.fitted, most, ENOUGH * variance)
    factors = Factors(up.to(own.dtype), down.to(own.dtype))
    gap = weight - factors.up.to(weight) @ factors.down.to(weight)
    errors = [energies(gap, m).sum().item() for m in (moments.fitted, moments.held_out)]
    error, apart = (e / variance if variance else float(e > 0) for e in errors)
    row = {
        "shape": list(own.shape),
        "rank": len(down),
        "inputs": inputs,
        "error": error,
        "held_out_error": apart,
    }
    return Factors(factors.up.to(own.device), factors.down.to(own.device)), row


def require_small_errors(rows: list[dict[str, Any]], by_prompt: bool) -> None:
    """Refuse layers that lose too much on held-out inputs.

    Args:
        rows: the records of the layers.
        by_prompt: whether their inputs depend on the prompt.

    Raises:
        UserError: names the worst layer.
    """
    wrong = [row for row in rows if not row["held_out_error"] <= MOST_ERROR]
    if not wrong:
        return
    worst = max(wrong, key=lambda row: row["held_out_error"])
    why = "its inputs depend on the prompt, so they span many dimensions; " if by_prompt else ""
    raise UserError(
        f"modulation: {worst['name']} folded to rank {worst['rank']} has a relative error of "
        f"{worst['held_out_error']:.3g} on held-out inputs, expected at most {MOST_ERROR:g} "
        f"({len(wrong)} of {len(rows)} layers are above it); {why}raise modulation, or leave it out"
    )


def fold_all_(denoiser: nn.Module, factors: Mapping[str, Factors]) -> None:
    """Replace every modulation layer by its factors, in place."""
    for name, (up, down) in factors.items():
        fold_(denoiser, name, up, down)
