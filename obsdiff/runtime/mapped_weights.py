"""Pruned weights that wait on disk, so that a model larger than memory can be pruned.

A pipeline that is computed in its stored format has its weights memory-mapped: the system reads them when they are needed and
drops them again. What pruning changes would stay in memory; parked, it is mapped again, from a file of its own. So is a copy of
a module for which memory has no room.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .scratch import Scratch, disk_errors


def unmap_(model: nn.Module, layers: Iterable[str]) -> None:
    """Give the weights of these layers, on a CPU, memory of their own before they are changed: what is written into a mapped file's
    pages stays in memory for as long as any other weight of the file is in use."""
    for name in layers:
        weight = model.get_submodule(name).weight
        if weight.device.type == "cpu":
            weight.data = weight.data.clone()


def spill_(model: nn.Module, layers: Iterable[str], scratch: Scratch) -> None:
    """Move the weights of these layers, on a CPU, to files of the store and map them from there. Nothing of them changes."""
    for name in layers:
        weight = model.get_submodule(name).weight
        if weight.device.type == "cpu":
            weight.data = mapped(weight, scratch.file())


def mapped(tensor: Tensor, file: Path) -> Tensor:
    """The same numbers, in a file and mapped from there: at the beginning of a page, since where they lie in memory decides how products round."""
    with disk_errors(file):
        tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tofile(file)
    return torch.from_file(str(file), shared=False, size=tensor.numel(), dtype=tensor.dtype).view(
        tensor.shape
    )


@dataclass(frozen=True)
class DenseCopy:
    """A copy of a module, and what of the store its weights take: bytes, and the file if they lie in one."""

    module: nn.Module
    taken: list[tuple[int, Path | None]]

    @classmethod
    def of(cls, module: nn.Module, scratch: Scratch) -> "DenseCopy":
        """Weights on a CPU lie in memory as long as the store has room, then in files; others where they are."""
        memo, taken = {}, []
        for weight in module.parameters():
            size, file = weight.numel() * weight.element_size(), None
            if weight.device.type == "cpu":
                file = scratch.take(size)
                taken.append((size, file))
            data = mapped(weight, file) if file else weight.detach().clone()
            memo[id(weight)] = nn.Parameter(data, weight.requires_grad)
        return cls(copy.deepcopy(module, memo), taken)

    def give_back(self, scratch: Scratch) -> None:
        for size, file in self.taken:
            scratch.give_back(size, file)
