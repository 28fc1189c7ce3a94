"""Candidates: the change of weights by pruning one tap or group alone, for all of them at once.

Each process sweeps its own; then every process has the changes of all. Those that exceed the memory
budget are memory-mapped files.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ..calibration.context import CalibrationContext
from ..models.linear_view import weight_of
from ..runtime.mapped_weights import mapped
from ..runtime.scratch import Scratch

Thing = TypeVar("Thing")
Change = dict[str, Tensor]  # layer -> D, in the shape and format of its weight
Sweep = Callable[[Thing], tuple[Any, Mapping[str, Tensor]]]


class Kept:
    """Changes of weights in memory, or beyond the budget in files.

    Args:
        scratch: the budget and the files.
    """

    def __init__(self, scratch: Scratch) -> None:
        self.scratch = scratch
        self.taken: list[tuple[int, Path | None]] = []  # bytes, and the file if there is one

    def keep(self, change: Tensor) -> Tensor:
        """Return a change, mapped from a file if it exceeds the budget."""
        if change.device.type != "cpu":
            return change
        size = change.numel() * change.element_size()
        file = self.scratch.take(size)
        self.taken.append((size, file))
        return mapped(change, file) if file else change

    def release(self) -> None:
        """Give memory and files back."""
        for size, file in self.taken:
            self.scratch.give_back(size, file)
        self.taken.clear()


@contextlib.contextmanager
def candidates(
    context: CalibrationContext,
    things: Mapping[str, Thing],
    owners: Mapping[str, int],
    sweep: Sweep[Thing],
) -> Iterator[tuple[dict[str, Any], dict[str, Change]]]:
    """Sweep taps or groups, and release what is kept of them at the end.

    Args:
        context: the model, the processes, and the storage.
        things: name -> tap or group.
        owners: name -> the process that sweeps it.
        sweep: returns its figures, which can be pickled, and the new weight (O, I) of its layers;
            none if it is not tried.

    Yields:
        name -> figures, and name -> change of those that are tried, in every process.
    """
    kept, ranks = Kept(context.scratch), context.ranks
    own: dict[str, Change] = {}
    figures: dict[str, Any] = {}
    try:
        for name, thing in things.items():
            if owners[name] == ranks.rank:
                figures[name], weights = sweep(thing)
                own[name] = {
                    layer: kept.keep(change_of(context, layer, weights[layer])) for layer in weights
                }
        figures = ranks.gather_dicts(figures)
        changes = own if ranks.size == 1 else shared(context, own, owners, kept)
        yield figures, {name: changes[name] for name in things if changes[name]}
    finally:
        kept.release()


def change_of(context: CalibrationContext, layer: str, weight: Tensor) -> Tensor:
    """Return how a new weight (O, I) of a layer differs from its own.

    It has the shape of that, and rests where that does: all changes are as large as the model.
    """
    own = weight_of(context.denoiser.get_submodule(layer)).detach()
    return (weight.view(own.shape) - own.to(weight)).to(own)


def shared(
    context: CalibrationContext, own: dict[str, Change], owners: Mapping[str, int], kept: Kept
) -> dict[str, Change]:
    """Return the changes of all processes."""
    ranks, found = context.ranks, {}
    device = next(context.denoiser.parameters()).device
    for name, owner in owners.items():
        change = own.get(name)
        received, _ = ranks.broadcast(change, None, owner, device)
        found[name] = (
            change
            if change is not None
            else {layer: kept.keep(tensor) for layer, tensor in received.items()}
        )
    return found
