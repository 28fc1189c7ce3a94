"""The effect of many changes of weights on the final latents, each alone, from one run a prompt.

A change D of some layers changes the final latents z by J D, to first order. For a vector v of
random signs

    |J D|^2  =  E (v^T J D)^2

and one backward pass through all denoising steps has v^T J D for every D at once (probes.py): the
cost does not depend on the number of layers. v^T J D = sum_o s_o is a sum over the rows of D, which
a pruning chooses and repairs each by itself, so that their effects hardly ever point the same way:

    |J D|^2  ~  E sum_o s_o^2

This sum of many squares varies much less from one v to the next than the square of one number. The
relative latent error of a change is its sum over the prompts, over that of |z - mean z|^2.

The v of a prompt depends on its seed alone, and prompts that share a call have sums of their own:
batch size and number of processes change the figures by no more than rounding.

References:
    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
        splines", 1989.
    Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016.
        https://arxiv.org/abs/1604.06174
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..calibration.context import CalibrationContext
from ..config import PruningConfig
from ..errors import CalibrationError, RunFailed, UserError
from ..layerwise.journal import NullJournal
from ..models.linear_view import weight_of
from ..pipelines.call import execution_device
from ..pipelines.differentiable import differentiable
from ..pipelines.errors_below import one_line_errors
from ..pipelines.stored_activations import OneByOne
from ..solvers.double_precision import where_double
from .gradient_memory import activation_room
from .probes import Probes, probed
from .trials import Trial, all_measured

Change = Mapping[str, Tensor]  # layer -> D, in the shape of its weight
# factor of v, by the model's number format: float16 loses gradients below 6e-8
SCALES = {torch.float16: 128.0}


def effects_of(
    context: CalibrationContext,
    journal: NullJournal,
    changes: Mapping[str, Change],
    config: PruningConfig,
) -> dict[str, float]:
    """Return the relative latent error of each change alone, to first order, in every process.

    Args:
        context: the model, and how it draws; each process runs its prompts.
        journal: stores the figures of each call.
        changes: name -> the change, the same in every process; no layer has two.
        config: the settings.

    Raises:
        UserError: no gradient comes back through the pipeline.
        CalibrationError: a gradient has inf or NaN.
        RunFailed: the pipeline cannot be run with gradients.
    """
    if not changes:
        return {}
    device = torch.device(execution_device(context.run.pipe) or "cpu")
    room = activation_room(config, device)

    def trial(i: int, numbers: range) -> Trial:
        name = f"prompts {numbers[0]} to {numbers[-1]}"
        return Trial(
            name, i % context.ranks.size, lambda _: call_figures(context, changes, numbers, room)
        )

    calls = context.calibration_set.first(config.allocation_prompts)
    trials = [trial(i, numbers) for i, numbers in enumerate(calls)]
    found = all_measured(context, journal, trials, lambda *_: None, config)
    rows = [row for each in trials for row in found[each.name]["prompts"]]
    entries, total, squares = (
        sum(row[key] for row in rows) for key in ("entries", "sum", "square")
    )
    spread = squares - total**2 / entries
    if not spread > 0:
        raise CalibrationError("allocation sensitivity: all latents of the pipeline are equal")
    return {name: sum(row["effects"][name] for row in rows) / spread for name in changes}


def call_figures(
    context: CalibrationContext, changes: Mapping[str, Change], numbers: range, room: float = 0.0
) -> dict[str, Any]:
    """Return what some calibration prompts add to the effects, from one call if they can share it.

    Args:
        context: the model, and how it draws.
        changes: name -> the change.
        numbers: the prompts' indices.
        room: bytes for activations that are stored instead of computed again.

    Returns:
        {"prompts": the figures of each}.
    """
    try:
        return {"prompts": figures_of(context, changes, numbers, room)}
    except OneByOne:
        each = [figures_of(context, changes, [number], room) for number in numbers]
        return {"prompts": [figures for found in each for figures in found]}


def figures_of(
    context: CalibrationContext,
    changes: Mapping[str, Change],
    numbers: Sequence[int],
    room: float = 0.0,
) -> list[dict[str, Any]]:
    """Return what each prompt of one call adds to the effects.

    Args:
        context: the model, and how it draws.
        changes: name -> the change.
        numbers: the prompts' indices.
        room: bytes for activations that are stored instead of computed again.

    Returns:
        Of each prompt {"effects": name -> the squared change of the latents, "entries", "sum",
        "square": of the latents}.

    Raises:
        OneByOne: the prompts cannot share a call.
    """
    run, few = context.run, context.calibration_set
    prompts, seeds = [few.prompts[i] for i in numbers], [few.seeds[i] for i in numbers]
    layers = {layer: d for change in changes.values() for layer, d in change.items()}
    probes = Probes(layers, lambda: run.step, len(prompts))
    scale = SCALES.get(model_format(context, layers), 1.0)
    torch.manual_seed(seeds[0])  # for schedulers that draw noise; prepared() set the state aside
    gradients = differentiable(run, context.denoiser, context.blocks, room, len(prompts))
    with gradients, probed(context.denoiser, probes):
        try:
            latents = run.latents(prompts, seeds, few.settings)
            if len(prompts) > 1 and len(latents) != len(prompts):
                raise OneByOne
            called = set(probes.called)
            if latents.requires_grad:
                with one_line_errors(run.pipe):
                    latents.backward(scale * signs(latents, seeds))
        except RunFailed as error:
            raise RunFailed(
                f"{error}; allocation sensitivity runs it with gradients: use allocation drawn"
            ) from error
    require_passed(type(run.pipe).__name__, called, probes.passed)
    return [
        {
            "effects": {
                name: sum(squared_sum(layer, probes, i, scale) for layer in change)
                for name, change in changes.items()
            },
            "entries": z.numel(),
            "sum": z.sum().item(),
            "square": z.square().sum().item(),
        }
        for i, z in enumerate(
            where_double(latents.detach()).double().unflatten(0, (len(prompts), -1))
        )
    ]


def model_format(context: CalibrationContext, layers: Mapping[str, Any]) -> torch.dtype:
    """Return the number format of the first of some layers."""
    return weight_of(context.denoiser.get_submodule(next(iter(layers)))).dtype


def signs(latents: Tensor, seeds: Sequence[int]) -> Tensor:
    """Return random signs in the shape and format of some latents, the same on every device.

    Args:
        latents: those of one or several prompts, in equal parts.
        seeds: the seed of each prompt.
    """
    shape = (len(latents) // len(seeds), *latents.shape[1:])
    drawn = [
        torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds
    ]
    return (2 * torch.cat(drawn) - 1).to(latents)


def squared_sum(layer: str, probes: Probes, prompt: int, scale: float) -> float:
    """Return sum_o s_o^2 of a layer for one prompt; 0 if its output does not reach the latents.

    Raises:
        CalibrationError: it is not finite.
    """
    if layer not in probes.sums:
        return 0.0
    found = (where_double(probes.sums[layer][prompt]).double() / scale).square().sum().item()
    if not math.isfinite(found):
        raise CalibrationError(
            f"{layer}: the gradient at its output has inf or NaN; try another --dtype, or "
            "allocation drawn"
        )
    return found


def require_passed(pipeline: str, called: set[int], passed: set[int]) -> None:
    """Raise UserError unless a gradient came back to every step in which a layer was called."""
    if not called or called - passed:
        raise UserError(
            f"allocation sensitivity: gradients of {pipeline} come back to {len(called & passed)} "
            f"of {len(called)} denoising steps (its scheduler may detach them): use allocation "
            "drawn"
        )
