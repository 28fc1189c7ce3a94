"""Hooks that sum the Hessians: the pipeline runs on the calibration prompts, with hooks on layers.

    H = 2 sum_t alpha_t E[X_t X_t^T]      (OBS-Diff, timestep-aware Hessian)

t counts completed scheduler steps, never denoiser calls: a second-order sampler calls the denoiser
more than once in a step. With classifier-free guidance both halves of the batch are tokens like all
others. Layers that read one tensor share one Hessian; every call checks that they read the same
tensor.

Each of two denoisers may run in a part of the steps. T and the step weights are those of the
schedule.

Guidance may call the denoiser more often in a part of the steps, or leave layers out of a part of
the calls; each call has the weight of its step. Where a part of the schedule runs (image to image),
T is the number of steps that run.

A calibration set with a target of tokens per column keeps a part of the tokens (thinning.py); what
is not kept is never converted or unfolded.

A tapped layer that misses a step, or an input with inf or NaN, raises an error with the layer's
name, at the end of the step: no hook waits for the device.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from ..errors import CalibrationError
from ..models.linear_view import matrix
from ..models.structure import Tap
from ..pipelines.denoisers import DENOISERS
from ..pipelines.run import Run, hooked
from ..runtime.device_memory import exact
from ..runtime.scratch import Scratch
from .calibrated_input import CalibratedInput
from .calibration_set import CalibrationSet
from .call_audit import CallAudit, is_expert
from .context import CalibratedInputs, CalibrationContext
from .hessian import Hessian, row_sums
from .input_checks import InputChecks
from .packages import bytes_of
from .packed_layout import BAND, wide_band
from .thinning import KeptTokens, Thinning, parts_of


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
    with tapped(context, inputs, audit, calibration_set=calibration_set) as checks:
        for prompts, seeds in calibration_set.batches():
            latents = context.run.latents(prompts, seeds, calibration_set.settings)
            checks.settle()
            require_finite(latents)
    layers = [layer for tap in taps for layer in tap.layers]
    audit.check(layers, context.run.steps, calibration_set.ranks)
    return inputs


def require_finite(latents: Any) -> None:
    """Raise CalibrationError for final latents with inf or NaN."""
    if isinstance(latents, Tensor) and not latents.isfinite().all():
        raise CalibrationError(
            "the latents of the calibration prompts have inf or NaN; try another --dtype "
            "(float16 overflows where bfloat16 does not)"
        )


def new_inputs(
    context: CalibrationContext,
    taps: list[Tap],
    scratch: Scratch | None = None,
    crossed: bool = False,
) -> CalibratedInputs:
    """Return empty sums for each tap, with cross sums if `crossed`.

    Hessians rest where the scratch storage has room: on their device, in host memory, or in
    memory-mapped files.
    """
    found: CalibratedInputs = {}
    layers = [context.denoiser.get_submodule(tap.layers[0]) for tap in taps]
    for tap, layer, device in zip(taps, layers, context.computing(layers), strict=True):
        columns = matrix(layer).shape[1]
        home = str(exact(context.device or device))
        band = wide_band(columns) if home in context.scratch.devices else BAND
        sizes = bytes_of(columns, band), bytes_of(columns)
        place = scratch.place(sizes[0], home, sizes[1]) if scratch else home
        hessian = (
            Hessian.mapped(columns, place, device)
            if isinstance(place, Path)
            else Hessian.zeros(columns, device, resting=place, band=band if place == home else BAND)
        )
        cross = hessian.packed.new_zeros(columns, columns) if crossed else None
        found[tap] = CalibratedInput(hessian, cross=cross)
    return found


@contextlib.contextmanager
def tapped(
    context: CalibrationContext,
    inputs: CalibratedInputs,
    audit: CallAudit,
    dense: Mapping[Tap, list[Tensor]] = MappingProxyType({}),
    calibration_set: CalibrationSet | None = None,
) -> Iterator[InputChecks]:
    """Hook the denoiser and the tapped layers; remove the hooks at the end.

    Args:
        context: the calibration context.
        inputs: the sums that the hooks add to.
        audit: counts the calls.
        dense: the inputs of the dense model's taps in the same calls, for cross sums; used up.
        calibration_set: the prompts (default: those of the context).

    Yields:
        The checks of the inputs, which are read at the latest at the end.

    Raises:
        CalibrationError: for inputs that are not finite, or not shared as the block table states.
    """
    calibration_set = calibration_set or context.calibration_set
    run, denoiser = context.run, context.denoiser
    others = other_denoiser_modules(run, denoiser)
    thinning = Thinning(
        calibration_set.tokens_per_column,
        len(calibration_set.prompts),
        run,
        1 + len(others),
    )
    calls = Calls(run, calibration_set, audit, thinning)
    hooks: list[tuple[nn.Module, Callable]] = [
        (other, other_denoiser_hook(run, audit)) for other in others
    ]
    for tap, calibrated in inputs.items():
        shared = SharedInput(len(tap.layers), dense.get(tap))
        hooks += [
            (denoiser.get_submodule(layer), layer_hook(calls, layer, calibrated, shared))
            for layer in tap.layers
        ]
    with (
        denoiser.register_forward_pre_hook(denoiser_hook(calls, context.on_call), with_kwargs=True),
        hooked(module.register_forward_pre_hook(hook) for module, hook in hooks),
    ):
        yield calls.checks
        calls.checks.settle()


@dataclass
class Calls:
    """What the hooks of one calibration share.

    Attributes:
        run: the position of the current call.
        calibration_set: the prompts, with the step weights.
        audit: counts the calls.
        thinning: draws the tokens that are kept.
        checks: what was found of the inputs of this step.
    """

    run: Run
    calibration_set: CalibrationSet
    audit: CallAudit
    thinning: Thinning
    checks: InputChecks = field(default_factory=InputChecks)

    @property
    def weight(self) -> float:
        """Alpha of the current step."""
        return self.calibration_set.step_weights.at(self.run.step, self.run.steps)


def denoiser_hook(calls: Calls, on_call: Callable[[int], None]) -> Callable:
    """Return a hook that counts the denoiser's calls, and checks the inputs of the last step."""
    run, audit = calls.run, calls.audit

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        audit.begin(run.batch, run.step)
        if not audit.within:
            calls.checks.settle()
        calls.thinning.begin(audit.within, args, kwargs)
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
    calls: Calls, layer: str, calibrated: CalibratedInput, shared: SharedInput
) -> Callable:
    """Return a hook for one layer of a tap.

    The layer that is called first adds its input to the sums; the others check that theirs is the
    same tensor.
    """
    audit = calls.audit

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        audit.count(layer)
        x = args[0].detach()
        # A new pass, even if not all layers read the last tensor: the audit reports those.
        if shared.tensor is None or shared.reader == layer or shared.call != audit.denoiser:
            shared.reader, shared.tensor, shared.readers = layer, x, 0
            shared.call = audit.denoiser
            add_input(calls, layer, module, x, calibrated, shared)
        else:
            calls.checks.same(x, shared.tensor, layer, shared.reader)
        shared.readers += 1
        if shared.readers == shared.layers:
            shared.tensor, shared.readers = None, 0

    return hook


def add_input(
    calls: Calls,
    layer: str,
    module: nn.Module,
    x: Tensor,
    calibrated: CalibratedInput,
    shared: SharedInput,
) -> None:
    """Add the input of a layer to the sums of its tap.

    Args:
        calls: what all hooks share.
        layer: the layer.
        module: the same as a module.
        x: its input.
        calibrated: the sums.
        shared: the tap, with the dense model's inputs for cross sums.
    """
    columns = matrix(module).shape[1]
    kept = calls.thinning.kept(module, x, columns, is_expert(layer))
    alpha = calls.weight
    dense = dense_tokens(module, layer, x, shared, kept)
    for part, represented in parts_of(module, x if kept else summed(x), kept):
        rows = summed(part)
        sums = row_sums(rows) if rows.device.type != "cpu" else None  # a CPU has a faster check
        calls.checks.summable(rows, layer, calls.run.step + 1, sums)
        calibrated.hessian.update(rows, alpha, represented, sums)
        if dense:
            calibrated.update_cross(rows, alpha, next(dense), represented)


def summed(x: Tensor) -> Tensor:
    """Return an input in the format in which it is summed: a CPU sums float32."""
    return x.float() if x.device.type == "cpu" else x


def dense_tokens(
    module: nn.Module, layer: str, x: Tensor, shared: SharedInput, kept: KeptTokens | None
) -> Iterator[Tensor] | None:
    """Return the same tokens of the dense model's tap, in parts; None without cross sums."""
    if shared.dense is None:
        return None
    if not shared.dense or shared.dense[0].shape != x.shape:
        raise CalibrationError(
            f"asymmetric: {layer} reads other tokens than in the dense model, "
            f"so they can't be compared; leave it out with --exclude '{layer}'"
        )
    dense = shared.dense.pop(0)
    return (part for part, _ in parts_of(module, dense if kept else summed(dense), kept))
