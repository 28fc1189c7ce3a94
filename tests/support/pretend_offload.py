"""diffusers' group offloading on the pretend accelerator: parameters whose data cross devices."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from diffusers.hooks import group_offloading as library
from torch import Tensor, nn

from .hollow import read
from .pretend_gpu import PretendTensor


@contextlib.contextmanager
def group_offloading() -> Iterator[None]:
    """Let models be group-offloaded inside `pretend_gpu`."""
    apply = library._apply_group_offloading

    def applied(model: nn.Module, config: Any) -> None:
        rest_(model)
        apply(model, config)

    with (
        mock.patch.object(library, "_apply_group_offloading", applied),
        mock.patch.object(library.ModuleGroup, "_offload_to_memory", offloaded),
    ):
        yield


def rest_(model: nn.Module) -> None:
    """Replace the host's weights and buffers by tensors of the device that rest on the host."""
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = resting(tensor)


def resting(tensor: Tensor) -> Tensor:
    """Return a tensor of the device that rests on the host."""
    found: Tensor = PretendTensor(tensor.detach())
    if isinstance(tensor, nn.Parameter):
        found = nn.Parameter(found, tensor.requires_grad)
    found.data = read(tensor) if tensor.is_meta else tensor.detach()
    return found


def offloaded(group: library.ModuleGroup) -> None:
    """Move the data of a group's tensors to the host; `Module.to` would make new parameters."""
    inside = [t for m in group.modules for t in (*m.parameters(), *m.buffers())]
    for tensor in (*inside, *group.parameters, *group.buffers):
        tensor.data = tensor.data.to(torch.device("cpu"))
