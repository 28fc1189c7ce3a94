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

A prompt is a pipeline call of its own, and its v depends on its seed alone, so the figures do not
depend on batch size and number of processes.

References:
    Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
        splines", 1989.
    Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016.
        https://arxiv.org/abs/1604.06174
"""

import math
from collections.abc import Mapping
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
        journal: stores the figures of each prompt.
        changes: name -> the change, the same in every process; no layer has two.
        config: the settings.

    Raises:
        UserError: no gradient comes back through the pipeline.
        CalibrationError: a gradient has inf or NaN.
        RunFailed: the pipeline cannot be run with gradients.
    """
    if not changes:
        return {}
    ranks, count = context.ranks, len(context.calibration_set.prompts[: config.allocation_prompts])

    device = torch.device(execution_device(context.run.pipe) or "cpu")
    room = activation_room(config, device)

    def trial(i: int) -> Trial:
        return Trial(
            f"prompt {i}", i % ranks.size, lambda _: prompt_figures(context, changes, i, room)
        )

    trials = [trial(i) for i in range(count)]
    found = all_measured(context, journal, trials, lambda *_: None, config)
    rows = [found[each.name] for each in trials]
    entries, total, squares = (
        sum(row[key] for row in rows) for key in ("entries", "sum", "square")
    )
    spread = squares - total**2 / entries
    if not spread > 0:
        raise CalibrationError("allocation sensitivity: all latents of the pipeline are equal")
    return {name: sum(row["effects"][name] for row in rows) / spread for name in changes}


def prompt_figures(
    context: CalibrationContext, changes: Mapping[str, Change], number: int, room: float = 0.0
) -> dict[str, Any]:
    """Return what one calibration prompt adds to the effects.

    Args:
        context: the model, and how it draws.
        changes: name -> the change.
        number: the prompt's index.
        room: bytes for activations that are stored instead of computed again.

    Returns:
        {"effects": name -> the squared change of the latents, "entries", "sum", "square": of the
        latents}.
    """
    run, few = context.run, context.calibration_set
    prompt, seed = few.prompts[number], few.seeds[number]
    layers = {layer: d for change in changes.values() for layer, d in change.items()}
    probes = Probes(layers, lambda: run.step)
    scale = SCALES.get(model_format(context, layers), 1.0)
    torch.manual_seed(seed)  # for schedulers that draw noise; prepared() has set the state aside
    gradients = differentiable(run, context.denoiser, context.blocks, room)
    with gradients, probed(context.denoiser, probes):
        try:
            latents = run.latents([prompt], [seed], few.settings)
            called = set(probes.called)
            if latents.requires_grad:
                with one_line_errors(run.pipe):
                    latents.backward(scale * signs(latents, seed))
        except RunFailed as error:
            raise RunFailed(
                f"{error}; allocation sensitivity runs it with gradients: use allocation drawn"
            ) from error
    require_passed(type(run.pipe).__name__, called, probes.passed)
    z = where_double(latents.detach()).double()
    return {
        "effects": {
            name: sum(squared_sum(layer, probes, scale) for layer in change)
            for name, change in changes.items()
        },
        "entries": z.numel(),
        "sum": z.sum().item(),
        "square": z.square().sum().item(),
    }


def model_format(context: CalibrationContext, layers: Mapping[str, Any]) -> torch.dtype:
    """Return the number format of the first of some layers."""
    return weight_of(context.denoiser.get_submodule(next(iter(layers)))).dtype


def signs(latents: Tensor, seed: int) -> Tensor:
    """Return random signs in the shape and format of some latents, the same on every device."""
    drawn = torch.randint(0, 2, latents.shape, generator=torch.Generator().manual_seed(seed))
    return (2 * drawn - 1).to(latents)


def squared_sum(layer: str, probes: Probes, scale: float) -> float:
    """Return sum_o s_o^2 of a layer; 0 if its output does not reach the latents.

    Raises:
        CalibrationError: it is not finite.
    """
    if layer not in probes.sums:
        return 0.0
    found = (where_double(probes.sums[layer]).double() / scale).square().sum().item()
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
