"""A recorded dense trajectory: every denoiser call with its inputs, to run again block by block.

Tensors are stored in a cache: on their device and in host memory up to a limit each, then in
safetensors files. An input that equals that of the call before, such as the encoded text, is stored
once.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from ...pipelines.run import Run, hooked
from ...runtime.device_memory import exact
from ...runtime.scratch import Scratch, disk_errors
from ..context import CalibrationContext
from .segments import CallOrder, StopForward, answering


@dataclass(frozen=True, eq=False)
class CachedTensor:
    """A tensor in the cache.

    Attributes:
        held: the tensor, or the file that stores it.
        home: its original device.
        size: its bytes.
    """

    held: Tensor | Path
    home: torch.device
    size: int


@dataclass(frozen=True)
class TensorCache:
    """Tensors in memory or in files of the scratch storage; `get` returns them to their device.

    The scratch storage decides: on the device, in host memory, or in a file.

    Attributes:
        scratch: counts the memory, and names the files.
        device: the device whose memory stores tensors (None: that of each tensor).
    """

    scratch: Scratch
    device: str | None = None

    def put(self, tensor: Tensor) -> CachedTensor:
        """Store a copy."""
        size = tensor.numel() * tensor.element_size()
        place = self.scratch.place(size, self.home(tensor.device))
        if isinstance(place, Path):
            with disk_errors(place):
                save_file({"x": tensor.detach().cpu().contiguous()}, place)
            return CachedTensor(place, tensor.device, size)
        copied = tensor.detach().to(place, copy=True, memory_format=torch.contiguous_format)
        return CachedTensor(copied, tensor.device, size)

    def home(self, device: torch.device) -> str:
        """Return the name of the device that stores tensors of a device first."""
        return str(exact(self.device or device))

    def adopt(self, tensor: Tensor, file: Path, home: torch.device) -> CachedTensor:
        """Return a tensor that a file stores: in memory if there is room, else in that file."""
        size = tensor.numel() * tensor.element_size()
        place = self.scratch.reserve(size, self.home(home))
        return CachedTensor(tensor.to(place, copy=True) if place else file, home, size)

    def get(self, kept: CachedTensor) -> Tensor:
        """Return the tensor, contiguous.

        A stored file is copied out of its mapping: the alignment decides how products round.
        """
        return (
            load_file(kept.held)["x"].to(kept.home, copy=True)
            if isinstance(kept.held, Path)
            else kept.held.to(kept.home)
        )

    def drop(self, kept: CachedTensor) -> None:
        """Release the storage of a tensor, which must not be used again."""
        held = kept.held
        self.scratch.give_back(kept.size, held if isinstance(held, Path) else str(held.device))

    def put_all(self, tree: Any) -> Any:
        """Return a tree (tuples, lists, dicts) with its tensors stored."""
        return tree_map_only(Tensor, self.put, tree)

    def get_all(self, tree: Any) -> Any:
        """Return a stored tree with its tensors."""
        return tree_map_only(CachedTensor, self.get, tree)

    def drop_all(self, tree: Any) -> None:
        """Release all tensors of a stored tree."""
        tree_map_only(CachedTensor, self.drop, tree)


@dataclass(frozen=True)
class Call:
    """One call of the denoiser.

    Attributes:
        step: the index of its step.
        prompts: the number of prompts in it.
        inputs: (args, kwargs), with CachedTensor for tensors.
        batch: the number of its batch.
        steps: T of its batch.
        seeds: the noise seed of each prompt.
    """

    step: int
    prompts: int
    inputs: Any
    batch: int = 0
    steps: int | None = None
    seeds: tuple[int, ...] = ()


@dataclass
class Recording:
    """The denoiser's calls, in order.

    Attributes:
        cache: stores their tensors.
        steps: T, the number of steps.
        calls: the calls.
        others: calls of the pipeline's other denoisers, by step.
    """

    cache: TensorCache
    steps: int = 0
    calls: list[Call] = field(default_factory=list)
    others: Counter = field(default_factory=Counter)

    def add(self, run: Run, args: tuple, kwargs: dict) -> None:
        """Record a call; inputs that equal those of the call before are stored once."""
        leaves, spec = tree_flatten((args, kwargs))
        before = tree_flatten(self.calls[-1].inputs)[0] if self.calls else []
        again = self.repeated(leaves, before)
        kept = [
            again.get(i) or self.cache.put(x) if isinstance(x, Tensor) else x
            for i, x in enumerate(leaves)
        ]
        inputs = tree_unflatten(kept, spec)
        self.calls.append(Call(run.step, run.prompts, inputs, run.batch, run.steps, run.seeds))

    def repeated(self, leaves: list[Any], before: list[Any]) -> dict[int, CachedTensor]:
        """Return the cached tensors of the call before that equal those of a call, by their place.

        The devices are waited for once.
        """
        found: dict[int, CachedTensor] = {}
        differ: list[Tensor] = []
        devices = [x.device for x in leaves if isinstance(x, Tensor)]
        device = next((d for d in devices if d.type != "cpu"), torch.device("cpu"))
        for i, (new, old) in enumerate(zip(leaves, before, strict=False)):
            if isinstance(new, Tensor) and isinstance(old, CachedTensor):
                other = self.cache.get(old)
                if alike(new) == alike(other):
                    found[i] = old
                    differ.append((new != other).any().to(device))
        if not found:
            return {}
        changed = torch.stack(differ).tolist()
        return {i: found[i] for i, other in zip(found, changed, strict=True) if not other}


def alike(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two equal tensors share beside their numbers."""
    return tensor.shape, tensor.dtype, tensor.device


@contextlib.contextmanager
def recorded(run: Run, denoiser: nn.Module, recording: Recording) -> Iterator[None]:
    """Record the denoiser's calls by a hook; remove it at the end."""

    def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
        recording.add(run, args, kwargs)

    with denoiser.register_forward_pre_hook(hook, with_kwargs=True):
        yield


@dataclass
class Trajectory:
    """A recorded dense trajectory, and the segment outputs that a replay has cached.

    Attributes:
        recording: the calls.
        order: the segments that the calls run through.
        until: for each call, for each segment the index of the last that reads its output.
        outputs: for each call the cached outputs, by the index of their segment.
        why_not: why the trajectory cannot be replayed, or None.
    """

    recording: Recording
    order: CallOrder
    until: list[list[int]] = field(default_factory=list)
    outputs: list[dict[int, Any]] = field(default_factory=list)
    why_not: str | None = None

    def clear(self) -> None:
        """Drop all cached outputs, not the recording."""
        for outputs in self.outputs:
            self.recording.cache.drop_all(list(outputs.values()))
        self.outputs = []


class Span(NamedTuple):
    """The segments of one replayed call, by index.

    Attributes:
        start: the first that runs; those before it return their cached outputs.
        border: outputs of segments before it are cached, since they no longer change.
        last: the last that runs.
    """

    start: int
    border: int
    last: int


def rerun(context: CalibrationContext, trajectory: Trajectory, index: int, span: Span) -> None:
    """Run the segments of a span of one recorded call.

    Args:
        context: the calibration context.
        trajectory: the recorded trajectory; its cached outputs are updated.
        index: the index of the call.
        span: the segments that run.
    """
    run, denoiser = context.run, context.denoiser
    call: Call = trajectory.recording.calls[index]
    cache, order = trajectory.recording.cache, trajectory.order
    outputs, until = trajectory.outputs[index], trajectory.until[index]

    def answer(place: int) -> Any:
        if place not in outputs and until[place] >= span.start:
            raise RuntimeError(
                f"replay lost the output of {order.names[place]}, which a later block needs"
            )
        return cache.get_all(outputs[place]) if place in outputs else order.stand_in(index, place)

    def keep(place: int, module: nn.Module, args: Any, output: Any) -> None:
        if until[place] >= span.border:
            outputs[place] = cache.put_all(output)

    def stop() -> None:
        raise StopForward

    hooks = (
        denoiser.get_submodule(order.names[i]).register_forward_hook(partial(keep, i))
        for i in range(span.start, span.border)
    )
    answers: dict[int, Callable[[], Any]] = {i: partial(answer, i) for i in range(span.start)}
    answers |= dict.fromkeys(range(span.last + 1, len(order.names)), stop)
    run.at_call(call.step, call.prompts, call.batch, call.steps, call.seeds)
    args, kwargs = cache.get_all(call.inputs)
    with (
        hooked(hooks),
        answering(denoiser, order.names, answers),
        torch.no_grad(),
        contextlib.suppress(StopForward),
    ):
        denoiser(*args, **kwargs)
    for place in [place for place in outputs if until[place] < span.border]:
        cache.drop_all(outputs.pop(place))
