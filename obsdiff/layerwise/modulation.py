"""Fold modulation layers: find the factors of each, measure them on held-out inputs, put them in.

They are found before anything else is pruned, since a model that loses too much by it is refused,
and put in at the end, so that all else is measured on the dense model. A layer gets the rank of its
share, or the least one whose error on held-out inputs is no more than ENOUGH. If the config says
so, layers that lose too much are kept as they are, which is warned of and recorded.

The error of a layer is relative to the variance of its outputs over the inputs that it was fitted
to: 0 is the same modulation at every step, 1 no better than one that does not change at all.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..calibration.context import CalibrationContext
from ..calibration.modulation import (
    MODULATION_PHASE,
    ModulationInputs,
    TooFewPrompts,
    gather_modulation,
)
from ..calibration.modulation_selection import factor_unit
from ..calibration.plan import PruningPlan
from ..errors import UserError
from ..models.folded import fold_
from ..models.linear_view import weight_of
from ..pipelines.record import PruningReport
from ..runtime.display import current
from ..solvers.double_precision import where_double
from ..solvers.folding import balanced, energies, folded, least_rank
from .problem import named
from .reporting import seconds, warn_and_record

ENOUGH = 1e-4  # held-out error that needs no further rank: measured, see docs/modulation.md
DAMPING = 0.01  # in units of H's mean diagonal, where the prompt enters: few span too little
MOST_ERROR = 0.001  # largest held-out error of a layer: measured, see docs/modulation.md


class Factors(NamedTuple):
    """U (O, R) and V (R, I) of a layer, in its number format."""

    up: Tensor
    down: Tensor


class Moments(NamedTuple):
    """Second moments (I, I) of the inputs of a layer, in float64.

    Attributes:
        fitted: the mean of x x^T over the inputs to fit to.
        damped: the same as the factors are fitted to it.
        centred: the same of x minus their mean.
        held_out: the mean of x x^T over those held out.
    """

    fitted: Tensor
    damped: Tensor
    centred: Tensor
    held_out: Tensor


def find_factors(
    context: CalibrationContext, plan: PruningPlan, report: PruningReport
) -> dict[str, Factors]:
    """Return the factors of the modulation layers to fold, and record them.

    Args:
        context: the dense model, and how it draws.
        plan: the pruning, with the largest rank of each layer.
        report: receives the record.

    Returns:
        The factors by layer; those that are kept as they are have none.

    Raises:
        UserError: unless such layers are kept, a layer loses too much on held-out inputs; or there
            are too few prompts.
        CalibrationError: an input has inf or NaN.
        NotPositiveDefinite: a weight has inf or NaN, with the layer's name.
    """
    if not plan.modulation:
        if plan.unfolded:
            current().plan(MODULATION_PHASE)
            note_unfolded(report, plan, plan.unfolded)
        return {}
    try:
        return measured_factors(context, plan, report)
    except TooFewPrompts as error:
        if plan.config.unfoldable == "refuse":
            raise
        note_unfolded(report, plan, str(error).removeprefix("modulation: "))
        return {}


def measured_factors(
    context: CalibrationContext, plan: PruningPlan, report: PruningReport
) -> dict[str, Factors]:
    """Return the factors of the layers that lose little; arguments and errors of find_factors."""
    with seconds(report, MODULATION_PHASE):
        inputs = gather_modulation(context, list(plan.modulation))
        known: dict[int, Moments] = {}
        found, rows, unit = {}, [], factor_unit(plan.config)
        layers = [plan.denoiser.get_submodule(name) for name in plan.modulation]
        places = zip(plan.modulation.items(), layers, context.computing(layers), strict=True)
        for (name, most), layer, device in places:
            key = id(inputs.fitted[name])
            if key not in known:
                known = {key: moments_of(inputs, name, device)}
            distinct = len(inputs.fitted[name])
            with named(name):
                found[name], row = factors_of(layer, known[key], most, distinct, unit)
            rows.append({"name": name} | row)
    wrong = [row for row in rows if not row["held_out_error"] <= MOST_ERROR]
    why = too_large(wrong, len(rows), inputs.by_prompt) if wrong else ""
    if wrong and plan.config.unfoldable == "refuse":
        raise UserError(f"modulation: {why}; raise modulation, or leave it out")
    report.modulation = {
        "share": plan.config.modulation,
        "reads_prompt": inputs.by_prompt,
        "prompts": inputs.prompts,
        "fixed": list(inputs.conditions),
        "layers": [row for row in rows if row not in wrong],
        "kept": wrong,
        "why_kept": why,
    }
    if wrong:
        which = "all" if len(wrong) == len(rows) else f"{len(wrong)} of"
        warn_and_record(report, f"modulation: {which} {len(rows)} layers stay as they are: {why}")
        kept = {row["name"] for row in wrong}
        found = {name: factors for name, factors in found.items() if name not in kept}
    if inputs.conditions and found:
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
    seen, varied, others = (x.T @ x / len(x) for x in (fitted, centred, apart))
    damped = seen.clone()
    if inputs.by_prompt:
        damped.diagonal().add_(DAMPING * seen.diagonal().mean())
    return Moments(seen, damped, varied, others)


def factors_of(
    layer: nn.Module, moments: Moments, most: int, inputs: int, unit: int = 1
) -> tuple[Factors, dict[str, Any]]:
    """Return the factors of a layer, and their record.

    Args:
        layer: a linear layer.
        moments: the second moments of its inputs.
        most: the largest rank.
        inputs: number of distinct inputs, which no rank exceeds.
        unit: ranks are multiples of it where that takes fewer bytes.
    """
    own = weight_of(layer).detach()
    weight = own.to(moments.fitted)
    variance = energies(weight, moments.centred).sum().item()
    most = min(most, inputs)
    up, down = folded(weight, moments.damped, most)
    rank = least_rank(weight, down, moments.held_out, ENOUGH * variance)
    rank = min(most, in_units(rank, unit))
    up, down = balanced(up[:, :rank], down[:rank])
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


def in_units(rank: int, unit: int) -> int:
    """Return a rank as a multiple of a unit, if that takes fewer bytes.

    Factors of such a rank are rounded to one byte a weight, others have two.
    """
    whole = -(-rank // unit) * unit
    return whole if whole < 2 * rank else rank


def too_large(wrong: list[dict[str, Any]], total: int, by_prompt: bool) -> str:
    """Return in words which layers lose too much on held-out inputs.

    Args:
        wrong: the records of these layers.
        total: number of all modulation layers.
        by_prompt: whether their inputs depend on the prompt.
    """
    worst = max(wrong, key=lambda row: row["held_out_error"])
    why = "; its inputs depend on the prompt, so they span many dimensions" if by_prompt else ""
    return (
        f"{worst['name']} folded to rank {worst['rank']} has a relative error of "
        f"{worst['held_out_error']:.3g} on held-out inputs, expected at most {MOST_ERROR:g} "
        f"({len(wrong)} of {total} layers are above it){why}"
    )


def note_unfolded(report: PruningReport, plan: PruningPlan, why: str) -> None:
    """Warn that no modulation layer is folded although the config asks, and record it.

    Args:
        report: receives the record.
        plan: the pruning.
        why: in words.
    """
    report.modulation = {"share": plan.config.modulation, "layers": [], "why_kept": why}
    current().complete(MODULATION_PHASE)
    warn_and_record(report, f"modulation: nothing is folded: {why}")


def fold_all_(denoiser: nn.Module, factors: Mapping[str, Factors]) -> None:
    """Replace every modulation layer by its factors, in place."""
    for name, (up, down) in factors.items():
        fold_(denoiser, name, up, down)
