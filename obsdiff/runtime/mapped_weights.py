"""Weights in memory-mapped files, for models larger than memory.

The weights of a pipeline that computes in its stored format are memory-mapped: the system reads
their pages on use and drops them again. Pruned weights are new memory, which can't be dropped, so
each is written to a file of its own and mapped from there. The same holds for the copy of a module
that exceeds the memory budget.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .scratch import Scratch, disk_errors


def unmap_(model: nn.Module, layers: Iterable[str]) -> None:
    """Copy the weights of some layers from mapped files into memory, before they are changed.

    A written page of a mapped file stays in memory as long as any other weight of the file is used.

    Args:
        model: the model that is changed; weights on other devices than the CPU are skipped.
        layers: names of the layers.
    """
    for name in layers:
        weight = weight_at(model, name)
        if weight.device.type == "cpu":
            weight.data = weight.data.clone()


def spill_(model: nn.Module, layers: Iterable[str], scratch: Scratch) -> None:
    """Move the weights of some layers to scratch files and map them from there, unchanged.

    Args:
        model: the model that is changed; weights on other devices than the CPU are skipped.
        layers: names of the layers.
        scratch: the storage of the files.
    """
    for name in layers:
        weight = weight_at(model, name)
        if weight.device.type == "cpu":
            weight.data = mapped(weight, scratch.file())


def weight_at(model: nn.Module, layer: str) -> Tensor:
    """Return the weight of a layer."""
    weight = model.get_submodule(layer).weight
    assert isinstance(weight, Tensor)  # every prunable layer has one
    return weight


def mapped(tensor: Tensor, file: Path) -> Tensor:
    """Write a tensor to a file and return it mapped from there, with its dtype and shape.

    The data begins at a page boundary, because the alignment decides how products round.

    Raises:
        RunStopped: the file can't be written.
    """
    with disk_errors(file):
        flat = tensor.detach().contiguous().flatten()
        flat.view(torch.uint8).numpy().tofile(file)
    return torch.from_file(str(file), shared=False, size=tensor.numel(), dtype=tensor.dtype).view(
        tensor.shape
    )


@dataclass(frozen=True)
class DenseCopy:
    """A copy of a module, with its weights in memory or in scratch files.

    Attributes:
        module: the copy.
        taken: bytes of each CPU weight, and its file; None for a weight in memory.
    """

    module: nn.Module
    taken: list[tuple[int, Path | None]]

    @classmethod
    def of(cls, module: nn.Module, scratch: Scratch) -> "DenseCopy":
        """Copy a module: CPU weights into memory up to the scratch budget, then into files.

        Args:
            module: the module; weights on other devices are copied there.
            scratch: the storage and its memory budget.
        """
        memo: dict[int, nn.Parameter] = {}
        taken: list[tuple[int, Path | None]] = []
        for weight in module.parameters():
            size, file = weight.numel() * weight.element_size(), None
            if weight.device.type == "cpu":
                file = scratch.take(size)
                taken.append((size, file))
            data = mapped(weight, file) if file else weight.detach().clone()
            memo[id(weight)] = nn.Parameter(data, weight.requires_grad)
        return cls(copy.deepcopy(module, memo), taken)

    def give_back(self, scratch: Scratch) -> None:
        """Release the memory and the files of the copy."""
        for size, file in self.taken:
            scratch.give_back(size, file)
