"""Hooks that sum the Hessians: the pipeline runs on the calibration prompts, with hooks on layers.

    H = 2 sum_t alpha_t E[X_t X_t^T]      (OBS-Diff, equation 6)

t counts completed scheduler steps, never denoiser calls: a second-order sampler calls the denoiser
more than once in a step. With classifier-free guidance both halves of the batch are tokens like all
others. Layers that read one tensor share one Hessian; every call checks that they read the same
tensor.

Each of two denoisers may run in a part of the steps. T and the step weights are those of the
schedule.

Guidance may call the denoiser more often in a part of the steps, or leave layers out of a part of
the calls; each call has the weight of its step. Where a part of the schedule runs (image to image),
T is the number of steps that run.

A tapped layer that misses a step, or an input with inf or NaN, raises an error with the layer's
name.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CalibrationError
from ..models.linear_view import matrix, tokens
from ..models.structure import Tap
from ..pipelines.denoisers import DENOISERS
from ..pipelines.run import Run, hooked
from ..runtime.scratch import Scratch
from .calibrated_input import CalibratedInput
from .calibration_set import CalibrationSet
from .call_audit import CallAudit
from .context import CalibratedInputs, CalibrationContext
from .hessian import Hessian
from .packages import bytes_of

# The squares of inputs in this range, and sums of thousands of them, are finite in float32.
LARGEST_INPUT, SMALLEST_INPUT = 1e15, 1e-15


def calibrate(
    context: CalibrationContext,
    taps: list[Tap],
    calibration_set: CalibrationSet | None = None,
    audit: CallAudit | None = None,
    scratch: Scratch | None = None,
) -> CalibratedInputs:
    """Run all prompts and steps, and sum one Hessian for each tap.

    Args:
        context: the calibration context.
        taps: the inputs to sum.
        calibration_set: the prompts (default: those of the context).
        audit: counts the calls (default: a new one).
        scratch: storage for Hessians that exceed the memory (default: all stay in memory).

    Returns:
        The sums of this process, by tap.

    Raises:
        CalibrationError: with layer and step, for missed calls, and for inputs that are not
            finite, or not shared as the block table states.
    """
    calibration_set = calibration_set or context.calibration_set
    inputs = new_inputs(context, taps, scratch)
    audit = audit or CallAudit()
    with tapped(context, inputs, audit):
        for prompts, seeds in calibration_set.batches():
            context.run.latents(prompts, seeds, calibration_set.settings)
    layers = [layer for tap in taps for layer in tap.layers]
    audit.check(layers, context.run.steps, calibration_set.ranks)
    return inputs


def new_inputs(
    context: CalibrationContext,
    taps: list[Tap],
    scratch: Scratch | None = None,
    crossed: bool = False,
) -> CalibratedInputs:
    """Return empty sums for each tap, with cross sums if `crossed`.

    Hessians for which the scratch storage has no memory are memory-mapped files.
    """
    found: CalibratedInputs = {}
    for tap in taps:
        layer = context.denoiser.get_submodule(tap.layers[0])
        weight = matrix(layer)
        columns = weight.shape[1]
        file = scratch.take(bytes_of(columns)) if scratch else None
        hessian = (
            Hessian.mapped(columns, file)
            if file
            else Hessian.zeros(columns, context.device or weight.device)
        )
        cross = torch.zeros_like(hessian.xx) if crossed else None
        found[tap] = CalibratedInput(hessian, cross=cross)
    return found


@contextlib.contextmanager
def tapped(
    context: CalibrationContext,
    inputs: CalibratedInputs,
    audit: CallAudit,
    dense: Mapping[Tap, list[Tensor]] = MappingProxyType({}),
) -> Iterator[None]:
    """Hook the denoiser and the tapped layers; remove the hooks at the end.

    Args:
        context: the calibration context.
        inputs: the sums that the hooks add to.
        audit: counts the calls.
        dense: the inputs of the dense model's taps in the same calls, for cross sums; used up.
    """
    run, denoiser = context.run, context.denoiser
    hooks = [
        (denoiser, denoiser_hook(run, audit, context.on_call)),
        *(
            (other, other_denoiser_hook(run, audit))
            for other in other_denoiser_modules(run, denoiser)
        ),
    ]
    for tap, calibrated in inputs.items():
        shared = SharedInput(len(tap.layers), dense.get(tap))
        hooks += [
            (
                denoiser.get_submodule(layer),
                layer_hook(context, audit, layer, calibrated, shared),
            )
            for layer in tap.layers
        ]
    with hooked(module.register_forward_pre_hook(hook) for module, hook in hooks):
        yield


def denoiser_hook(run: Run, audit: CallAudit, on_call: Callable[[int], None]) -> Callable:
    """Return a hook that counts the denoiser's calls."""

    def hook(*_: Any) -> None:
        audit.begin(run.batch, run.step)
        on_call(run.prompts)

    return hook


def other_denoiser_modules(run: Run, denoiser: nn.Module) -> list[nn.Module]:
    """Return the pipeline's other denoisers."""
    parts = [getattr(run.pipe, name, None) for name in DENOISERS]
    return [part for part in parts if isinstance(part, nn.Module) and part is not denoiser]


def other_denoiser_hook(run: Run, audit: CallAudit) -> Callable:
    """Return a hook that counts the calls of another denoiser."""

    def hook(*_: Any) -> None:
        audit.others[run.step] += 1

    return hook


@dataclass
class SharedInput:
    """The tensor that the layers of one tap read in the current denoiser call.

    Attributes:
        layers: number of layers of the tap.
        dense: the inputs of the dense model's tap that are still to be compared, or None.
        reader: the layer that read the tensor first.
        tensor: the tensor; None once every layer has read it.
        readers: number of layers that have read it.
        call: the denoiser call in which they read it.
    """

    layers: int
    dense: list[Tensor] | None = None
    reader: str = ""
    tensor: Tensor | None = None
    readers: int = 0
    call: int = 0


def layer_hook(
    context: CalibrationContext,
    audit: CallAudit,
    layer: str,
    calibrated: CalibratedInput,
    shared: SharedInput,
) -> Callable:
    """Return a hook for one layer of a tap.

    The layer that is called first adds its input to the sums; the others check that theirs is the
    same tensor.
    """
    run, weights = context.run, context.calibration_set.step_weights

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        audit.count(layer)
        x = args[0]
        # A new pass, even if not all layers read the last tensor: the audit reports those.
        if shared.tensor is None or shared.reader == layer or shared.call != audit.denoiser:
            shared.reader, shared.tensor, shared.readers = layer, x, 0
            shared.call = audit.denoiser
            numbers = x.detach().float()
            require_summable(numbers, layer, run.step + 1)
            alpha = weights.at(run.step, run.steps)
            for part, *dense in zip(
                tokens(module, numbers), *dense_tokens(module, layer, numbers, shared), strict=True
            ):
                calibrated.hessian.update(part, alpha)
                if dense:
                    calibrated.update_cross(part, alpha, dense[0])
        elif not same_tensor(x, shared.tensor):
            raise CalibrationError(
                f"{layer} and {shared.reader}: expected one tensor as the input of both, "
                "found that their inputs differ"
            )
        shared.readers += 1
        if shared.readers == shared.layers:
            shared.tensor, shared.readers = None, 0

    return hook


def dense_tokens(
    module: nn.Module, layer: str, numbers: Tensor, shared: SharedInput
) -> list[Iterator[Tensor]]:
    """Return the tokens of the dense model's tap for the same input; [] without cross sums."""
    if shared.dense is None:
        return []
    if not shared.dense or shared.dense[0].shape != numbers.shape:
        raise CalibrationError(
            f"asymmetric: {layer} reads other tokens than in the dense model, "
            f"so they can't be compared; leave it out with --exclude '{layer}'"
        )
    return [tokens(module, shared.dense.pop(0).float())]


def require_summable(numbers: Tensor, layer: str, step: int) -> None:
    """Raise CalibrationError for inputs with inf or NaN, or whose squares float32 cannot sum."""
    least, most = torch.stack(torch.aminmax(numbers)).tolist() if numbers.numel() else (0.0, 0.0)
    size = max(abs(least), abs(most))
    if not math.isfinite(size) or math.isnan(least):
        raise CalibrationError(
            f"{layer}: the input of step {step} has inf or NaN; try another --dtype "
            "(float16 overflows where bfloat16 does not)"
        )
    if size > LARGEST_INPUT or 0 < size < SMALLEST_INPUT:
        raise CalibrationError(
            f"{layer}: the input of step {step} is up to {size:.1e}: expected between "
            f"{SMALLEST_INPUT:g} and {LARGEST_INPUT:g}, or its squares are lost; "
            f"leave the layer out with --exclude '{layer}'"
        )


def same_tensor(x: Tensor, other: Tensor) -> bool:
    """Return whether two tensors share memory or are equal (one may be cast to a dtype)."""
    return (
        x is other
        or (x.data_ptr(), x.shape, x.stride()) == (other.data_ptr(), other.shape, other.stride())
        or torch.equal(x, other)
    )
