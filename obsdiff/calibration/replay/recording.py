"""One dense trajectory, written down: every denoiser call with its inputs, so that it can be run again block by block.

Tensors lie on a Shelf: in memory as long as there is room, then in memory-mapped safetensors files. An input that is the
same in the next call, such as the encoded text, is kept once.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from ...pipelines.run import Run, hooked
from ...runtime.scratch import Scratch, disk_errors
from .segments import CallOrder, StopForward, answering


@dataclass(frozen=True, eq=False)
class CachedTensor:
    """Stands for a tensor that was put on the shelf: it, or its file; the device that it came from; its bytes."""

    held: Tensor | Path
    home: torch.device
    size: int


@dataclass(frozen=True)
class TensorCache:
    """Tensors in the store's memory or its files. They come back on the device that they came from; memory is that of `device` (default:
    their own)."""

    scratch: Scratch
    device: str | None = None

    def put(self, tensor: Tensor) -> CachedTensor:
        """Keep a copy."""
        size = tensor.numel() * tensor.element_size()
        file = self.scratch.take(size)
        if file:
            with disk_errors(file):
                save_file({"x": tensor.detach().cpu().contiguous()}, file)
        return CachedTensor(
            file
            or tensor.detach().to(
                self.device or tensor.device, copy=True, memory_format=torch.contiguous_format
            ),
            tensor.device,
            size,
        )

    def get(self, kept: CachedTensor) -> Tensor:
        """The tensor, contiguous. One from a file is copied out of it: where it lies in memory decides how products round."""
        return (
            load_file(kept.held)["x"].to(kept.home, copy=True)
            if isinstance(kept.held, Path)
            else kept.held.to(kept.home)
        )

    def drop(self, kept: CachedTensor) -> None:
        """Give a tensor's room back; whoever has the Kept forgets it."""
        self.scratch.give_back(kept.size, kept.held if isinstance(kept.held, Path) else None)

    def put_all(self, tree: Any) -> Any:
        """The tree (tuples, lists, dicts) with its tensors on the shelf."""
        return tree_map_only(Tensor, self.put, tree)

    def get_all(self, tree: Any) -> Any:
        return tree_map_only(CachedTensor, self.get, tree)

    def drop_all(self, tree: Any) -> None:
        tree_map_only(CachedTensor, self.drop, tree)


@dataclass(frozen=True)
class Call:
    """One call of the denoiser: in which step, for how many prompts, and (args, kwargs) with Kept for tensors."""

    step: int
    prompts: int
    inputs: Any


@dataclass
class Recording:
    """The denoiser's calls in their order, the number of steps T, and the calls of the pipeline's other denoisers by step."""

    cache: TensorCache
    steps: int = 0
    calls: list[Call] = field(default_factory=list)
    others: Counter = field(default_factory=Counter)

    def add(self, run: Run, args: tuple, kwargs: dict) -> None:
        """Write a call down; leaves that equal those of the call before are not kept again."""
        leaves, spec = tree_flatten((args, kwargs))
        before = tree_flatten(self.calls[-1].inputs)[0] if self.calls else []
        kept = [
            self.same(x, before[i] if i < len(before) else None) if isinstance(x, Tensor) else x
            for i, x in enumerate(leaves)
        ]
        self.calls.append(Call(run.step, run.prompts, tree_unflatten(kept, spec)))

    def same(self, tensor: Tensor, before: Any) -> CachedTensor:
        if isinstance(before, CachedTensor):
            other = self.cache.get(before)
            if (other.shape, other.dtype, other.device) == (
                tensor.shape,
                tensor.dtype,
                tensor.device,
            ) and torch.equal(other, tensor):
                return before
        return self.cache.put(tensor)


@contextlib.contextmanager
def recorded(run: Run, denoiser: nn.Module, recording: Recording) -> Iterator[None]:
    """A hook that writes the denoiser's calls down, removed on the way out."""

    def hook(_: nn.Module, args: tuple, kwargs: dict) -> None:
        recording.add(run, args, kwargs)

    with denoiser.register_forward_pre_hook(hook, with_kwargs=True):
        yield


@dataclass
class Trajectory:
    """A recorded dense trajectory: the calls, the segments they went through, how long each segment's output is needed, and for
    every call the outputs that are on the shelf now, by the segment's place. `why_not` says why it can't be replayed."""

    recording: Recording
    order: CallOrder
    until: list[int] = field(default_factory=list)
    outputs: list[dict[int, Any]] = field(default_factory=list)
    why_not: str | None = None

    def clear(self) -> None:
        """Take everything off the shelf but the recording."""
        for outputs in self.outputs:
            self.recording.cache.drop_all(list(outputs.values()))
        self.outputs = []


def rerun(
    run: Run,
    denoiser: nn.Module,
    trajectory: Trajectory,
    number: int,
    start: int,
    border: int,
    last: int,
) -> None:
    """Run one recorded call from segment `start` to `last`, and keep what those before `border` give: they never change again. All before
    `start` answer from the shelf."""
    call: Call = trajectory.recording.calls[number]
    cache, order, outputs, until = (
        trajectory.recording.cache,
        trajectory.order,
        trajectory.outputs[number],
        trajectory.until,
    )

    def answer(place: int) -> Any:
        if place not in outputs and until[place] >= start:
            raise RuntimeError(
                f"replay lost what {order.names[place]} gave, which a later block needs"
            )
        return cache.get_all(outputs[place]) if place in outputs else order.stand_in(number, place)

    def keep(place: int, module: nn.Module, args: Any, output: Any) -> None:
        if until[place] >= border:
            outputs[place] = cache.put_all(output)

    def stop() -> None:
        raise StopForward

    hooks = (
        denoiser.get_submodule(order.names[i]).register_forward_hook(partial(keep, i))
        for i in range(start, border)
    )
    answers = {i: partial(answer, i) for i in range(start)} | dict.fromkeys(
        range(last + 1, len(order.names)), stop
    )
    run.step, run.prompts = call.step, call.prompts
    args, kwargs = cache.get_all(call.inputs)
    with (
        hooked(hooks),
        answering(denoiser, order.names, answers),
        torch.no_grad(),
        contextlib.suppress(StopForward),
    ):
        denoiser(*args, **kwargs)
    for place in [place for place in outputs if until[place] < border]:
        cache.drop_all(outputs.pop(place))
