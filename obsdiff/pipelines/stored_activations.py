"""Which activations of a denoiser the forward stores for the backward pass, by the room for them.

    both        a call stores its arguments, a block its input: least memory, two more forwards
    call        a call stores its arguments alone; computed again, it stores all its activations
    none        all calls store all activations: fastest

The first call of a run is computed once more, to count what it would store, without storing it.
Several prompts share a call only where nothing is checkpointed: one at a time they need less.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Forward = Callable[..., Any]
CALLS = 2  # of the denoiser in a step, at most: some pipelines guide by two calls, or step twice


class OneByOne(Exception):
    """Several prompts cannot share a call with gradients."""


class Activations:
    """Decides at the first call what is checkpointed.

    Args:
        room: bytes for stored activations; 0 always checkpoints both.
        steps: returns the number of denoising steps.
        weights: the tensors of the model, which are not counted.
        prompts: prompts of the call.

    Raises:
        OneByOne: several prompts, and no room for all activations.
    """

    def __init__(
        self,
        room: float,
        steps: Callable[[], int],
        weights: Sequence[Tensor] = (),
        prompts: int = 1,
    ) -> None:
        if prompts > 1 and not room:
            raise OneByOne
        self.room, self.steps, self.prompts = room, steps, prompts
        self.weights = {storage_of(tensor) for tensor in weights}
        self.calls = self.parts = True  # whether calls, and their blocks, are checkpointed
        self.undecided = room > 0

    def call(self, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """Call the denoiser's forward."""
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if self.undecided:
            self.decide(forward, *args, **kwargs)
        return self.checkpointed(self.calls, forward, *args, **kwargs)

    def part(self, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """Call the forward of a block."""
        return self.checkpointed(self.parts, forward, *args, **kwargs)

    def decide(self, forward: Forward, *args: Any, **kwargs: Any) -> None:
        """Count what a call stores, and compare it with the room.

        Raises:
            OneByOne: several prompts, and no room for all activations.
        """
        self.undecided = self.parts = False
        held = stored_bytes(lambda: forward(*args, **kwargs), self.weights)
        self.parts = held > self.room
        self.calls = held * CALLS * self.steps() > self.room
        if self.calls and self.prompts > 1:
            raise OneByOne

    @staticmethod
    def checkpointed(wanted: bool, forward: Forward, *args: Any, **kwargs: Any) -> Any:
        """Call a forward, checkpointed if wanted."""
        if not wanted:
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)


def stored_bytes(run: Callable[[], Any], weights: set[int]) -> int:
    """Return the bytes that a computation with gradients stores for its backward pass, at most.

    A tensor that several operators store is counted with each.

    Args:
        run: the computation; what it stores is dropped at once.
        weights: the storages that are not counted.
    """
    total = 0

    def count(tensor: Tensor) -> None:
        nonlocal total
        if storage_of(tensor) not in weights:
            total += tensor.numel() * tensor.element_size()

    with torch.autograd.graph.saved_tensors_hooks(count, not_stored):
        run()
    return total


def not_stored(_: Any) -> Tensor:
    """Refuse a backward pass: nothing was stored for it."""
    raise RuntimeError("expected no backward pass through a counted forward")


def storage_of(tensor: Tensor) -> int:
    """Return what identifies the memory of a tensor while it exists."""
    return tensor.untyped_storage()._cdata


def weights_of(model: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a model."""
    return [*model.parameters(), *model.buffers()]
