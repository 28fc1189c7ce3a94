"""What modulation layers read: at the steps of the calibration prompts, and at times between them.

Their inputs depend on the time step, in some models on the prompt (pooled text), a guidance scale
or the picture's size; never on the latents. So that other samplers and numbers of steps work, the
denoiser is called again at times all over its range, its other arguments as they are: even times to
fit to, and those halfway between them to measure the error. They are dense enough for the fastest
wave of the usual embedding, one radian a time step of 1000. Layers that have read the same at every
step read the same at other times, so such a call stops at the first layer of each kind of input:
in most models before the first attention.

Where all prompts have one input, two of them are enough. Else the arguments of the denoiser's first
call are taken from every other prompt, which is not drawn; the times are spread over all, and the
last quarter is held out.
"""

import contextlib
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CalibrationError, UserError
from ..models.linear_view import weight_of
from ..pipelines.call import Prompt
from ..pipelines.run import denoiser_call, hooked
from ..runtime.display import current
from .context import CalibrationContext

MODULATION_PHASE = "modulation"
TIME = "timestep"  # the argument of a denoiser
CONDITIONS = ("guidance", "original_size", "target_size")  # what else modulation may read
TIMES = 512  # intervals of the range of time steps, at whose ends the layers are fitted
FIRST = 2  # prompts that show whether the prompt matters
LEAST = 4  # prompts at least if it does
ROWS = 4  # inputs to fit to, for each dimension of theirs, if it does
HELD_OUT = 4  # one prompt in so many is held out if it does


@dataclass(frozen=True)
class ModulationInputs:
    """The distinct inputs of modulation layers.

    Layers that read the same have the same tensor.

    Attributes:
        fitted: the inputs (N, I) of each layer to fit to.
        held_out: its inputs (M, I) that measure the error.
        by_prompt: whether they depend on the prompt.
        prompts: number of prompts that were read.
        conditions: what the denoiser reads beside time step and prompt, which did not vary.
    """

    fitted: Mapping[str, Tensor]
    held_out: Mapping[str, Tensor]
    by_prompt: bool
    prompts: int
    conditions: tuple[str, ...]


def gather_modulation(context: CalibrationContext, layers: Sequence[str]) -> ModulationInputs:
    """Draw prompts with the denoiser, and return what its modulation layers read.

    Every process draws the same.

    Args:
        context: the dense model, and how it draws.
        layers: the names of the layers.

    Raises:
        TooFewPrompts: there are too few of them.
        CalibrationError: an input has inf or NaN, or a layer was not called.
    """
    prompts, seeds = context.calibration_set.drawn
    require_prompts(prompts, FIRST, "its inputs are compared between prompts")
    reader = Reader(context, list(layers))
    phases = current()
    phases.plan(MODULATION_PHASE, len(prompts), unit="prompts")
    with reader.attached(), phases.within(MODULATION_PHASE):
        first = reader.draw(prompts[:FIRST], seeds[:FIRST])
        if not reader.by_prompt:
            reader.call_again(first[:1], ends())
            reader.call_again(first[:1], middles(), held_out=True)
        else:
            require_prompts(prompts, LEAST, "the layers of this model read the prompt")
            apart = len(prompts) - len(prompts) // HELD_OUT
            more = [reader.call_of(prompt) for prompt in prompts[FIRST:apart]]
            reader.call_again(first + more, repeated(ends(), ROWS * reader.width()))
            others = [reader.call_of(prompt) for prompt in prompts[apart:]]
            reader.call_again(others, middles(), held_out=True)
    phases.complete(MODULATION_PHASE)
    return reader.inputs(len(prompts) if reader.by_prompt else FIRST)


class TooFewPrompts(UserError):
    """There are too few prompts to fit modulation and to measure the error."""


def require_prompts(prompts: Sequence[Prompt], least: int, why: str) -> None:
    """Raise TooFewPrompts for fewer prompts."""
    if len(prompts) < least:
        raise TooFewPrompts(
            f"modulation: expected at least {least} prompts, since {why}, found {len(prompts)}; "
            "use more prompts, or leave modulation out"
        )


def ends() -> list[float]:
    """Return the times to fit to, as shares of the range."""
    return [i / TIMES for i in range(TIMES + 1)]


def middles() -> list[float]:
    """Return the times that are held out, as shares of the range."""
    return [(i + 0.5) / TIMES for i in range(TIMES)]


def repeated(times: list[float], count: int) -> list[float]:
    """Return all times once, and again in other orders until there are `count`."""
    found, order = list(times), random.Random(0)
    while len(found) < count:
        found += order.sample(times, len(times))
    return found


class EnoughRead(Exception):
    """Ends a call of the denoiser in which every kind of input has been read."""


@dataclass
class Reader:
    """Reads what modulation layers read, by hooks.

    Attributes:
        context: the dense model, and how it draws.
        layers: the names of the layers.
        rows: every distinct input (I,), by its hash.
        fitted: the hashes of the inputs of each layer to fit to, in their order.
        held_out: the same of those that are held out.
        apart: whether inputs are held out now.
        again: the layers whose inputs are still to be read in a repeated call, each with all layers
            that read the same; None in a call of the pipeline.
        now: the time step of the present call.
        top: the largest one so far.
        by_prompt: whether a layer has read two inputs at one time step.
        seen: the input of each layer at each time step.
        given: the arguments of the first call of the present batch.
        conditions: those of CONDITIONS that the denoiser gets.
    """

    context: CalibrationContext
    layers: list[str]
    rows: dict[bytes, Tensor] = field(default_factory=dict)
    fitted: dict[str, dict[bytes, None]] = field(default_factory=dict)
    held_out: dict[str, dict[bytes, None]] = field(default_factory=dict)
    apart: bool = False
    again: dict[str, list[str]] | None = None
    now: float = 0.0
    top: float = 0.0
    by_prompt: bool = False
    seen: dict[tuple[str, float], bytes] = field(default_factory=dict)
    given: dict[str, Any] | None = None
    conditions: tuple[str, ...] = ()

    def attached(self) -> Any:
        """Return a context in which the hooks are set."""
        denoiser = self.context.denoiser

        def handles() -> Iterator[Any]:
            yield denoiser.register_forward_pre_hook(self.begin, with_kwargs=True)
            for name in self.layers:
                layer = denoiser.get_submodule(name)
                yield layer.register_forward_pre_hook(partial(self.read, name))

        return hooked(handles())

    def draw(self, prompts: list[Prompt], seeds: list[int]) -> list[dict[str, Any]]:
        """Draw prompts, read the inputs of all calls, and return the arguments of each batch.

        Args:
            prompts: the prompts.
            seeds: the noise seed of each.
        """
        own = self.context.calibration_set
        found: list[dict[str, Any]] = []
        part = replace(own, prompts=prompts, seeds=seeds, held_out=None, rank=0, ranks=1)
        for some, their_seeds in part.batches():
            self.given = None
            torch.manual_seed(their_seeds[0])  # prepared() has set the user's state aside
            self.context.run.latents(some, their_seeds, part.settings)
            current().advance(MODULATION_PHASE, len(some))
            assert self.given is not None  # run.latents has called the denoiser
            found.append(self.given)
        return found

    def call_of(self, prompt: Prompt) -> dict[str, Any]:
        """Return the arguments of the denoiser's first call of a prompt, which is not drawn."""
        context = self.context
        found = denoiser_call(
            context.run.pipe, context.denoiser, prompt, context.calibration_set.settings
        )
        current().advance(MODULATION_PHASE)
        return found

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Note the arguments of a call, as a hook of the denoiser before it."""
        if self.again is not None:
            return
        given = arguments(module, args, kwargs)
        self.given = self.given or given
        self.now = time_of(given).flatten()[0].item()
        self.top = max(self.top, self.now)
        self.conditions = tuple(name for name in CONDITIONS if given.get(name) is not None)

    @torch.no_grad()
    def call_again(
        self, batches: list[dict[str, Any]], times: list[float], held_out: bool = False
    ) -> None:
        """Call the denoiser at other times, spread over batches, and read its inputs.

        A call has as many times as pictures.

        Args:
            batches: the arguments of calls.
            times: the times, as shares of the range.
            held_out: whether the inputs measure the error.
        """
        denoiser, span, kinds = self.context.denoiser, self.span(), self.kinds()
        self.apart = held_out
        for i, given in enumerate(batches):
            like = time_of(given)
            values = torch.tensor(times[i :: len(batches)], dtype=torch.float64) * span
            for some in values.split(like.numel()):
                filled = some.expand(like.numel()) if len(some) == 1 else some
                steps = like.flatten().clone()
                steps[: len(filled)] = (filled if like.is_floating_point() else filled.round()).to(
                    steps
                )
                self.again = dict(kinds)
                with contextlib.suppress(EnoughRead):
                    denoiser(**given | {TIME: steps.view_as(like)})
        self.again = None

    def kinds(self) -> dict[str, list[str]]:
        """Return the layers by the first that has read the same so far."""
        known: dict[tuple[tuple[bytes, ...], ...], list[str]] = {}
        for name in self.layers:
            parts = (self.fitted.get(name, {}), self.held_out.get(name, {}))
            known.setdefault(tuple(map(tuple, parts)), []).append(name)
        return {layers[0]: layers for layers in known.values()}

    def width(self) -> int:
        """Return the largest number of inputs of a layer."""
        layers = [self.context.denoiser.get_submodule(name) for name in self.layers]
        return max(int(weight_of(layer).shape[1]) for layer in layers)

    def span(self) -> float:
        """Return the largest time step of the model: the schedule may begin below it."""
        scheduler = getattr(self.context.run.pipe, self.context.run.scheduler)
        whole = getattr(getattr(scheduler, "config", None), "num_train_timesteps", None)
        highest = float(torch.as_tensor(scheduler.timesteps).max())
        return self.top * whole / highest if whole and highest > 0 else self.top

    def read(self, name: str, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Store the input of a layer, as its hook.

        Raises:
            CalibrationError: it has inf or NaN.
            EnoughRead: it is the last kind of input of a repeated call.
        """
        if self.again is not None and name not in self.again:
            return
        inputs = args[0].detach().to("cpu", torch.float32).flatten(0, -2)
        if not inputs.isfinite().all():
            raise CalibrationError(f"{name}: its input has inf or NaN at time step {self.now:g}")
        part = self.held_out if self.apart else self.fitted
        for row in inputs.unique(dim=0):
            key = blake2b(row.numpy(), digest_size=16).digest()
            self.rows.setdefault(key, row)
            for layer in [name] if self.again is None else self.again[name]:
                part.setdefault(layer, {})[key] = None
            if self.again is None and self.seen.setdefault((name, self.now), key) != key:
                self.by_prompt = True
        if self.again is not None:
            del self.again[name]
            if not self.again:
                raise EnoughRead

    def inputs(self, prompts: int) -> ModulationInputs:
        """Return what was read; what was fitted to is not held out.

        Args:
            prompts: number of prompts that were drawn.
        """
        known: dict[tuple[bytes, ...], Tensor] = {}

        def stacked(keys: tuple[bytes, ...]) -> Tensor:
            if keys not in known:
                known[keys] = torch.stack([self.rows[key] for key in keys])
            return known[keys]

        found = {}
        for name in self.layers:
            fitted = self.fitted.get(name, {})
            apart = tuple(key for key in self.held_out.get(name, {}) if key not in fitted)
            if not fitted or not apart:
                raise CalibrationError(f"{name}: no input reached it, or all were the same")
            found[name] = stacked(tuple(fitted)), stacked(apart)
        return ModulationInputs(
            {name: rows for name, (rows, _) in found.items()},
            {name: rows for name, (_, rows) in found.items()},
            self.by_prompt,
            prompts,
            self.conditions,
        )


def arguments(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call of a module by their names."""
    names = inspect.signature(module.forward).parameters
    return dict(zip(names, args, strict=False)) | dict(kwargs)


def time_of(given: Mapping[str, Any]) -> Tensor:
    """Return the time steps of a call of a denoiser."""
    return torch.as_tensor(given[TIME])
