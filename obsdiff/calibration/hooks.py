"""Gather the Hessians of one package: run the pipeline on the calibration prompts with hooks on the tapped layers.

    H = 2 sum_t alpha_t E[X_t X_t^T]      (OBS-Diff, equation 6)

t counts completed scheduler steps, never denoiser calls: a second-order sampler calls the denoiser more than once in a
step. With classifier-free guidance both halves of the batch are tokens like all others. Layers that read one tensor
share one Hessian; that they really read the same tensor is checked at every call.

Of a pipeline with two denoisers each may run in a part of the steps. T and the step weights stay those of the schedule.

Nothing is silent: a tapped layer that misses a denoiser call, a step with another number of calls, an input with inf
or NaN ends the run with the layer's name.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ..errors import CalibrationError
from ..models.linear_view import matrix, tokens
from ..models.structure import Tap
from ..pipelines.denoisers import DENOISERS
from ..pipelines.run import Run, hooked
from ..runtime.scratch import Scratch
from .context import CalibrationSet
from .hessian import Hessian
from .packages import bytes_of
from .step_weights import step_weight

LARGEST_INPUT, SMALLEST_INPUT = (
    1e15,
    1e-15,
)  # inputs whose squares, and thousands of them together, float32 holds


@dataclass
class CallAudit:
    """Who was called how often: the denoiser and the pipeline's other denoisers, by step, and each tapped layer, in all and in the
    denoiser calls that it took part in."""

    denoiser: int = 0
    per_step: Counter = field(default_factory=Counter)
    others: Counter = field(default_factory=Counter)
    layers: Counter = field(default_factory=Counter)
    present: Counter = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)

    def count(self, layer: str) -> None:
        self.layers[layer] += 1
        if self.last.get(layer) != self.denoiser:
            self.last[layer] = self.denoiser
            self.present[layer] += 1

    def check(self, expected: list[str], steps: int, ranks: int = 1) -> None:
        """Raise CalibrationError unless every layer took part in every denoiser call, as often in each, and every step had the same
        number of denoiser calls, but for steps that only another denoiser ran in. An expert sees the tokens that are sent to it: it
        must have been called at all, if only in another of several processes."""
        if not self.denoiser and self.others:
            raise CalibrationError(
                f"the denoiser ran in none of the {steps} steps, others did: take more steps, or prune another component"
            )
        idle = [
            name for name in expected if is_expert(name) and not self.layers[name] and ranks == 1
        ]
        if idle:
            raise CalibrationError(
                f"{len(idle)} experts saw no token: {', '.join(idle[:8])}; take more prompts or steps, or leave them dense with --exclude '*.experts.*'"
            )
        always = [name for name in expected if not is_expert(name)]
        missed = [
            f"{name} ({self.layers[name]})"
            for name in always
            if self.present[name] != self.denoiser or self.layers[name] % max(self.denoiser, 1)
        ]
        if missed or not self.denoiser:
            raise CalibrationError(
                f"of {self.denoiser} denoiser calls these layers saw fewer or more: {', '.join(missed[:8]) or 'all'}; "
                "layers that this model leaves out on purpose stay dense with --exclude"
            )
        counts = [self.per_step[s] for s in range(steps) if self.per_step[s] or not self.others[s]]
        if len(set(counts)) > 1:
            raise CalibrationError(f"the number of denoiser calls differs between steps: {counts}")


def calibrate(
    run: Run,
    denoiser: nn.Module,
    taps: list[Tap],
    calibration_set: CalibrationSet,
    device: torch.device | str | None = None,
    on_call: Callable[[int], None] = lambda prompts: None,
    audit: CallAudit | None = None,
    scratch: Scratch | None = None,
) -> dict[Tap, Hessian]:
    """One Hessian for each tap, over all prompts and steps. `device` holds them (default: where the layers are), or the disk those
    that `store` has no room for.

    on_call(prompts) is called at each denoiser call with the number of prompts in it; who was called is counted in `account`.
    Raises CalibrationError (layer, step) for missed calls, inputs that are not finite or not shared as the table says.
    """
    hessians = new_hessians(denoiser, taps, device, scratch)
    audit = audit or CallAudit()
    with tapped(run, denoiser, hessians, audit, calibration_set.weighting, on_call):
        for prompts, seeds in calibration_set.batches():
            run.latents(prompts, seeds, calibration_set.settings)
    audit.check([layer for tap in taps for layer in tap.layers], run.steps, calibration_set.ranks)
    return hessians


def new_hessians(
    denoiser: nn.Module,
    taps: list[Tap],
    device: torch.device | str | None = None,
    scratch: Scratch | None = None,
    crossed: bool = False,
) -> dict[Tap, Hessian]:
    """An empty Hessian for each tap, `crossed` with its cross sums; those that the store has no room for are memory-mapped files."""
    found = {}
    for tap in taps:
        layer = denoiser.get_submodule(tap.layers[0])
        columns = matrix(layer).shape[1]
        file = scratch.take(bytes_of(columns)) if scratch else None
        found[tap] = (
            Hessian.mapped(columns, file)
            if file
            else Hessian.zeros(columns, device or layer.weight.device)
        )
        found[tap].cross = torch.zeros_like(found[tap].xx) if crossed else None
    return found


@contextlib.contextmanager
def tapped(
    run: Run,
    denoiser: nn.Module,
    hessians: dict[Tap, Hessian],
    audit: CallAudit,
    weighting: tuple[str, float, float],
    on_call: Callable[[int], None],
    dense: Mapping[Tap, list[Tensor]] = MappingProxyType({}),
) -> Iterator[None]:
    """Hooks on the denoiser and on the tapped layers, removed on the way out. `dense`: what the dense model's taps read in the same calls, if
    cross sums are wanted; used up."""
    hooks = [
        (denoiser, denoiser_hook(run, audit, on_call)),
        *(
            (other, other_denoiser_hook(run, audit))
            for other in other_denoiser_modules(run, denoiser)
        ),
    ]
    for tap, hessian in hessians.items():
        shared = SharedInput(len(tap.layers), dense.get(tap))
        hooks += [
            (
                denoiser.get_submodule(layer),
                layer_hook(run, audit, layer, hessian, shared, weighting),
            )
            for layer in tap.layers
        ]
    with hooked(module.register_forward_pre_hook(hook) for module, hook in hooks):
        yield


def denoiser_hook(run: Run, audit: CallAudit, on_call: Callable[[int], None]) -> Callable:
    def hook(*_) -> None:
        audit.denoiser += 1
        audit.per_step[run.step] += 1
        on_call(run.prompts)

    return hook


def other_denoiser_modules(run: Run, denoiser: nn.Module) -> list[nn.Module]:
    """The pipeline's other denoisers."""
    parts = [getattr(run.pipe, name, None) for name in DENOISERS]
    return [part for part in parts if isinstance(part, nn.Module) and part is not denoiser]


def other_denoiser_hook(run: Run, audit: CallAudit) -> Callable:
    def hook(*_) -> None:
        audit.others[run.step] += 1

    return hook


def is_expert(layer: str) -> bool:
    """Whether a layer belongs to one of several experts that tokens are sent to."""
    return ".experts." in f".{layer}"


@dataclass
class SharedInput:
    """The tensor that the layers of one tap read in the current denoiser call, and which of them have read it; and what the dense model's
    read, if that is to be compared."""

    layers: int
    dense: list[Tensor] | None = None
    reader: str = ""
    tensor: Tensor | None = None
    readers: int = 0


def layer_hook(
    run: Run,
    audit: CallAudit,
    layer: str,
    hessian: Hessian,
    shared: SharedInput,
    weighting: tuple[str, float, float],
) -> Callable:
    """The layer of a tap that is called first adds its input to the Hessian; the others check that theirs is the same tensor."""

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        audit.count(layer)
        x = args[0]
        if (
            shared.tensor is None or shared.reader == layer
        ):  # a new pass, also if not all have read the last one: `settle` will say so
            shared.reader, shared.tensor, shared.readers = layer, x, 0
            numbers = x.detach().float()
            require_summable(numbers, layer, run.step + 1)
            kind, low, high = weighting
            alpha = step_weight(kind, run.step, run.steps, low, high)
            for part, *other in zip(
                tokens(module, numbers), *dense_tokens(module, layer, numbers, shared), strict=True
            ):
                hessian.update(part, alpha, *other)
        elif not same_tensor(x, shared.tensor):
            raise CalibrationError(
                f"{layer} and {shared.reader} were taken to read one tensor, but their inputs differ"
            )
        shared.readers += 1
        if shared.readers == shared.layers:
            shared.tensor, shared.readers = None, 0

    return hook


def dense_tokens(
    module: nn.Module, layer: str, numbers: Tensor, shared: SharedInput
) -> list[Iterator[Tensor]]:
    """The tokens that the dense model's tap read where this one reads `numbers`; none if they are not wanted."""
    if shared.dense is None:
        return []
    if not shared.dense or shared.dense[0].shape != numbers.shape:
        raise CalibrationError(
            f"asymmetric: {layer} reads other tokens than in the dense model, so they can't be compared; leave it out with --exclude '{layer}'"
        )
    return [tokens(module, shared.dense.pop(0).float())]


def require_summable(numbers: Tensor, layer: str, step: int) -> None:
    """CalibrationError for inputs with inf or NaN, and for those whose squares float32 can't sum."""
    least, most = torch.stack(torch.aminmax(numbers)).tolist() if numbers.numel() else (0.0, 0.0)
    size = max(abs(least), abs(most))
    if not math.isfinite(size) or math.isnan(least):
        raise CalibrationError(
            f"{layer}: the input of step {step} has inf or NaN; try another --dtype (float16 overflows where bfloat16 does not)"
        )
    if size > LARGEST_INPUT or 0 < size < SMALLEST_INPUT:
        raise CalibrationError(
            f"{layer}: the input of step {step} is up to {size:.1e}: expected between {SMALLEST_INPUT:g} and {LARGEST_INPUT:g}, or its squares are lost; leave the layer out with --exclude '{layer}'"
        )


def same_tensor(x: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one and the same memory, or equal copies of it (a layer may be given the input in its own format)."""
    return (
        x is other
        or (x.data_ptr(), x.shape, x.stride()) == (other.data_ptr(), other.shape, other.stride())
        or torch.equal(x, other)
    )
