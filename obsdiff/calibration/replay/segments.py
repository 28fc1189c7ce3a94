"""The segments of a denoiser: parts that can run one after the other, and which outputs each reads.

A segment is a module of the denoiser that contains one or more blocks: transformer_blocks.3, or
down_blocks.1 of a UNet. Modules outside of segments (embeddings, final norms) are cheap and run in
every call.

The dependencies are measured: in one call of the denoiser's own forward every segment returns a
stand-in at once, one of them NaN; the segments whose inputs are NaN read its output. In a chain
every segment reads the one before it; a UNet's skips read more.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map_only

from ...models.discovery import segments
from ...models.structure import Block
from ...pipelines.run import hooked, replaced


class StopForward(Exception):
    """Ends a denoiser call once every input that is needed has been read."""


class CallOrder:
    """The order in which a denoiser calls its segments.

    Attributes:
        segments: the segment of each layer of the blocks.
        candidates: the segments.
        layers: the number of calls of each layer.
        calls: the names of the segments in the order of each denoiser call.
        shapes: the outputs of the segments in each call, as tensors of one number.
        longest: the number of calls so far, and the first of those with the most segments.
    """

    def __init__(self, blocks: list[Block]) -> None:
        self.segments = segments(blocks)
        self.candidates = list(dict.fromkeys(self.segments.values()))
        self.layers: Counter[str] = Counter({layer: 0 for b in blocks for layer in b.layers})
        self.calls: list[list[str]] = []
        self.shapes: list[list[Any]] = []
        self.longest: tuple[int, list[str]] = (0, [])

    @property
    def names(self) -> list[str]:
        """The segments in the order of the first call that has the most of them."""
        if self.longest[0] != len(self.calls):
            self.longest = len(self.calls), max(self.calls, key=len)
        return self.longest[1]

    @contextlib.contextmanager
    def watched(self, denoiser: nn.Module) -> Iterator[None]:
        """Record the calls by hooks; remove them at the end."""

        def begin(*_: Any) -> None:
            self.calls.append([])
            self.shapes.append([])

        def end(name: str, module: nn.Module, args: Any, output: Any) -> None:
            self.calls[-1].append(name)
            one_number = tree_map_only(Tensor, lambda x: x.new_zeros(()).expand(x.shape), output)
            self.shapes[-1].append(one_number)

        def count(layer: str, *_: Any) -> None:
            self.layers[layer] += 1

        before: list[tuple[nn.Module, Callable]] = [
            (denoiser, begin),
            *((denoiser.get_submodule(name), partial(count, name)) for name in self.layers),
        ]
        after = [(denoiser.get_submodule(name), partial(end, name)) for name in self.candidates]
        with (
            hooked(module.register_forward_pre_hook(hook) for module, hook in before),
            hooked(module.register_forward_hook(hook) for module, hook in after),
        ):
            yield

    def why_not(self) -> str | None:
        """Return why the segments cannot run one by one; None if they can."""
        names = self.names
        if sorted(names) != sorted(self.candidates):
            return "its blocks are not called once each"
        if any(call != [name for name in names if name in call] for call in self.calls):
            return "its blocks are not called in the same order every time"
        return None

    def stand_in(self, call: int, segment: int, value: float = 0.0) -> Any:
        """Return tensors of the shapes of a segment's output in a call, filled with one value.

        Args:
            call: the index of the call.
            segment: the index of the segment in `names`; it runs in this call.
            value: of floating-point tensors; others are zero.
        """
        place = self.calls[call].index(self.names[segment])
        return tree_map_only(
            Tensor,
            lambda x: x.new_full(x.shape, value if x.is_floating_point() else 0),
            self.shapes[call][place],
        )


@contextlib.contextmanager
def answering(
    denoiser: nn.Module, names: list[str], answers: Mapping[int, Callable[[], Any]]
) -> Iterator[None]:
    """Replace the forward of some segments by functions; restore it at the end.

    Args:
        denoiser: the model.
        names: all segments.
        answers: the function of some segments, by their index in `names`.
    """
    with contextlib.ExitStack() as undo:
        for place, answer in answers.items():
            undo.enter_context(
                replaced(
                    denoiser.get_submodule(names[place]),
                    "forward",
                    lambda *_, answer=answer, **__: answer(),
                )
            )
        yield


def needed_until(
    denoiser: nn.Module, order: CallOrder, inputs: tuple[tuple, dict], call: int = 0
) -> list[int]:
    """Return for each segment the index of the last that reads its output: i + 1 in a chain.

    Args:
        denoiser: the model; no segment computes.
        order: the recorded calls.
        inputs: (args, kwargs) of the call.
        call: its index; a segment that it leaves out is needed by itself alone.
    """
    modules, found = [denoiser.get_submodule(name) for name in order.names], []
    for poisoned in range(len(modules)):
        seen = [poisoned]
        hooks = (
            module.register_forward_pre_hook(partial(note_nan, seen, i), with_kwargs=True)
            for i, module in enumerate(modules)
        )
        answers = {
            i: partial(order.stand_in, call, i, float("nan") if i == poisoned else 1.0)
            for i in range(len(modules))
        }
        with hooked(hooks), answering(denoiser, order.names, answers), torch.no_grad():
            denoiser(*inputs[0], **inputs[1])
        found.append(max(seen))
    return found


def note_nan(seen: list[int], place: int, module: nn.Module, args: tuple, kwargs: dict) -> None:
    """Record the index of a segment with NaN in its inputs, as a hook."""
    if any(
        isinstance(x, Tensor) and x.is_floating_point() and x.isnan().any()
        for x in tree_iter((args, kwargs))
    ):
        seen.append(place)
