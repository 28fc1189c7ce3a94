"""Which parts of a denoiser can be run by themselves: its blocks one after the other, and who needs whose output.

A segment is a module of the denoiser that holds one or more blocks: transformer_blocks.3, or down_blocks.1 of a UNet. What
lies outside of segments (embeddings, norms at the end) is cheap and is run whenever the denoiser is.

Who needs what is not guessed but tried: with the denoiser's forward as it is, every segment answers at once with a
stand-in, one of them with NaN, and the segments whose inputs turn NaN are the ones that need it. In a chain every
segment needs the one before it; a UNet's skips need more.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter, tree_map_only

from ...models.discovery import segments
from ...models.structure import Block
from ...pipelines.run import hooked, replaced


class StopForward(Exception):
    """Ends a denoiser call when all that was wanted has been seen."""


class CallOrder:
    """The segments in the order in which the denoiser calls them, and what their outputs look like, call by call; which of them each layer
    of the blocks stands in, and how often it was called in all."""

    def __init__(self, blocks: list[Block]):
        self.segments = segments(blocks)
        self.candidates = list(dict.fromkeys(self.segments.values()))
        self.layers = Counter({layer: 0 for block in blocks for layer in block.layers})
        self.calls: list[list[str]] = []
        self.shapes: list[list[Any]] = []

    @property
    def names(self) -> list[str]:
        return self.calls[0]

    @contextlib.contextmanager
    def watched(self, denoiser: nn.Module) -> Iterator[None]:
        """Hooks that write down who is called when, removed on the way out."""

        def begin(*_: Any) -> None:
            self.calls.append([])
            self.shapes.append([])

        def end(name: str, module: nn.Module, args: Any, output: Any) -> None:
            self.calls[-1].append(name)
            self.shapes[-1].append(
                tree_map_only(Tensor, lambda x: x.new_zeros(()).expand(x.shape), output)
            )  # one number of memory

        def count(layer: str, *_: Any) -> None:
            self.layers[layer] += 1

        before = [
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
        """Why the segments can't be run one by one; None if they can."""
        if sorted(self.names) != sorted(self.candidates):
            return "its blocks are not called once each"
        if any(call != self.names for call in self.calls):
            return "its blocks are not called in the same order every time"
        return None

    def stand_in(self, call: int, segment: int, value: float = 0.0) -> Any:
        """Something of the shape of what a segment gives in a call."""
        return tree_map_only(
            Tensor,
            lambda x: x.new_full(x.shape, value if x.is_floating_point() else 0),
            self.shapes[call][segment],
        )


@contextlib.contextmanager
def answering(
    denoiser: nn.Module, names: list[str], answers: dict[int, Callable[[], Any]]
) -> Iterator[None]:
    """Segments, by their place in `names`, that give what their function gives and compute nothing."""
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


def needed_until(denoiser: nn.Module, order: CallOrder, inputs: tuple[tuple, dict]) -> list[int]:
    """For each segment the place of the last one that reads its output: i + 1 all along for a chain. `inputs` are those of the first
    recorded call; no segment is computed."""
    modules, found = [denoiser.get_submodule(name) for name in order.names], []
    for poisoned in range(len(modules)):
        seen = [poisoned]
        hooks = (
            module.register_forward_pre_hook(partial(note_nan, seen, i), with_kwargs=True)
            for i, module in enumerate(modules)
        )
        answers = {
            i: partial(order.stand_in, 0, i, float("nan") if i == poisoned else 1.0)
            for i in range(len(modules))
        }
        with hooked(hooks), answering(denoiser, order.names, answers), torch.no_grad():
            denoiser(*inputs[0], **inputs[1])
        found.append(max(seen))
    return found


def note_nan(seen: list[int], place: int, module: nn.Module, args: tuple, kwargs: dict) -> None:
    if any(
        isinstance(x, Tensor) and x.is_floating_point() and x.isnan().any()
        for x in tree_iter((args, kwargs))
    ):
        seen.append(place)
