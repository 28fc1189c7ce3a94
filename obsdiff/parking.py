"""Pruned weights that wait on disk, so that a model larger than memory can be pruned.

A pipeline that is computed in its stored format has its weights memory-mapped: the system reads them when they are needed and
drops them again. What pruning changes would stay in memory; parked, it is mapped again, from a file of its own.
"""

from collections.abc import Iterable

from safetensors.torch import load_file, save_file
from torch import nn

from .store import Store, stopped_by_disk


def own_(model: nn.Module, layers: Iterable[str]) -> None:
    """Give the weights of these layers, on a CPU, memory of their own before they are changed: what is written into a mapped file's
    pages stays in memory for as long as any other weight of the file is in use."""
    for name in layers:
        weight = model.get_submodule(name).weight
        if weight.device.type == "cpu":
            weight.data = weight.data.clone()


def park_(model: nn.Module, layers: Iterable[str], store: Store) -> None:
    """Move the weights of these layers, on a CPU, to files of the store and map them from there. Nothing of them changes."""
    for name in layers:
        weight = model.get_submodule(name).weight
        if weight.device.type == "cpu":
            file = store.file()
            with stopped_by_disk(file):
                save_file({"weight": weight.detach().contiguous()}, file)
            weight.data = load_file(file)["weight"]
